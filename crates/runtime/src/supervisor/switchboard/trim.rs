//! Getting what the guest has deleted out of its disk's file.
//!
//! The guest's kernel knows which blocks are free, and says so when it is asked to trim. It is asked
//! before a capture, at the end, and when it has written to its disk and is quiet since: so much is
//! seen in the file's times, and an idle guest is not woken for it. A guest that is woken tells how
//! much its files use, and trims only if the file holds clearly more.

use std::{
    io,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use cofferdam_proto::{AgentMessage, DiskPart, HostMessage};

use super::{
    Switchboard,
    dialog::{self, Guest},
    run_state::RunState,
    sources::later,
};
use crate::{
    base::task::log_line,
    link::trim::{parts, status_question},
    supervisor::event::Event,
};

/// Longest that a capture waits for a trim; a group of 128 MiB takes milliseconds, and about a
/// second if every other block of it is free.
const CAPTURE_TRIM_TIME: Duration = Duration::from_secs(10);

/// How long the guest may take to say how far it is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a capture asks whether the trim is over: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// How often the disk's file is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long the file must be unchanged: longer than the commit interval of the upper, before which
/// what was deleted is not free (agent, `mounts/overlay.rs`).
const QUIET: Duration = Duration::from_secs(3);

/// After this time a disk that is never quiet is trimmed too.
const RESTLESS: Duration = Duration::from_secs(60);

/// Free bytes in the file for which a guest trims.
const LEAST_BYTES: u64 = 16 << 20;

/// Has a guest that runs trim what it has deleted until now. Where that fails or takes too long,
/// the capture has more in it, which the log says.
pub(super) async fn before_capture(guest: &Guest) {
    if !guest.machine.discards() || is_untouched(&guest.upper, guest.disk_made) {
        return;
    }
    match parts(&guest.upper) {
        Ok(parts) if parts.is_empty() => {}
        Ok(parts) => trim_now(guest, parts).await,
        Err(error) => log_line(&format!("The disk cannot be trimmed: {error}")),
    }
}

async fn trim_now(guest: &Guest, parts: Vec<DiskPart>) {
    let began = Instant::now();
    let mut wait = FIRST_WAIT;
    let mut question = HostMessage::Trim {
        parts,
        commit: true,
    };
    loop {
        match guest.ask(&question, ANSWER_TIMEOUT).await {
            Ok(AgentMessage::Trimming { running: false, .. }) => return,
            Ok(AgentMessage::Trimming { .. }) if began.elapsed() < CAPTURE_TRIM_TIME => {}
            Ok(AgentMessage::Trimming { .. }) => {
                return log_line("The disk is captured before it was trimmed to its end");
            }
            Ok(other) => return log_line(&dialog::unexpected(&other).chain()),
            Err(error) => return log_line(&format!("The disk is not trimmed: {}", error.chain())),
        }
        question = status_question();
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Whether no guest has written to a disk since it was made, so that nothing was deleted on it.
fn is_untouched(upper: &Path, made: Option<SystemTime>) -> bool {
    let changed = std::fs::metadata(upper).and_then(|meta| meta.modified());
    made.is_some_and(|made| changed.is_ok_and(|changed| changed == made))
}

/// What is seen of a disk's file without its guest.
#[derive(Clone, Copy, Debug)]
struct DiskSample {
    now: SystemTime,
    /// The last write, by the guest or by a hole.
    changed: SystemTime,
    allocated_bytes: u64,
}

impl DiskSample {
    fn at(upper: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let meta = std::fs::metadata(upper)?;
        Ok(Self {
            now: SystemTime::now(),
            changed: meta.modified()?,
            // In units of 512 bytes, stat(3type).
            allocated_bytes: meta.blocks() * 512,
        })
    }

    /// A clock that was set back counts as no time.
    fn since(&self, time: SystemTime) -> Duration {
        self.now.duration_since(time).unwrap_or_default()
    }
}

/// What to say to the guest about its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TrimRequest {
    /// How much is used, and whether a trim is over.
    Ask,
    /// Trim.
    Trim,
}

/// When an idle guest trims.
#[derive(Debug, Default)]
pub(super) struct IdleTrim {
    /// The last change for which there is nothing more to do.
    settled: Option<SystemTime>,
    /// When a trim was considered last.
    considered: Option<SystemTime>,
    /// Bytes of the file that no trim gives back: the file system's own.
    overhead_bytes: u64,
    /// Whether the guest owes an answer.
    waits: bool,
    /// Whether the guest trims.
    trims: bool,
}

impl IdleTrim {
    /// Looks whether the guest is to be asked.
    fn look(&mut self, look: DiskSample) -> Option<TrimRequest> {
        if self.waits {
            return None;
        }
        if !self.trims {
            if self.settled == Some(look.changed) {
                return None;
            }
            let considered = *self.considered.get_or_insert(look.now);
            if look.since(look.changed) < QUIET && look.since(considered) < RESTLESS {
                return None;
            }
            if look.allocated_bytes < self.overhead_bytes + LEAST_BYTES {
                self.settle(look);
                return None;
            }
        }
        self.waits = true;
        Some(TrimRequest::Ask)
    }

    /// The guest has answered.
    fn answered(
        &mut self,
        look: DiskSample,
        running: bool,
        used_bytes: u64,
    ) -> Option<TrimRequest> {
        self.waits = false;
        let unused = look.allocated_bytes.saturating_sub(used_bytes);
        let was_trimming = std::mem::replace(&mut self.trims, running);
        if running {
            return None;
        }
        if !was_trimming && unused >= self.overhead_bytes + LEAST_BYTES {
            // It may be over before the answer to it.
            self.waits = true;
            self.trims = true;
            return Some(TrimRequest::Trim);
        }
        if was_trimming {
            self.overhead_bytes = unused;
        }
        self.settle(look);
        None
    }

    /// The guest could not.
    fn failed(&mut self, look: DiskSample) {
        self.waits = false;
        self.trims = false;
        self.settle(look);
    }

    fn settle(&mut self, look: DiskSample) {
        self.settled = Some(look.changed);
        self.considered = Some(look.now);
    }
}

impl Switchboard {
    /// Begins to look at the disk from time to time.
    pub(super) fn watch_disk(&self) {
        if self.machine.discards() {
            later(INTERVAL, &self.events, Event::DiskTime);
        }
    }

    pub(super) fn disk_time(&mut self) {
        later(INTERVAL, &self.events, Event::DiskTime);
        // A guest that stands still, or is about to, answers nothing.
        if self.run_state != RunState::Runs || self.stop_asked() {
            return;
        }
        let Ok(look) = DiskSample::at(&self.upper()) else {
            return;
        };
        if let Some(say) = self.idle_trim.look(look) {
            self.say(say, look);
        }
    }

    pub(super) fn trim_answered(&mut self, answer: Option<&AgentMessage>) {
        let Ok(look) = DiskSample::at(&self.upper()) else {
            return;
        };
        let say = match answer {
            Some(AgentMessage::Trimming {
                running,
                used_bytes,
            }) => self.idle_trim.answered(look, *running, *used_bytes),
            _ => {
                self.idle_trim.failed(look);
                None
            }
        };
        if let Some(say) = say {
            self.say(say, look);
        }
    }

    fn say(&mut self, say: TrimRequest, look: DiskSample) {
        let question = match say {
            TrimRequest::Ask => status_question(),
            TrimRequest::Trim => HostMessage::Trim {
                parts: parts(&self.upper()).unwrap_or_default(),
                commit: false,
            },
        };
        let Ok(answer) = self.wire.ask(&question) else {
            return self.idle_trim.failed(look);
        };
        let events = self.events.clone();
        tokio::spawn(async move {
            // Without a limit: a guest that was paused before it answered does so later.
            let _ = events.send(Event::Trimming(answer.await.ok())).await;
        });
    }

    /// What the guest trims at its end.
    pub(super) fn last_trim(&self) -> Vec<DiskPart> {
        if !self.machine.discards() || is_untouched(&self.upper(), self.disk_made) {
            return Vec::new();
        }
        parts(&self.upper()).unwrap_or_default()
    }

    pub(super) fn upper(&self) -> std::path::PathBuf {
        let layout = self.store.layout();
        layout.sandbox(self.entry.record.id).upper()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn look(now: u64, changed: u64, allocated_mib: u64) -> DiskSample {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        DiskSample {
            now: at(now),
            changed: at(changed),
            allocated_bytes: allocated_mib * MIB,
        }
    }

    #[test]
    fn a_guest_that_has_written_nothing_is_asked_once_at_most() {
        let mut trim = IdleTrim::default();
        assert_eq!(trim.look(look(100, 1, 15)), None);
        assert_eq!(trim.look(look(1000, 1, 15)), None);
        let mut trim = IdleTrim::default();
        assert_eq!(trim.look(look(100, 1, 200)), Some(TrimRequest::Ask));
        assert_eq!(trim.look(look(102, 1, 200)), None);
        assert_eq!(trim.answered(look(103, 1, 200), false, 190 * MIB), None);
        assert_eq!(trim.look(look(1000, 1, 200)), None);
    }

    #[test]
    fn what_was_deleted_is_trimmed_when_the_guest_is_quiet() {
        let mut trim = IdleTrim::default();
        assert_eq!(trim.look(look(100, 99, 400)), None);
        assert_eq!(trim.look(look(102, 99, 400)), Some(TrimRequest::Ask));
        let say = trim.answered(look(102, 99, 400), false, 10 * MIB);
        assert_eq!(say, Some(TrimRequest::Trim));
        assert_eq!(trim.look(look(104, 99, 400)), None);
        assert_eq!(trim.answered(look(104, 104, 300), true, 10 * MIB), None);
        // It is asked until it is over, quiet or not.
        assert_eq!(trim.look(look(105, 105, 200)), Some(TrimRequest::Ask));
        assert_eq!(trim.answered(look(105, 105, 60), false, 10 * MIB), None);
        assert_eq!(trim.look(look(200, 105, 60)), None);
        // The file system's own 50 MiB are no reason to try again.
        assert_eq!(trim.look(look(300, 280, 64)), None);
        assert_eq!(trim.look(look(400, 380, 70)), Some(TrimRequest::Ask));
        assert_eq!(trim.answered(look(400, 380, 70), false, 19 * MIB), None);
    }

    #[test]
    fn a_guest_that_never_stops_writing_is_trimmed_now_and_then() {
        let mut trim = IdleTrim::default();
        let asked: Vec<u64> = (100..250)
            .filter(|now| {
                let asked = trim.look(look(*now, *now, 400)).is_some();
                if asked {
                    trim.answered(look(*now, *now, 400), false, 400 * MIB);
                }
                asked
            })
            .collect();
        assert_eq!(asked, [160, 220]);
    }

    #[test]
    fn a_guest_that_cannot_trim_is_left_alone_until_it_writes() {
        let mut trim = IdleTrim::default();
        assert_eq!(trim.look(look(100, 1, 400)), Some(TrimRequest::Ask));
        trim.failed(look(100, 1, 400));
        assert_eq!(trim.look(look(500, 1, 400)), None);
        assert_eq!(trim.look(look(500, 400, 400)), Some(TrimRequest::Ask));
    }
}
