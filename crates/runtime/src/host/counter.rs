//! The rate of the counter that an emulated guest reads.
//!
//! Under emulation a guest reads the time-stamp counter of the host's processor, and it has learnt
//! the rate at its boot. On a processor with another rate its clock would run too fast or too
//! slow. So a full snapshot has the rate, and a host with another one refuses it.

use cofferdam_backend::Backend;
use cofferdam_base::{boot_id, fs};

use crate::store::layout::Layout;

/// Largest difference that a guest's clock can have, in parts per million: as much as NTP can
/// steer (adjtimex(2)).
const TOLERANCE_PPM: u64 = 500;

/// A number as JSON.
const MAX_BYTES: u64 = 64;

/// The rate in kHz, if guests of this backend read a counter of the host's and it has one rate.
/// It is measured once after each start of the host.
///
/// # Blocking
/// 20 ms for a measurement.
pub(crate) fn rate_khz(layout: &Layout, backend: &dyn Backend) -> Option<u32> {
    if !backend.guests_read_host_counter() {
        return None;
    }
    let kept = boot_id().map(|boot| layout.cache().join(format!("counter-{boot}.json")));
    let read = |path: &std::path::PathBuf| fs::read_json(path, MAX_BYTES).ok();
    if let Some(rate) = kept.as_ref().and_then(read) {
        return rate;
    }
    let rate = cofferdam_kvm_probe::host_tsc_khz();
    if let Some(path) = kept {
        // Only a cache: the next call measures again.
        let _ = fs::publish_json(&path, &rate, false);
    }
    rate
}

/// Whether a guest that has learnt the rate `theirs` keeps its time on a host with `ours`. Where
/// one is not known, nothing says that it does not.
pub(crate) fn fits(theirs: Option<u32>, ours: Option<u32>) -> bool {
    let (Some(theirs), Some(ours)) = (theirs, ours) else {
        return true;
    };
    u64::from(theirs.abs_diff(ours)) * 1_000_000 <= u64::from(ours) * TOLERANCE_PPM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_fits_within_what_a_clock_can_be_steered() {
        let ours = Some(2_300_000);
        for theirs in [
            None,
            ours,
            Some(2_300_100),
            Some(2_299_000),
            Some(2_301_150),
        ] {
            assert!(fits(theirs, ours), "{theirs:?}");
        }
        for theirs in [Some(2_301_200), Some(2_298_000), Some(3_000_000), Some(1)] {
            assert!(!fits(theirs, ours), "{theirs:?}");
        }
        assert!(fits(Some(1), None));
    }
}
