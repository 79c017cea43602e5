//! The certificate of the sandbox's own authority, where programs look for those that they trust.
//!
//! The proxy of the sandbox's secrets answers with certificates of this authority. The certificate
//! goes to three places:
//!
//! - two files beside the generation file, which the environment of processes names. They work
//!   with a read-only root, and in an image without any trust store;
//! - the bundles of the image that are there. A block with marks stands at the end, so the next
//!   start replaces the certificate of the last one;
//! - the directories from which the image's own tools make the bundles, so that an update keeps it.
//!
//! The image is hostile: paths are resolved in its root, and a bundle is read up to a limit.
//!
//! *Source:* update-ca-certificates(8), update-ca-trust(8); `X509_LOOKUP_hash_dir(3)` of OpenSSL
//! for names by hash.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::OwnedFd,
};

use cofferdam_proto::{FailureKind, TRUST_BUNDLE, TRUST_CERTIFICATE};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};

use super::{Root, resolve};
use crate::{
    failure::{OrFail, Result},
    log,
};

/// Bundles of Debian, Alpine and Arch; Fedora; SUSE; and where some programs look besides.
const BUNDLES: [&str; 5] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/cert.pem",
];

/// Directories from which tools make bundles, and one that OpenSSL searches, with the name of the
/// certificate there. The last is the hash of the authority's subject, which never changes.
const DIRECTORIES: [(&str, &str); 3] = [
    ("usr/local/share/ca-certificates", "coffer-sandbox.crt"),
    ("etc/pki/ca-trust/source/anchors", "coffer-sandbox.pem"),
    ("etc/ssl/certs", "1e564bd4.0"),
];

/// Largest bundle that is read, in bytes; Debian's has 220 KiB.
const MAX_BUNDLE_BYTES: u64 = 8 << 20;

const BEGIN: &str = "# Begin of the authority of this sandbox (coffer)\n";
const END: &str = "# End of the authority of this sandbox (coffer)\n";

/// Writes the certificate and a bundle into `directory`, which processes see read-only. The bundle
/// has the certificates of the image too.
pub(crate) fn write_own(directory: &OwnedFd, root: Option<&Root>, certificate: &str) -> Result<()> {
    let read = |path: &&str| read_bundle(&root?.directory, path).ok();
    let image = BUNDLES.iter().find_map(read).unwrap_or_default();
    let files = [
        (TRUST_CERTIFICATE, certificate.as_bytes().to_vec()),
        (TRUST_BUNDLE, with_block(&image, certificate)),
    ];
    for (path, content) in files {
        let name = path.rsplit('/').next().unwrap_or(path);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        openat(directory, name, flags, Mode::from_raw_mode(0o444))
            .map_err(io::Error::from)
            .and_then(|file| File::from(file).write_all(&content))
            .or_fail(FailureKind::Mount, || format!("Could not write `{path}`"))?;
    }
    Ok(())
}

/// Adds the certificate to the trust stores of the image. One that cannot be written is left as it
/// is: the environment names a bundle of our own.
pub(crate) fn install(root: &Root, certificate: &str) {
    let report = |path: &str, error: &io::Error| {
        log::notice(&format!(
            "`/{path}` does not have the sandbox's authority: {error}"
        ));
    };
    for path in BUNDLES {
        match add_to_bundle(&root.directory, path, certificate) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => report(path, &error),
            _ => {}
        }
    }
    for (directory, name) in DIRECTORIES {
        match add_to_directory(&root.directory, directory, name, certificate) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => report(directory, &error),
            _ => {}
        }
    }
}

fn add_to_bundle(root: &OwnedFd, path: &str, certificate: &str) -> io::Result<()> {
    let old = read_bundle(root, path)?;
    let new = with_block(&old, certificate);
    if new == old {
        return Ok(());
    }
    let mut file = File::from(resolve::open(root, path, OFlags::RDWR | OFlags::NONBLOCK)?);
    file.rewind()?;
    file.write_all(&new)?;
    file.set_len(u64::try_from(new.len()).unwrap_or_default())
}

fn add_to_directory(root: &OwnedFd, path: &str, name: &str, certificate: &str) -> io::Result<()> {
    let directory = resolve::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(
        &directory,
        name,
        flags | OFlags::NONBLOCK,
        Mode::from_raw_mode(0o644),
    )?;
    File::from(file).write_all(certificate.as_bytes())
}

/// A regular file of the image, up to the limit.
fn read_bundle(root: &OwnedFd, path: &str) -> io::Result<Vec<u8>> {
    // A pipe would block without `NONBLOCK`.
    let file = resolve::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = Vec::new();
    let read = File::from(file)
        .take(MAX_BUNDLE_BYTES + 1)
        .read_to_end(&mut content)?;
    if u64::try_from(read).is_ok_and(|read| read > MAX_BUNDLE_BYTES) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// A bundle with the block of this certificate in the place of an earlier one.
fn with_block(bundle: &[u8], certificate: &str) -> Vec<u8> {
    let mut new = without_block(bundle);
    if new.last().is_some_and(|last| *last != b'\n') {
        new.push(b'\n');
    }
    for text in [BEGIN, certificate, END] {
        new.extend_from_slice(text.as_bytes());
    }
    new
}

fn without_block(bundle: &[u8]) -> Vec<u8> {
    let find = |bytes: &[u8], what: &str| {
        let mut windows = bytes.windows(what.len());
        windows.position(|window| window == what.as_bytes())
    };
    let Some(begin) = find(bundle, BEGIN) else {
        return bundle.to_vec();
    };
    let (before, rest) = bundle.split_at(begin);
    let after = find(rest, END).map_or(rest.len(), |at| at + END.len());
    [before, rest.get(after..).unwrap_or_default()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_added_once_and_replaced_by_the_next() {
        let first = with_block(b"image", "one\n");
        assert_eq!(first, format!("image\n{BEGIN}one\n{END}").as_bytes());
        assert_eq!(with_block(&first, "one\n"), first);
        let more = [first.as_slice(), b"added later\n"].concat();
        let second = format!("image\nadded later\n{BEGIN}two\n{END}");
        assert_eq!(with_block(&more, "two\n"), second.as_bytes());
        assert_eq!(
            with_block(b"", "one\n"),
            format!("{BEGIN}one\n{END}").as_bytes()
        );
    }

    #[test]
    fn a_block_without_its_end_is_cut_off() {
        let broken = format!("image\n{BEGIN}one");
        assert_eq!(without_block(broken.as_bytes()), b"image\n");
    }
}
