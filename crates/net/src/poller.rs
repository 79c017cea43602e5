//! The one place where the stack's thread waits.
//!
//! Sockets are registered once, edge-triggered, for reading and writing: a flow remembers what it
//! may do until the kernel refuses, so no system call changes its registration.
//! *Source:* epoll(7), eventfd(2).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    io::Errno,
};

use crate::slots::Slot;

/// Events that one wait returns.
const BATCH: usize = 256;

/// Which part of the stack a descriptor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The channel of frames.
    Frames,
    /// The waker.
    Waker,
    Tcp,
    Udp,
    Icmp,
    /// Queries to resolvers.
    Dns,
    /// The stack's end of a guest's DNS connection.
    DnsServer,
    /// A published port.
    Publish,
    /// The socket at which members of a named network reach this stack.
    SwitchListener,
    /// A member's connection to this stack.
    SwitchInput,
    /// This stack's connection to a member.
    SwitchOutput,
}

const OWNERS: [Owner; 11] = [
    Owner::Frames,
    Owner::Waker,
    Owner::Tcp,
    Owner::Udp,
    Owner::Icmp,
    Owner::Dns,
    Owner::DnsServer,
    Owner::Publish,
    Owner::SwitchListener,
    Owner::SwitchInput,
    Owner::SwitchOutput,
];

/// What a descriptor may do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// A descriptor that became ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wake {
    pub(crate) owner: Owner,
    pub(crate) slot: Slot,
    pub(crate) ready: Ready,
}

/// An epoll instance and the descriptor that wakes it from other threads.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    waker: Arc<OwnedFd>,
}

/// Wakes a [`Poller`] from another thread.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Wakes the poller. A full counter wakes it as well, so that error means nothing.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let poller = Self {
            epoll,
            waker: Arc::new(waker),
        };
        let waker = Arc::clone(&poller.waker);
        poller.add_with(waker.as_fd(), Owner::Waker, NO_SLOT, epoll::EventFlags::IN)?;
        Ok(poller)
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.waker))
    }

    /// Registers a socket of a flow for reading and writing, edge-triggered. It leaves when its
    /// last descriptor is closed.
    pub(crate) fn add(&self, fd: impl AsFd, owner: Owner, slot: Slot) -> io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        self.add_with(fd, owner, slot, flags)
    }

    /// Registers a descriptor for reading, as long as there is something to read.
    pub(crate) fn add_level(&self, fd: impl AsFd, owner: Owner, slot: Slot) -> io::Result<()> {
        self.add_with(fd, owner, slot, epoll::EventFlags::IN)
    }

    /// Stops waiting for a descriptor that stays open.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // It was added before, so the kernel has no reason to refuse.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Sets whether the channel of frames is waited for, for reading and for writing.
    pub(crate) fn set_frames(&self, fd: impl AsFd, read: bool, write: bool) -> io::Result<()> {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, read);
        flags.set(epoll::EventFlags::OUT, write);
        let data = epoll::EventData::new_u64(pack(Owner::Frames, NO_SLOT));
        Ok(epoll::modify(&self.epoll, fd, data, flags)?)
    }

    fn add_with(
        &self,
        fd: impl AsFd,
        owner: Owner,
        slot: Slot,
        flags: epoll::EventFlags,
    ) -> io::Result<()> {
        let data = epoll::EventData::new_u64(pack(owner, slot));
        Ok(epoll::add(&self.epoll, fd, data, flags)?)
    }

    /// Waits until a descriptor is ready or `deadline` has come; no deadline: as long as it takes.
    pub(crate) fn wait(&self, deadline: Option<Instant>, wakes: &mut Vec<Wake>) -> io::Result<()> {
        wakes.clear();
        let timeout = deadline.map(|deadline| timespec(deadline, Instant::now()));
        let mut events = [const { empty() }; BATCH];
        let count = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            let flags = event.flags;
            let failed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            let readable = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
            let Some((owner, slot)) = unpack(event.data.u64()) else {
                continue;
            };
            wakes.push(Wake {
                owner,
                slot,
                ready: Ready {
                    read: failed || flags.intersects(readable),
                    write: failed || flags.contains(epoll::EventFlags::OUT),
                },
            });
        }
        Ok(())
    }

    /// Takes the wake-ups of other threads.
    pub(crate) fn drain_waker(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.waker, &mut count[..]);
    }
}

const fn empty() -> epoll::Event {
    epoll::Event {
        flags: epoll::EventFlags::empty(),
        data: epoll::EventData::new_u64(0),
    }
}

/// Whole nanoseconds up, so that the deadline has come when the wait is over.
fn timespec(deadline: Instant, now: Instant) -> Timespec {
    let wait = deadline
        .saturating_duration_since(now)
        .min(Duration::from_secs(3600));
    Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(0),
        tv_nsec: i64::from(wait.subsec_nanos()),
    }
}

/// For descriptors that are not of a flow.
pub(crate) const NO_SLOT: Slot = Slot {
    index: 0,
    generation: 0,
};

fn pack(owner: Owner, slot: Slot) -> u64 {
    let owner = OWNERS.iter().position(|one| *one == owner).unwrap_or(0);
    let owner = u64::try_from(owner).unwrap_or(0);
    owner << 56 | u64::from(slot.generation) << 32 | u64::from(slot.index)
}

fn unpack(data: u64) -> Option<(Owner, Slot)> {
    let owner = OWNERS.get(usize::try_from(data >> 56).ok()?)?;
    let slot = Slot {
        index: u32::try_from(data & 0xffff_ffff).ok()?,
        generation: u16::try_from((data >> 32) & 0xffff).ok()?,
    };
    Some((*owner, slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_owner_and_slot() {
        for owner in OWNERS {
            let slot = Slot {
                index: u32::MAX - 5,
                generation: u16::MAX - 7,
            };
            assert_eq!(unpack(pack(owner, slot)), Some((owner, slot)));
        }
    }

    #[test]
    fn another_thread_wakes_the_poller() {
        let poller = Poller::new().unwrap();
        let waker = poller.waker();
        let thread = std::thread::spawn(move || waker.wake());
        let mut wakes = Vec::new();
        poller.wait(None, &mut wakes).unwrap();
        assert_eq!(wakes[0].owner, Owner::Waker);
        poller.drain_waker();
        thread.join().unwrap();
        poller.wait(Some(Instant::now()), &mut wakes).unwrap();
        assert!(wakes.is_empty());
    }
}
