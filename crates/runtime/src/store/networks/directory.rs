//! The members of a network as the stack of a member reads them.

use std::{
    fs as std_fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cofferdam_base::fs;
use cofferdam_net::{Directory, Member};

use super::{MAX_MEMBERS_BYTES, Members};

/// Identity and time of a file's content: each change is another file.
type Version = (u64, i64, i64);

/// How long a look at the file holds: packets ask for the members.
const FRESH: Duration = Duration::from_millis(100);

/// `members.json`, read again when it has changed.
#[derive(Debug)]
pub(crate) struct MembersFile {
    path: PathBuf,
    read: Mutex<Read>,
}

#[derive(Debug)]
struct Read {
    looked: Option<Instant>,
    version: Option<Version>,
    members: Arc<[Member]>,
}

impl MembersFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: Mutex::new(Read {
                looked: None,
                version: None,
                members: Arc::new([]),
            }),
        }
    }

    /// The members at a time: the last ones that could be read, since a rule on a name must not
    /// lose its member to an error.
    pub(super) fn at(&self, now: Instant) -> Arc<[Member]> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let looked = read.looked;
        if looked.is_none_or(|looked| now.saturating_duration_since(looked) >= FRESH) {
            read.looked = Some(now);
            let meta = std_fs::metadata(&self.path).ok();
            let version = meta.map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec()));
            // A version is known only when its content is.
            if version.is_some()
                && read.version != version
                && let Ok(members) = self.load()
            {
                (read.version, read.members) = (version, members);
            }
        }
        Arc::clone(&read.members)
    }

    fn load(&self) -> std::io::Result<Arc<[Member]>> {
        let members: Members = fs::read_json(&self.path, MAX_MEMBERS_BYTES)?;
        let member = |member: super::MemberRecord| Member {
            number: member.number,
            names: [member.name, member.sandbox.short()]
                .into_iter()
                .chain(member.aliases)
                .collect(),
        };
        Ok(members.members.into_iter().map(member).collect())
    }
}

impl Directory for MembersFile {
    fn members(&self) -> Arc<[Member]> {
        self.at(Instant::now())
    }
}
