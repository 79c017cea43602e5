//! Names for sandboxes whose users gave none: two words, as Docker does, of the waterside.

const FIRST: [&str; 32] = [
    "amber", "brisk", "calm", "deep", "dry", "early", "firm", "grey", "high", "icy", "keen",
    "late", "level", "lone", "low", "mild", "neat", "new", "north", "old", "quiet", "quick", "red",
    "salt", "slow", "south", "still", "swift", "tall", "warm", "wide", "young",
];

const SECOND: [&str; 32] = [
    "anchor", "barge", "basin", "bay", "beacon", "bridge", "buoy", "canal", "cove", "crane",
    "delta", "dock", "dune", "ferry", "fjord", "gull", "harbor", "inlet", "jetty", "keel",
    "lagoon", "levee", "lock", "marsh", "mooring", "pier", "quay", "reef", "sluice", "tide",
    "weir", "wharf",
];

/// A name from random bytes; four hex digits make clashes rare, and the index decides.
pub(crate) fn random_name(bytes: [u8; 4]) -> String {
    let pick = |words: &[&'static str; 32], byte: u8| words[usize::from(byte) % 32];
    let [first, second, high, low] = bytes;
    format!(
        "{}-{}-{high:02x}{low:02x}",
        pick(&FIRST, first),
        pick(&SECOND, second)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_random_name_is_a_valid_name() {
        for byte in 0..=255 {
            let name = random_name([byte, byte.wrapping_mul(7), byte, 0]);
            assert!(cofferdam_types::valid_name(&name), "{name}");
        }
    }
}
