//! The members of a network as the stack of a member reads them.

use std::{
    fs as std_fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use cofferdam_base::fs;
use cofferdam_net::{Directory, Member};

use super::{MAX_MEMBERS_BYTES, Members};

/// Identity and time of a file's content: each change is another file.
type Version = (u64, i64, i64);

/// `members.json`, read again when it has changed.
#[derive(Debug)]
pub(crate) struct MembersFile {
    path: PathBuf,
    read: Mutex<(Option<Version>, Arc<[Member]>)>,
}

impl MembersFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: Mutex::new((None, Arc::new([]))),
        }
    }

    fn load(&self) -> Arc<[Member]> {
        let members: Members = fs::read_json(&self.path, MAX_MEMBERS_BYTES).unwrap_or_default();
        let member = |member: super::MemberRecord| Member {
            number: member.number,
            names: [member.name, member.sandbox.short()]
                .into_iter()
                .chain(member.aliases)
                .collect(),
        };
        members.members.into_iter().map(member).collect()
    }
}

impl Directory for MembersFile {
    fn members(&self) -> Arc<[Member]> {
        let meta = std_fs::metadata(&self.path).ok();
        let version = meta.map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec()));
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0 != version || version.is_none() {
            *read = (version, self.load());
        }
        Arc::clone(&read.1)
    }
}
