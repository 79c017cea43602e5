//! Bringing down, while the guest runs, what a pause would have to wait for.
//!
//! Two things grow while the guest writes: the clusters of a disk that are not in its copy yet, and
//! what QEMU has written to a disk's file and the host has not flushed, which QEMU does when it
//! stops the vCPUs. Each round copies the first and flushes the second. A round takes as long as
//! there is to do, so the next one has less, unless the guest writes faster than the host's disk
//! takes it: then its writes are slowed down until that is done.

use std::time::{Duration, Instant};

use cofferdam_backend::Result;

use super::disks::DiskCopy;
use crate::qmp::Qmp;

/// Bytes that may be left to copy: a few milliseconds.
const LEFT_BYTES: u64 = 4 << 20;

/// Bytes that may be left after a guest has written at its own speed again for a moment.
const FREE_BYTES: u64 = 16 << 20;

/// How long the last flush may have taken; what was written meanwhile takes no longer.
const FLUSH_TIME: Duration = Duration::from_millis(25);

/// Most rounds. A pause that is still too long after them is better than none at all.
const MAX_ROUNDS: u32 = 12;

/// Rounds that a guest writes at its own speed.
const FREE_ROUNDS: u32 = 2;

/// Bytes per second of the first slowed round; each further one has half of it.
const SLOWED_BYTES: u64 = 16 << 20;

/// The slowest that a guest's writes are made.
const SLOWEST_BYTES: u64 = 1 << 20;

/// What a round has left.
#[derive(Clone, Copy, Debug)]
struct Remaining {
    bytes: u64,
    flush: Duration,
}

impl Remaining {
    fn fits(self) -> bool {
        self.bytes <= LEFT_BYTES && self.flush <= FLUSH_TIME
    }
}

/// Bytes per second at which a guest may write in a round; none for as many as it likes.
fn speed(round: u32) -> Option<u64> {
    let slowed = round.checked_sub(FREE_ROUNDS)?;
    let bytes = SLOWED_BYTES.checked_shr(slowed).unwrap_or_default();
    Some(bytes.max(SLOWEST_BYTES))
}

/// Copies and flushes until what is left fits a pause. Afterwards the guest writes at its own speed
/// again: a freeze would wait for writes that are held back.
pub(super) async fn bring_down(disks: &mut [DiskCopy], qmp: &Qmp) -> Result<()> {
    for round in 0..MAX_ROUNDS {
        if let Some(bytes) = speed(round) {
            for disk in disks.iter_mut() {
                disk.slow_down(qmp, bytes).await?;
            }
        }
        let left = work(disks, qmp, round > 0).await?;
        if left.fits() {
            break;
        }
    }
    for disk in disks {
        disk.let_loose(qmp).await?;
    }
    Ok(())
}

/// Whether what is left to copy fits a pause.
pub(super) async fn fit(disks: &[DiskCopy], qmp: &Qmp) -> Result<bool> {
    let mut bytes = 0;
    for disk in disks {
        bytes += disk.left_bytes(qmp).await?;
    }
    Ok(bytes <= FREE_BYTES)
}

/// One round. The copies' own dirty pages are in the way of the disks' flushes, since a journal is
/// written for all files at once; they are flushed first if that was `slow` before.
async fn work(disks: &mut [DiskCopy], qmp: &Qmp, slow: bool) -> Result<Remaining> {
    for disk in disks.iter_mut() {
        if disk.left_bytes(qmp).await? > LEFT_BYTES {
            disk.copy_changes(qmp).await?;
        }
        if slow {
            disk.flush_copy().await?;
        }
    }
    let mut left = Remaining {
        bytes: 0,
        flush: Duration::ZERO,
    };
    for disk in disks {
        let began = Instant::now();
        disk.flush_source().await?;
        left.flush += began.elapsed();
        left.bytes += disk.left_bytes(qmp).await?;
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_slowed_down_step_by_step_and_never_stopped() {
        let speeds: Vec<_> = (0..MAX_ROUNDS).map(speed).collect();
        assert!(speeds.iter().take(2).all(Option::is_none), "{speeds:?}");
        let slowed: Vec<u64> = speeds.into_iter().flatten().collect();
        let most = usize::try_from(MAX_ROUNDS - FREE_ROUNDS).unwrap();
        assert_eq!(slowed.len(), most);
        assert!(
            slowed.windows(2).all(|pair| pair[0] >= pair[1]),
            "{slowed:?}"
        );
        assert_eq!(slowed[0], SLOWED_BYTES);
        assert_eq!(slowed.last(), Some(&SLOWEST_BYTES));
    }

    #[test]
    fn a_pause_has_room_for_little() {
        let left = |bytes, millis| Remaining {
            bytes,
            flush: Duration::from_millis(millis),
        };
        assert!(left(LEFT_BYTES, 25).fits());
        assert!(!left(LEFT_BYTES + 1, 0).fits());
        assert!(!left(0, 26).fits());
    }
}
