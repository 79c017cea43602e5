//! Waiting for processes that belong to nobody here.

use std::{io, os::fd::OwnedFd, process::Child, thread};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{io::unix::AsyncFd, runtime::Handle};

/// Waits for a process that does not belong to a caller: if it ends while this one lives, it must
/// not stay a zombie. What is not waited for, because the runtime or this process ends first, is
/// a zombie no longer than this process lives.
pub(crate) fn reap_in_background(mut child: Child) {
    // A task in place of a thread, as the end of this process would wait for a thread until it
    // ran once more: up to 3 ms on a busy host.
    match end_of(&child) {
        Ok(end) => {
            tokio::spawn(async move {
                let _ = end.readable().await;
                let _ = child.wait();
            });
        }
        Err(_) => {
            let wait = move || child.wait();
            let _ = thread::Builder::new().name("reap".to_owned()).spawn(wait);
        }
    }
}

/// Readable once the process has ended. Source: `pidfd_open(2)`.
#[expect(
    deprecated,
    reason = "its successor is unsafe because of types that change their descriptor; this is none"
)]
fn end_of(child: &Child) -> io::Result<AsyncFd<OwnedFd>> {
    Handle::try_current().map_err(io::Error::other)?;
    let descriptor = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    AsyncFd::new(descriptor)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;

    fn is_there(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn a_child_that_nobody_waits_for_does_not_stay_a_zombie() {
        let child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        reap_in_background(child);
        let gone = async {
            while is_there(pid) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone)
            .await
            .expect("a zombie");
    }

    #[test]
    fn the_same_without_a_runtime() {
        let child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        reap_in_background(child);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while is_there(pid) {
            assert!(std::time::Instant::now() < end, "a zombie");
            thread::yield_now();
        }
    }
}
