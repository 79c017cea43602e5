//! The machine while no process of the user runs, and what has to happen before one runs again.
//!
//! A frozen machine may be captured at any moment, so the agent does nothing of its own: it waits
//! for the host's port alone and answers. A machine that was restored from the capture finds out
//! that it is another one by the `Hello` of its new host. From then on it takes an identity and
//! the sessions' settlement before it can be thawed.

use cofferdam_proto::{FailureKind, HostMessage};
use rustix::event::epoll::EventFlags;

use crate::{
    cgroup,
    failure::{Result, failure},
    mounts::{self, Root},
    poll::{Poll, Token},
    port::Port,
};

/// A stopped workload.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// The port alone.
    poll: Poll,
    /// Whether the disk that takes the writes is frozen too.
    upper: bool,
    /// What a new host still has to do; none is needed by the host that froze the machine.
    wants_identity: bool,
    wants_heir: bool,
}

impl Frozen {
    /// Stops the workload.
    pub(crate) fn freeze(port: &Port) -> Result<Self> {
        let poll = Poll::new()?;
        port.watch(&poll)?;
        cgroup::freeze()?;
        Ok(Self {
            poll,
            upper: false,
            wants_identity: false,
            wants_heir: false,
        })
    }

    /// Brings the disk to a state that is clean by itself.
    pub(crate) fn sync(&mut self, root: Option<&Root>) -> Result<()> {
        // A file system inside a file of the upper has to come first.
        rustix::fs::sync();
        if let Some(upper) = root.map(|root| &root.upper)
            && !self.upper
        {
            mounts::freeze(upper)?;
            self.upper = true;
        }
        Ok(())
    }

    /// Lets the disk be written to again.
    pub(crate) fn release_disk(&mut self, root: Option<&Root>) -> Result<()> {
        if std::mem::take(&mut self.upper)
            && let Some(upper) = root.map(|root| &root.upper)
        {
            mounts::thaw(upper)?;
        }
        Ok(())
    }

    /// Fails while a new host has not yet said who this machine is and whose its sessions are.
    pub(crate) fn check_heir(&self) -> Result<()> {
        let missing = match (self.wants_identity, self.wants_heir) {
            (true, _) => "A new host has to give an identity first",
            (_, true) => "A new host has to take over the sessions first",
            _ => return Ok(()),
        };
        Err(failure(FailureKind::OutOfOrder, missing))
    }

    /// Lets the workload go on.
    pub(crate) fn thaw(&mut self, root: Option<&Root>) -> Result<()> {
        self.release_disk(root)?;
        cgroup::thaw()
    }

    /// Another host is there.
    pub(crate) fn greeted(&mut self) {
        self.wants_identity = true;
        self.wants_heir = true;
    }

    /// The identity of this machine is in force.
    pub(crate) fn adopted(&mut self) {
        self.wants_identity = false;
    }

    /// The sessions are the host's that is there now.
    pub(crate) fn inherited(&mut self) {
        self.wants_heir = false;
    }

    /// Waits for the host alone.
    pub(crate) fn wait(&self, block: bool) -> Result<Option<EventFlags>> {
        let mut events = Vec::new();
        self.poll.wait(block, &mut events)?;
        let of_port = events.into_iter().find(|(token, _)| *token == Token::Port);
        Ok(of_port.map(|(_, flags)| flags))
    }

    /// Refuses what would start a process, or write to a disk that may be frozen.
    pub(crate) fn check(message: &HostMessage) -> Result<()> {
        match message {
            HostMessage::MountRoot(_)
            | HostMessage::WarmUp(_)
            | HostMessage::Rehearse(_)
            | HostMessage::Start { .. }
            | HostMessage::Exec { .. }
            | HostMessage::Connect(_)
            | HostMessage::Readdress(_)
            | HostMessage::Trim { .. }
            | HostMessage::Quiesce => {
                Err(failure(FailureKind::OutOfOrder, "The machine is frozen"))
            }
            _ => Ok(()),
        }
    }
}
