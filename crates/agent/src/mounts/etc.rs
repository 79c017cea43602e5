//! The files of `/etc` that belong to the machine and not to the image.
//!
//! They live on a small tmpfs and are bound over the image's, so that the image's own stay as they
//! are, a read-only root has them too, and a fork changes them in place.

use std::{fs, os::fd::OwnedFd};

use cofferdam_proto::FailureKind;
use rustix::{
    fs::{Mode, OFlags, openat},
    io::{read, write},
    mount::mount_bind,
};

use super::{STRICT, mount_on, open_directory, resolve, through};
use crate::{
    failure::{OrFail, Result},
    identity::Names,
    log,
};

const SOURCE: &str = "/etc";

/// Longest file that is compared with what the agent wrote; a user's may be anything.
const COMPARED_BYTES: usize = 4096;

/// The machine's files.
#[derive(Debug)]
pub(crate) struct Etc {
    directory: OwnedFd,
    written: [(&'static str, String); 4],
}

impl Etc {
    /// Writes the files.
    pub(super) fn prepare(names: &Names) -> Result<Self> {
        fs::create_dir_all(SOURCE).or_fail(FailureKind::Mount, || "Could not make `/etc`")?;
        mount_on(SOURCE, "tmpfs", STRICT, "mode=755,size=1m")?;
        let directory = open_directory(SOURCE)?;
        let written = contents(names);
        for (name, content) in &written {
            put(&directory, name, content).or_fail(FailureKind::Mount, || {
                format!("Could not write `/etc/{name}`")
            })?;
        }
        Ok(Self { directory, written })
    }

    /// Binds the files over those of `root`, whose missing ones are made.
    pub(super) fn bind(&self, root: &OwnedFd) -> Result<()> {
        for (name, _) in &self.written {
            let failed = || format!("Could not mount `/etc/{name}`");
            let target = resolve::ensure(root, &format!("/etc/{name}"), resolve::Kind::File)
                .or_fail(FailureKind::Mount, failed)?;
            mount_bind(format!("{SOURCE}/{name}"), through(&target))
                .or_fail(FailureKind::Mount, failed)?;
        }
        Ok(())
    }

    /// Writes the files anew for another identity; one that the workload has changed is its own.
    pub(crate) fn rename(&mut self, names: &Names) -> Result<()> {
        for ((name, old), (_, new)) in self.written.iter_mut().zip(contents(names)) {
            if *old == new {
                continue;
            }
            let failed = || format!("Could not write `/etc/{name}`");
            if get(&self.directory, name).or_fail(FailureKind::Identity, failed)? == old.as_bytes()
            {
                put(&self.directory, name, &new).or_fail(FailureKind::Identity, failed)?;
            } else {
                log::error(&format!("`/etc/{name}` is left as the workload changed it"));
            }
            *old = new;
        }
        Ok(())
    }
}

fn contents(names: &Names) -> [(&'static str, String); 4] {
    let hostname = &names.hostname;
    let hosts = format!(
        "127.0.0.1\tlocalhost\n\
         127.0.1.1\t{hostname}\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n"
    );
    [
        ("hostname", format!("{hostname}\n")),
        ("hosts", hosts),
        // There is no network, so there is no server to name.
        ("resolv.conf", String::new()),
        ("machine-id", format!("{}\n", names.machine_id)),
    ]
}

/// In place: the file that is bound must stay the same one.
fn put(directory: &OwnedFd, name: &str, content: &str) -> rustix::io::Result<()> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::from_raw_mode(0o644))?;
    let mut rest = content.as_bytes();
    while !rest.is_empty() {
        let written = write(&file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn get(directory: &OwnedFd, name: &str) -> rustix::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    let mut content = vec![0; COMPARED_BYTES];
    let read = read(&file, content.as_mut_slice())?;
    content.truncate(read);
    Ok(content)
}
