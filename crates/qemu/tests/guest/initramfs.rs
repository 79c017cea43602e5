//! The contract's guest as an initramfs: built once for each version of its source.
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst ("newc"); rustc(1).

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    process::Command,
};

const SOURCE: &str = include_str!("program.rs");

/// The archive's path.
pub(crate) fn build() -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    SOURCE.hash(&mut hasher);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let archive = dir.join(format!("contract-guest-{:016x}.cpio", hasher.finish()));
    if archive.exists() {
        return Ok(archive);
    }
    // Tests are processes of their own; whoever is last replaces the same by the same.
    let scratch = tempfile::tempdir_in(dir)?;
    let program = scratch.path().join("init");
    compile(&program)?;
    let whole = scratch.path().join("cpio");
    fs::write(&whole, pack(&fs::read(&program)?))?;
    fs::rename(&whole, &archive)?;
    Ok(archive)
}

fn compile(program: &Path) -> io::Result<()> {
    let source = program.with_extension("rs");
    fs::write(&source, SOURCE)?;
    let output = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"))
        .args(["--edition", "2024", "--crate-name", "guest", "-O"])
        .args(["-C", "target-feature=+crt-static"])
        .args(["-C", "relocation-model=static"])
        .args(["-C", "strip=symbols", "-C", "panic=abort", "-o"])
        .args([program, &source])
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(said))
}

fn pack(init: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    entry(&mut out, "dev", 0o040_755, &[]);
    entry(&mut out, "sys", 0o040_755, &[]);
    entry(&mut out, "init", 0o100_755, init);
    entry(&mut out, "TRAILER!!!", 0, &[]);
    out
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let size = u32::try_from(data.len()).unwrap();
    let name_size = u32::try_from(name.len() + 1).unwrap();
    out.extend_from_slice(b"070701");
    // inode, mode, uid, gid, links, mtime, size, device and rdev numbers, length of name, checksum
    for field in [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    for part in [&[name.as_bytes(), &[0]].concat(), data] {
        out.extend_from_slice(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}
