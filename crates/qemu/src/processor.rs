//! What a guest of KVM sees of the host's processor.
//!
//! Only what a guest's state depends on: a microcode update, or another build of the same kernel,
//! changes nothing of that.

use std::fs;

use cofferdam_backend::{Error, ErrorKind, Result};
use cofferdam_types::Digest;
use sha2::{Digest as _, Sha256};

/// Hexadecimal digits of the features' digest that are shown: enough to tell hosts apart.
const DIGITS: usize = 16;

/// The host's processor as parts of a compatibility key: model, features, and the kernel whose KVM
/// adds features of its own, by its first two numbers.
///
/// # Errors
/// When `/proc/cpuinfo` cannot be read.
pub(crate) fn of_host() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo").map_err(|error| {
        Error::new(
            ErrorKind::Io,
            "Could not read the model of the host's processor",
        )
        .because(error)
    })?;
    let uname = rustix::system::uname();
    Ok(parts(&text, &uname.release().to_string_lossy()))
}

/// The parts of a `/proc/cpuinfo`, of whose blocks the first is looked at, and a kernel's release.
fn parts(cpuinfo: &str, release: &str) -> String {
    let field = |name: &str| {
        let lines = cpuinfo.lines().take_while(|line| !line.is_empty());
        let mut fields = lines.filter_map(|line| line.split_once(':'));
        let found = fields.find(|(field, _)| field.trim() == name);
        found.map_or("", |(_, value)| value.trim())
    };
    let mut features: Vec<&str> = field("flags").split_whitespace().collect();
    features.sort_unstable();
    let digest = Digest::from_sha256(Sha256::digest(features.join(" ")).into()).hex();
    let kernel: Vec<&str> = release.split('.').take(2).collect();
    format!(
        "model {} {} {} {} ({}); features {}; KVM of Linux {}",
        field("vendor_id"),
        field("cpu family"),
        field("model"),
        field("stepping"),
        field("model name").replace(';', ","),
        digest.get(..DIGITS).unwrap_or_default(),
        kernel.join(".")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuinfo(model: &str, flags: &str, microcode: &str) -> String {
        format!(
            "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: {model}\n\
             model name\t: AMD EPYC\nstepping\t: 1\nmicrocode\t: {microcode}\nflags\t\t: {flags}\n\n\
             processor\t: 1\nmodel\t\t: 99\n"
        )
    }

    #[test]
    fn a_guest_can_go_on_where_model_features_and_kvm_are_the_same() {
        let one = parts(&cpuinfo("1", "fpu sse avx", "0x1"), "6.12.41-1-amd64");
        let same = parts(&cpuinfo("1", "avx fpu sse", "0x2"), "6.12.9-2-cloud");
        assert_eq!(one, same);
        assert!(one.starts_with("model AuthenticAMD 25 1 1 (AMD EPYC); features "));
        assert!(one.ends_with("; KVM of Linux 6.12"), "{one}");
        for other in [
            parts(&cpuinfo("2", "fpu sse avx", "0x1"), "6.12.41"),
            parts(&cpuinfo("1", "fpu sse", "0x1"), "6.12.41"),
            parts(&cpuinfo("1", "fpu sse avx", "0x1"), "6.1.0"),
        ] {
            assert_ne!(one, other);
        }
    }
}
