//! A cable that loses, delays, reorders and doubles frames, as tc-netem(8) does.
//!
//! It runs on a thread between two sockets on which one message is one frame: a packet socket on
//! one end of a virtual cable of the kernel, and the stack's own channel.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use cofferdam_net::MAX_FRAME_BYTES;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use crate::guest::Random;

/// Frames of one direction that are under way at most; more are lost, as in netem.
const MOST: usize = 1000;

/// The parts of a thousand frames to which something happens, and the time on the way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    /// Frames that do not wait for `delay`, so that they pass others.
    pub(crate) reordered: usize,
    pub(crate) delay: Duration,
}

/// A frame with the time of its arrival and its number, which keeps frames of one time in order.
type Frame = Reverse<(Instant, u64, Vec<u8>)>;

#[derive(Default)]
struct Direction {
    way: BinaryHeap<Frame>,
    number: u64,
    /// The socket took no more.
    is_blocked: bool,
}

impl Direction {
    fn take(&mut self, frame: &[u8], faults: Faults, random: &mut Random) {
        let mut hits = |parts| random.below(1000) < parts;
        if hits(faults.lost) {
            return;
        }
        let copies = if hits(faults.doubled) { 2 } else { 1 };
        let delay = if hits(faults.reordered) {
            Duration::ZERO
        } else {
            faults.delay
        };
        for _ in 0..copies {
            if self.way.len() < MOST {
                self.number += 1;
                let due = Instant::now() + delay;
                self.way.push(Reverse((due, self.number, frame.to_vec())));
            }
        }
    }

    /// Sends the frames that have arrived. Returns how many.
    fn deliver(&mut self, to: &OwnedFd) -> u64 {
        let mut sent = 0;
        self.is_blocked = false;
        while let Some(Reverse((due, _, frame))) = self.way.peek() {
            if *due > Instant::now() {
                break;
            }
            match send(to, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    self.is_blocked = true;
                    break;
                }
                // An end that is gone loses the frame.
                _ => sent += 1,
            }
            self.way.pop();
        }
        sent
    }

    fn next(&self) -> Option<Instant> {
        let first = self.way.peek().map(|Reverse((due, ..))| *due);
        first.filter(|_| !self.is_blocked)
    }
}

/// A cable that works until it is dropped.
pub(crate) struct Cable {
    ends: Arc<AtomicBool>,
    delivered: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Cable {
    pub(crate) fn new(ends: [OwnedFd; 2], faults: Faults) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let delivered = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&delivered));
        let thread = thread::spawn(move || {
            let mut random = Random(5);
            let mut directions = [Direction::default(), Direction::default()];
            while !stopped.load(Ordering::Relaxed) {
                wait(&ends, &directions);
                let [up, down] = &mut directions;
                let [kernel, stack] = &ends;
                for (way, from, to) in [(up, kernel, stack), (down, stack, kernel)] {
                    read(from, |frame| way.take(frame, faults, &mut random));
                    count.fetch_add(way.deliver(to), Ordering::Relaxed);
                }
            }
        });
        Self {
            ends: stop,
            delivered,
            thread: Some(thread),
        }
    }

    /// Frames that arrived in both directions.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Reads some of the frames that wait.
fn read(from: &OwnedFd, mut take: impl FnMut(&[u8])) {
    let mut room = vec![0; MAX_FRAME_BYTES];
    for _ in 0..64 {
        match recv(from, &mut room, RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(_) => return,
            Ok((_, count)) => take(room.get(..count).unwrap_or_default()),
        }
    }
}

/// Waits for a frame, for the arrival of one, or for room. The bound is for the end of the cable.
fn wait(ends: &[OwnedFd; 2], directions: &[Direction; 2]) {
    let [up, down] = directions;
    let next = [up, down].iter().filter_map(|way| way.next()).min();
    let wait = next.map_or(Duration::from_millis(50), |due| {
        due.saturating_duration_since(Instant::now())
    });
    let wait = wait.min(Duration::from_millis(50));
    let flags = |blocked: &Direction| match blocked.is_blocked {
        true => PollFlags::IN | PollFlags::OUT,
        false => PollFlags::IN,
    };
    let mut fds = [
        PollFd::from_borrowed_fd(ends[0].as_fd(), flags(down)),
        PollFd::from_borrowed_fd(ends[1].as_fd(), flags(up)),
    ];
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    let _ = poll(&mut fds, Some(&timeout));
}
