//! Built kernels, one directory each, named by the hash of all that they are made from.
//!
//! Lock: one file per entry, held while building, so that two processes that want the same kernel
//! build it once. An entry's `vmlinux` appears by rename and is whole from then on.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::config::Fragments;

/// Counts changes of the way kernels are built that the other inputs of the key do not show.
const RECIPE: &str = "1";

/// How many hex digits of the hash name an entry; a clash needs 2^32 kernels.
const KEY_DIGITS: usize = 16;

/// One kernel's place in the cache.
#[derive(Debug)]
pub(crate) struct Entry {
    directory: PathBuf,
}

impl Entry {
    /// The place of the kernel made from these, in `COFFER_KERNEL_CACHE` or below the user's
    /// cache directory.
    ///
    /// # Errors
    /// When there is no cache directory, or none can be made.
    pub(crate) fn new(fragments: &Fragments, source: &str, compiler: &str) -> Result<Self> {
        Self::below(&root()?, &key(fragments, source, compiler))
    }

    fn below(root: &Path, key: &str) -> Result<Self> {
        let directory = root.join(key);
        fs::create_dir_all(&directory)
            .with_context(|| format!("Could not make `{}`", directory.display()))?;
        Ok(Self { directory })
    }

    /// The kernel's path.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// Where the build's output goes.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("build.log")
    }

    /// Whether the kernel is there.
    pub(crate) fn is_present(&self) -> bool {
        self.kernel().is_file()
    }

    /// Takes the right to build this entry; freed when dropped.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    ///
    /// # Blocking
    /// While another process builds it.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.directory.join("lock");
        let context = || format!("Could not lock `{}`", path.display());
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(context)?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                println!("Waiting for another process that builds this kernel");
            }
            Err(fs::TryLockError::Error(error)) => return Err(error).with_context(context),
        }
        file.lock().with_context(context)?;
        Ok(file)
    }

    /// An absent directory to build in; one of a killed build is removed. Needs the lock.
    ///
    /// # Errors
    /// When the old one, or the old log, cannot be removed.
    pub(crate) fn fresh_build_dir(&self) -> Result<PathBuf> {
        let directory = self.directory.join("build");
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("Could not remove `{}`", directory.display()))?;
        }
        if self.log().exists() {
            fs::remove_file(self.log()).context("Could not remove the old build log")?;
        }
        Ok(directory)
    }

    /// Puts `built` in place.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub(crate) fn publish(&self, built: &Path) -> Result<()> {
        let staging = self.directory.join(format!(".tmp-{}", process::id()));
        fs::copy(built, &staging)
            .and_then(|_| File::open(&staging)?.sync_all())
            .and_then(|()| fs::rename(&staging, self.kernel()))
            .with_context(|| format!("Could not publish `{}`", self.kernel().display()))
    }
}

/// The cache's directory. Source: XDG base directory specification.
fn root() -> Result<PathBuf> {
    let var = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(root) = var("COFFER_KERNEL_CACHE") {
        return std::path::absolute(&root).context("Could not resolve `COFFER_KERNEL_CACHE`");
    }
    let cache = var("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(var("HOME")?.join(".cache")));
    match cache {
        Some(cache) => Ok(cache.join("cofferdam/kernel")),
        None => bail!("Neither `COFFER_KERNEL_CACHE` nor `HOME` is set"),
    }
}

fn key(fragments: &Fragments, source: &str, compiler: &str) -> String {
    let mut hasher = Sha256::new();
    for part in [RECIPE, &fragments.text(), source, compiler] {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    let hash = hasher.finalize();
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    hex[..KEY_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_changes_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| {
            fs::write(dir.path().join("a.config"), text).unwrap();
            Fragments::read(dir.path()).unwrap()
        };
        let one = write("CONFIG_A=y\n");
        let other = write("CONFIG_A=n\n");
        let keys = [
            key(&one, "6.12.1", "gcc 12"),
            key(&other, "6.12.1", "gcc 12"),
            key(&one, "6.12.2", "gcc 12"),
            key(&one, "6.12.1", "gcc 13"),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(keys[0], key(&one, "6.12.1", "gcc 12"));
    }

    #[test]
    fn an_entry_is_present_only_after_it_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry::below(dir.path(), "key").unwrap();
        let build = entry.fresh_build_dir().unwrap();
        fs::create_dir(&build).unwrap();
        fs::write(build.join("vmlinux"), b"kernel").unwrap();
        assert!(!entry.is_present());
        entry.publish(&build.join("vmlinux")).unwrap();
        assert!(entry.is_present());
        assert_eq!(fs::read(entry.kernel()).unwrap(), b"kernel");
    }

    #[test]
    fn what_a_killed_build_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry::below(dir.path(), "key").unwrap();
        fs::create_dir(entry.fresh_build_dir().unwrap()).unwrap();
        fs::write(entry.log(), b"old").unwrap();
        assert!(!entry.fresh_build_dir().unwrap().exists());
        assert!(!entry.log().exists());
    }
}
