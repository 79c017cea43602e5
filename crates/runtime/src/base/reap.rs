//! Waiting for processes that belong to nobody here.

use std::{
    io,
    os::fd::OwnedFd,
    process::Child,
    sync::{Mutex, PoisonError},
    thread,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{io::unix::AsyncFd, runtime::Handle};

/// Those whose runtime was gone before they were.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Waits for a process that does not belong to a caller: if it ends while this one lives, it must
/// not stay a zombie. One that outlives its caller's runtime is looked for by the next call.
pub(crate) fn reap_in_background(child: Child) {
    reap_those_left();
    // A task in place of a thread: this process's end would wait until a thread has run once more,
    // which takes milliseconds on a busy host (docs/start.md).
    match end_of(&child) {
        Ok(end) => {
            let child = Unreaped(Some(child));
            tokio::spawn(async move {
                let _ = end.readable().await;
                drop(child);
            });
        }
        Err(_) => {
            let mut child = child;
            let wait = move || child.wait();
            let _ = thread::Builder::new().name("reap".to_owned()).spawn(wait);
        }
    }
}

/// A child that is reaped when this is dropped, or left for later if it still runs.
struct Unreaped(Option<Child>);

impl Drop for Unreaped {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take()
            && let Ok(None) = child.try_wait()
        {
            left().push(child);
        }
    }
}

fn reap_those_left() {
    left().retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

fn left() -> std::sync::MutexGuard<'static, Vec<Child>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::{
        path::Path,
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use tokio::runtime::Builder;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn is_there(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    fn wait_until_gone(pid: u32) {
        let end = Instant::now() + LONG;
        while is_there(pid) {
            assert!(Instant::now() < end, "a zombie");
            thread::yield_now();
        }
    }

    /// A process that ends with its standard input.
    fn reader() -> Child {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).spawn().unwrap()
    }

    /// One test, as what is left is the whole process's.
    #[test]
    fn a_child_that_nobody_waits_for_does_not_stay_a_zombie() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut child = reader();
        let (pid, input) = (child.id(), child.stdin.take());
        runtime.block_on(async {
            reap_in_background(child);
            assert!(is_there(pid));
            drop(input);
            let gone = async {
                while is_there(pid) {
                    tokio::task::yield_now().await;
                }
            };
            let bounded = tokio::time::timeout(LONG, gone);
            bounded.await.expect("a zombie");
        });

        let mut child = reader();
        let (left_pid, input) = (child.id(), child.stdin.take());
        runtime.block_on(async { reap_in_background(child) });
        drop(runtime);
        drop(input);

        let mut child = reader();
        let (pid, input) = (child.id(), child.stdin.take());
        reap_in_background(child);
        assert!(is_there(pid));
        drop(input);
        wait_until_gone(pid);

        let end = Instant::now() + LONG;
        while is_there(left_pid) {
            assert!(Instant::now() < end, "a zombie without a runtime");
            reap_those_left();
        }
    }
}
