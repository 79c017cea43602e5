//! `dist`: a tarball that runs on another machine, as any user, by unpacking it.

mod bare;

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, Header};

use crate::{
    args::Args,
    build, kernel, process,
    workspace::{self, Profile},
};

/// Libraries of glibc and of its compiler, which every glibc system has.
const BASIC_LIBRARIES: &[&str] = &[
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "linux-vdso.so.1",
];

/// Runs the verb. With `--check` the tarball is used in a bare Debian of another release, with
/// `--no-build` it has the program that is built already, `COFFER_PROGRAM` or the release's.
///
/// # Errors
/// When the build fails, the program needs more than glibc, the tarball cannot be written, or it
/// does not work in the bare Debian.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let args = Args::parse(args, &["--check", "--no-build"])?;
    let program = if args.has("--no-build") {
        env::var_os("COFFER_PROGRAM")
            .map_or_else(|| Profile::Release.dir().join("coffer"), PathBuf::from)
    } else {
        build::build(Profile::Release)?
    };
    let answer = process::capture(Command::new("ldd").arg(&program))?;
    let foreign = foreign_libraries(&answer);
    if !foreign.is_empty() {
        bail!(
            "`coffer` needs libraries that other machines may lack: {}",
            foreign.join(", ")
        );
    }
    let path = write(&program)?;
    println!("{}", path.display());
    if args.has("--check") {
        bare::check(&path)?;
    }
    Ok(())
}

/// Downloads what `dist --check` needs.
///
/// # Errors
/// When it cannot be had.
pub(crate) fn prepare() -> Result<()> {
    bare::root().map(drop)
}

fn write(program: &Path) -> Result<PathBuf> {
    let root = workspace::root();
    let name = format!("cofferdam-{}-linux-amd64", env!("CARGO_PKG_VERSION"));
    let directory = root.join("dist");
    let path = directory.join(format!("{name}.tar.gz"));
    let context = || format!("Could not write `{}`", path.display());
    fs::create_dir_all(&directory).with_context(context)?;
    let staging = directory.join(format!(".tmp-{name}.tar.gz"));
    let out = File::create(&staging).with_context(context)?;
    let mut archive = Builder::new(GzEncoder::new(out, Compression::default()));
    for (file, source, mode) in [
        ("coffer", program.to_owned(), 0o755),
        (
            kernel::FILE_NAME,
            program.with_file_name(kernel::FILE_NAME),
            0o644,
        ),
        ("LICENSE", root.join("LICENSE"), 0o644),
        ("README.md", root.join("README.md"), 0o644),
    ] {
        let content =
            fs::read(&source).with_context(|| format!("Could not read `{}`", source.display()))?;
        let mut header = Header::new_gnu();
        header.set_mode(mode);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, format!("{name}/{file}"), content.as_slice())
            .with_context(context)?;
    }
    archive
        .into_inner()
        .and_then(GzEncoder::finish)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&staging, &path))
        .with_context(context)?;
    Ok(path)
}

/// The libraries in the answer of `ldd` that are not basic.
fn foreign_libraries(answer: &str) -> Vec<&str> {
    answer
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|library| library.rsplit('/').next().unwrap_or(library))
        .filter(|library| !BASIC_LIBRARIES.contains(library) && *library != "statically")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libraries_beyond_glibc_are_foreign() {
        let answer = "\tlinux-vdso.so.1 (0x1)\n\tlibsqlite3.so.0 => /lib/libsqlite3.so.0 (0x2)\n\
                      \tlibc.so.6 => /lib/libc.so.6 (0x3)\n\t/lib64/ld-linux-x86-64.so.2 (0x4)\n";
        assert_eq!(foreign_libraries(answer), ["libsqlite3.so.0"]);
    }
}
