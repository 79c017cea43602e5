//! `kernel`: the guest's `vmlinux`, from Debian's kernel source and the fragments in `kernel/`.
//!
//! Called by the verb and by `build`. A kernel is named by the hash of all that it is made from,
//! and built at most once per name on a machine: see [`cache`]. docs/kernel.md has the reasons.

mod cache;
mod compile;
mod config;
mod source;

use std::{ffi::OsString, fs, io, path::Path, time::Instant};

use anyhow::{Context, Result};

use crate::{
    args::Args,
    workspace::{self, Profile},
};
use cache::Entry;
use config::Fragments;

/// Name of the kernel beside the program. The runtime crate looks for it there.
pub(crate) const FILE_NAME: &str = "coffer-vmlinux";

/// Runs the verb.
///
/// # Errors
/// When the kernel cannot be built.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    Args::parse(args, &[])?;
    ensure(&Profile::ALL)?;
    for profile in Profile::ALL {
        println!("{}", profile.dir().join(FILE_NAME).display());
    }
    Ok(())
}

/// Puts the kernel beside the programs of `profiles`, building it if no cache has it.
///
/// # Errors
/// When it cannot be built or placed.
pub(crate) fn ensure(profiles: &[Profile]) -> Result<()> {
    let fragments = Fragments::read(&workspace::root().join("kernel"))?;
    source::ensure_tools()?;
    let entry = Entry::new(&fragments, &source::version()?, &compile::compiler()?)?;
    if !entry.is_present() {
        let _lock = entry.lock()?;
        // Another process may have built it while we waited.
        if !entry.is_present() {
            make(&fragments, &entry)?;
        }
    }
    for profile in profiles {
        place(&entry.kernel(), &profile.dir())?;
    }
    Ok(())
}

fn make(fragments: &Fragments, entry: &Entry) -> Result<()> {
    let start = Instant::now();
    let tree = entry.fresh_build_dir()?;
    println!("Unpacking the kernel source");
    source::unpack(&tree)?;
    println!("Configuring the kernel");
    compile::configure(&tree, fragments)?;
    let kernel = compile::build(&tree, &entry.log())?;
    entry.publish(&kernel)?;
    fs::remove_dir_all(&tree).with_context(|| format!("Could not remove `{}`", tree.display()))?;
    println!("Built the kernel in {} s", start.elapsed().as_secs());
    Ok(())
}

/// Links `kernel` into `directory`, or copies it when that is another file system.
fn place(kernel: &Path, directory: &Path) -> Result<()> {
    let there = directory.join(FILE_NAME);
    if is_same(kernel, &there)? {
        return Ok(());
    }
    let context = || format!("Could not put the kernel at `{}`", there.display());
    fs::create_dir_all(directory).with_context(context)?;
    let staging = directory.join(format!(".tmp-{}-{FILE_NAME}", std::process::id()));
    fs::hard_link(kernel, &staging)
        .or_else(|_| fs::copy(kernel, &staging).map(drop))
        .and_then(|()| fs::rename(&staging, &there))
        .with_context(context)?;
    // Renaming one name of a file onto another name of it does nothing and leaves both.
    match fs::remove_file(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(context),
        _ => Ok(()),
    }
}

/// Whether two paths have the same content, read only if the sizes agree.
fn is_same(one: &Path, other: &Path) -> Result<bool> {
    let Ok(there) = fs::metadata(other) else {
        return Ok(false);
    };
    let here = fs::metadata(one).with_context(|| format!("Could not read `{}`", one.display()))?;
    if here.len() != there.len() {
        return Ok(false);
    }
    let read = |path: &Path| {
        fs::read(path).with_context(|| format!("Could not read `{}`", path.display()))
    };
    Ok(read(one)? == read(other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placing_replaces_an_older_kernel_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, target) = (dir.path().join("vmlinux"), dir.path().join("target"));
        fs::write(&cache, b"new").unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join(FILE_NAME), b"old one").unwrap();
        place(&cache, &target).unwrap();
        place(&cache, &target).unwrap();
        assert_eq!(fs::read(target.join(FILE_NAME)).unwrap(), b"new");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
    }
}
