//! What the threads of a sandbox's network may do.

use std::{io, path::PathBuf};

use cofferdam_jail::{ThreadRights, confine_thread};
use cofferdam_net::Confine;

/// Takes all other rights from them. Both directories exist.
#[derive(Debug)]
pub(crate) struct Rights {
    /// Has the lists of the named networks' members.
    pub(crate) networks: PathBuf,
    /// Has the directories of the named networks' sockets.
    pub(crate) sockets: PathBuf,
}

impl Confine for Rights {
    fn stack(&self) -> io::Result<()> {
        confine_thread(ThreadRights::NewSockets {
            read: &self.networks,
            names: &self.sockets,
        })
    }

    fn capture(&self) -> io::Result<()> {
        confine_thread(ThreadRights::OpenFiles)
    }
}

/// Takes the rights from the thread of the proxy of the secrets.
pub(super) fn confine_proxy() -> io::Result<()> {
    confine_thread(ThreadRights::OpenSockets)
}
