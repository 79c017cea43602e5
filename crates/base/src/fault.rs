//! The one shape of an error in Cofferdam's libraries.
//!
//! A crate names its kinds in a small enum and writes `pub type Error = Fault<ErrorKind>`. The
//! kind is for control flow, the sentence is for people, the hint says what to do about it, and
//! the cause is only ever in `source()`.

use std::{error::Error as StdError, fmt};

use cofferdam_types::Blame;

/// The kinds of failure of one crate.
pub trait FaultKind: Copy + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// Who must act on a failure of this kind.
    fn blame(self) -> Blame;
}

/// A failure: kind, sentence, hint and cause.
pub struct Fault<K>(Box<Inner<K>>);

struct Inner<K> {
    kind: K,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl<K: FaultKind> Fault<K> {
    /// A failure of `kind`. `what` is a sentence without a full stop that quotes values in
    /// backticks and does not repeat its cause.
    pub fn new(kind: K, what: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            what: what.into(),
            hint: None,
            source: None,
        }))
    }

    /// Adds what caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds what the reader can do about it: an imperative sentence without a full stop.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same failure as another crate's kind: sentence, hint and cause stay.
    #[must_use]
    pub fn with_kind<L: FaultKind>(self, kind: L) -> Fault<L> {
        let Inner {
            what, hint, source, ..
        } = *self.0;
        Fault(Box::new(Inner {
            kind,
            what,
            hint,
            source,
        }))
    }

    /// What went wrong, for control flow.
    #[must_use]
    pub fn kind(&self) -> K {
        self.0.kind
    }

    /// Who must act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        self.0.kind.blame()
    }

    /// What the reader can do about it, if that is known.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The sentence and every cause, joined by colons, on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.0.what.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl<K: FaultKind> fmt::Display for Fault<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl<K: FaultKind> fmt::Debug for Fault<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())
    }
}

impl<K: FaultKind> StdError for Fault<K> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Kind;

    impl FaultKind for Kind {
        fn blame(self) -> Blame {
            Blame::Host
        }
    }

    #[test]
    fn display_is_the_sentence_and_the_chain_adds_the_causes() {
        let inner = Fault::new(Kind, "The disk is full");
        let outer = Fault::new(Kind, "Could not write `x`")
            .because(inner)
            .hint("Free some space");
        assert_eq!(outer.to_string(), "Could not write `x`");
        assert_eq!(outer.chain(), "Could not write `x`: The disk is full");
        assert_eq!(outer.hint_text(), Some("Free some space"));
        assert_eq!(outer.blame(), Blame::Host);
    }

    #[test]
    fn a_fault_is_one_pointer_wide() {
        assert_eq!(size_of::<Fault<Kind>>(), size_of::<usize>());
    }
}
