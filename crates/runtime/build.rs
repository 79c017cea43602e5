//! Embeds the guest's initial file system, which `cargo xtask build` makes first.
//!
//! Without it the crate still builds (for editors and unit tests); such a build says at run time
//! that it has no agent and how to get one.

use std::{env, fmt::Write as _, fs, path::PathBuf};

use sha2::{Digest, Sha256};

fn main() {
    println!("cargo::rerun-if-env-changed=COFFER_INITRAMFS");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let content = env::var_os("COFFER_INITRAMFS").map_or_else(Vec::new, |path| {
        println!("cargo::rerun-if-changed={}", path.display());
        fs::read(&path).expect("COFFER_INITRAMFS names a file")
    });
    let digest = Sha256::digest(&content)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String works");
            text
        });
    fs::write(out.join("initramfs.cpio"), &content).expect("OUT_DIR is writable");
    println!("cargo::rustc-env=COFFER_INITRAMFS_SHA256={digest}");
}
