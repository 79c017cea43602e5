//! Rate limits: a bucket of bytes that fills with time.

use std::time::{Duration, Instant};

use crate::stats::bytes;

/// How much a bucket holds, as time at its rate: a burst of a tenth of a second.
const BURST: Duration = Duration::from_millis(100);

/// Bytes that a bucket holds at least, so that a frame of any size passes.
const MIN_BURST_BYTES: u64 = 128 << 10;

/// Lets bytes pass at a rate.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Bytes per second; absent: no limit.
    rate: Option<u64>,
    /// Bytes that may pass now. Negative after a frame that was larger than the level.
    level: i64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: Option<u64>, now: Instant) -> Self {
        let mut bucket = Self {
            rate,
            level: 0,
            filled: now,
        };
        bucket.level = bucket.capacity();
        bucket
    }

    fn capacity(&self) -> i64 {
        let burst = self.rate.map_or(0, |rate| scale(rate, BURST));
        i64::try_from(burst.max(MIN_BURST_BYTES)).unwrap_or(i64::MAX)
    }

    /// Whether a frame may pass now.
    pub(crate) fn is_open(&mut self, now: Instant) -> bool {
        let Some(rate) = self.rate else { return true };
        let gained = scale(rate, now.saturating_duration_since(self.filled));
        if gained > 0 {
            let gained = i64::try_from(gained).unwrap_or(i64::MAX);
            self.level = self.level.saturating_add(gained).min(self.capacity());
            self.filled = now;
        }
        self.level > 0
    }

    /// Takes the bytes of a frame that passes. One frame may overdraw the bucket.
    pub(crate) fn take(&mut self, length: usize) {
        if self.rate.is_some() {
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            self.level = self.level.saturating_sub(length);
        }
    }

    /// When a frame may pass again; none if one may now.
    pub(crate) fn opens_at(&self) -> Option<Instant> {
        let rate = self.rate?;
        if self.level > 0 {
            return None;
        }
        let missing = bytes(usize::try_from(1 - self.level).unwrap_or(0));
        let nanos = u128::from(missing) * 1_000_000_000 / u128::from(rate.max(1));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        // At least a millisecond, so that a slow bucket does not wake the thread for each byte.
        let wait = Duration::from_nanos(nanos).max(Duration::from_millis(1));
        self.filled.checked_add(wait.min(Duration::from_secs(60)))
    }
}

fn scale(rate: u64, time: Duration) -> u64 {
    let amount = u128::from(rate) * time.as_nanos() / 1_000_000_000;
    u64::try_from(amount).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_at_the_rate_and_not_faster() {
        let start = Instant::now();
        let mut now = start;
        let mut bucket = Bucket::new(Some(10_000_000), now);
        let mut passed = 0;
        while now < start + Duration::from_secs(2) {
            while bucket.is_open(now) {
                bucket.take(1500);
                passed += 1500;
            }
            now = bucket.opens_at().unwrap();
        }
        // Two seconds and the burst of a tenth.
        assert!((19_900_000..21_100_000).contains(&passed), "{passed}");
    }

    #[test]
    fn without_a_rate_everything_passes() {
        let now = Instant::now();
        let mut bucket = Bucket::new(None, now);
        bucket.take(usize::MAX);
        assert!(bucket.is_open(now));
        assert_eq!(bucket.opens_at(), None);
    }
}
