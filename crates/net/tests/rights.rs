//! What the threads of a stack may do, tried on the thread itself.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

mod guest;

use std::{
    fs::File,
    io,
    net::UdpSocket,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    process::Command,
    sync::mpsc::{Sender, channel},
    time::Duration,
};

use cofferdam_net::{Events, Fill, FrameIo, FrameStream, Input, Policy, Profile, Stack};
use guest::config;

const LIMIT: Duration = Duration::from_secs(30);

/// A channel of frames that tries what a stack never does, on the stack's thread.
struct Probe {
    frames: FrameStream,
    tried: Sender<Vec<(&'static str, Option<i32>)>>,
}

/// The number of an action's error; none if it was done.
fn refusal<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

impl FrameIo for Probe {
    fn fd(&self) -> BorrowedFd<'_> {
        self.frames.fd()
    }

    fn fill(&mut self, _: &mut Input) -> io::Result<Fill> {
        let written = File::create(std::env::temp_dir().join("coffer-rights"));
        let tried = vec![
            ("start a program", refusal(Command::new("true").spawn())),
            ("write a file", refusal(written)),
            ("read a file", refusal(File::open("/etc/passwd"))),
            (
                "connect to a service",
                refusal(UnixStream::connect("/run/docker.sock")),
            ),
            (
                "start a thread",
                refusal(std::thread::Builder::new().spawn(|| ())),
            ),
            (
                "open a socket for UDP",
                refusal(UdpSocket::bind("127.0.0.1:0")),
            ),
        ];
        // The test has ended if it takes none.
        let _ = self.tried.send(tried);
        Ok(Fill::Closed)
    }

    fn skipped(&self) -> u64 {
        0
    }

    fn queued(&self) -> usize {
        0
    }

    fn queue(&mut self, _: usize) -> Option<&mut [u8]> {
        None
    }

    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}

#[test]
fn the_thread_of_a_stack_is_refused_all_but_sockets() {
    let (ours, frames) = FrameStream::pair().unwrap();
    let (tried, results) = channel();
    let (events, _events) = Events::channel();
    let policy = Policy::new(Profile::Public, Vec::new());
    let stack = Stack::new(config(), Box::new(Probe { frames, tried }), policy, events);
    let thread = stack.unwrap().spawn().unwrap();
    // Something to read, which is the end of the channel.
    drop(ours);
    let results = results.recv_timeout(LIMIT).unwrap();
    thread.join().unwrap().unwrap();
    // EPERM is the filter's answer, EACCES that of Landlock, which some kernels do not have.
    for (action, errno) in results {
        match action {
            "open a socket for UDP" => assert_eq!(errno, None, "{action}"),
            "read a file" => assert!(matches!(errno, None | Some(13)), "{action}: {errno:?}"),
            _ => assert_eq!(errno, Some(1), "{action}"),
        }
    }
}
