//! The files of `/etc` that belong to the machine and not to the image.
//!
//! They live on a small tmpfs and are bound over the image's, so that the image's own stay as they
//! are, a read-only root has them too, and a fork changes them in place.

use std::{fs, os::fd::OwnedFd};

use cofferdam_proto::FailureKind;
use rustix::{
    fs::{Mode, OFlags, ftruncate, open},
    io::{pread, pwrite},
    mount::mount_bind,
};

use super::{STRICT, mount_on, resolve, through};
use crate::{
    failure::{OrFail, Result},
    identity::Names,
    log,
};

const SOURCE: &str = "/etc";

/// The machine's files.
#[derive(Debug)]
pub(crate) struct Etc {
    files: Vec<EtcFile>,
}

/// One file, kept open: the one that is bound must stay the same, and a fork renames in a hurry.
#[derive(Debug)]
struct EtcFile {
    name: &'static str,
    file: OwnedFd,
    written: String,
}

impl Etc {
    /// Writes the files.
    pub(super) fn prepare(names: &Names) -> Result<Self> {
        fs::create_dir_all(SOURCE).or_fail(FailureKind::Mount, || "Could not make `/etc`")?;
        mount_on(SOURCE, "tmpfs", STRICT, "mode=755,size=1m")?;
        let make = |(name, written): (&'static str, String)| {
            let failed = || format!("Could not write `/etc/{name}`");
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = open(
                format!("{SOURCE}/{name}"),
                flags,
                Mode::from_raw_mode(0o644),
            )
            .or_fail(FailureKind::Mount, failed)?;
            put(&file, &written).or_fail(FailureKind::Mount, failed)?;
            Ok(EtcFile {
                name,
                file,
                written,
            })
        };
        let files = contents(names)
            .into_iter()
            .map(make)
            .collect::<Result<_>>()?;
        Ok(Self { files })
    }

    /// Binds the files over those of `root`, whose missing ones are made.
    pub(super) fn bind(&self, root: &OwnedFd) -> Result<()> {
        for EtcFile { name, .. } in &self.files {
            let failed = || format!("Could not mount `/etc/{name}`");
            let target = resolve::ensure(root, &format!("/etc/{name}"), resolve::Kind::File)
                .or_fail(FailureKind::Mount, failed)?;
            mount_bind(format!("{SOURCE}/{name}"), through(&target))
                .or_fail(FailureKind::Mount, failed)?;
        }
        Ok(())
    }

    /// Writes the files anew for another identity; one that somebody has changed is his own.
    /// `untouched` when nobody was there who could have.
    pub(crate) fn rename(&mut self, names: &Names, untouched: bool) -> Result<()> {
        for (old, (name, new)) in self.files.iter_mut().zip(contents(names)) {
            if old.written == new {
                continue;
            }
            let failed = || format!("Could not write `/etc/{name}`");
            let ours = untouched
                || get(&old.file, old.written.len()).or_fail(FailureKind::Identity, failed)?
                    == old.written.as_bytes();
            if ours {
                put(&old.file, &new).or_fail(FailureKind::Identity, failed)?;
                if new.len() < old.written.len() {
                    cut(&old.file, &new).or_fail(FailureKind::Identity, failed)?;
                }
            } else {
                log::notice(&format!("`/etc/{name}` is left as the workload changed it"));
            }
            old.written = new;
        }
        Ok(())
    }
}

fn contents(names: &Names) -> [(&'static str, String); 4] {
    let network = names.network.as_ref();
    let resolvers = network.map(|network| network.resolvers.clone());
    [
        ("hostname", format!("{}\n", names.hostname)),
        ("hosts", hosts(names)),
        // Empty without a network, as there is no server to name.
        ("resolv.conf", resolvers.unwrap_or_default()),
        ("machine-id", format!("{}\n", names.machine_id)),
    ]
}

/// `/etc/hosts`: the host name is that of the first address, so that others can use what a
/// program finds there. Source: hosts(5).
fn hosts(names: &Names) -> String {
    let network = names.network.as_ref();
    let own = network.and_then(|network| network.own_address.as_deref());
    [
        "127.0.0.1\tlocalhost\n",
        own.unwrap_or("127.0.1.1"),
        "\t",
        &names.hostname,
        "\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
        network.map_or("", |network| &network.hosts),
    ]
    .concat()
}

/// In place, and never empty for a reader.
pub(super) fn put(file: &OwnedFd, content: &str) -> rustix::io::Result<()> {
    let mut rest = content.as_bytes();
    let mut at = 0;
    while !rest.is_empty() {
        let written = pwrite(file, rest, at)?;
        rest = rest.get(written..).unwrap_or_default();
        at += u64::try_from(written).unwrap_or_default();
    }
    Ok(())
}

/// Takes off what is longer than `content`.
pub(super) fn cut(file: &OwnedFd, content: &str) -> rustix::io::Result<()> {
    ftruncate(file, u64::try_from(content.len()).unwrap_or_default())
}

/// The content, as far as it takes to tell whether it is one of `length` bytes; a user's may be
/// anything.
fn get(file: &OwnedFd, length: usize) -> rustix::io::Result<Vec<u8>> {
    let mut content = vec![0; length + 1];
    let read = pread(file, content.as_mut_slice(), 0)?;
    content.truncate(read);
    Ok(content)
}
