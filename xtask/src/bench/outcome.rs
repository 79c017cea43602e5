//! What a case answers.

use super::measure::{Pair, Times};

/// The answer to one question.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) ours: Times,
    pub(crate) peer: Option<(&'static str, Times, f64)>,
    /// What was asked for, in words.
    pub(crate) target: &'static str,
    /// Anything else that was measured.
    pub(crate) note: String,
}

/// An answer with nothing else measured.
pub(super) fn outcome(
    name: &'static str,
    pair: Pair,
    peer: &'static str,
    target: &'static str,
) -> Outcome {
    Outcome {
        name,
        ours: pair.ours,
        peer: Some((peer, pair.theirs, pair.ratio)),
        target,
        note: String::new(),
    }
}
