//! Whether the guest runs, as one state.
//!
//! ```text
//!            begin(Pause)                    over(Ok)
//!    Runs ─────────────────► Moves{Pause} ─────────────► Paused
//!     ▲                           │                       │  ▲
//!     │ over(Err): was taken back │                       │  │
//!     ├───────────────────────────┘                       │  │
//!     │                                                   │  │
//!     │ over(Ok), or the guest thaws late                 │  │
//!     ├──────────── Moves{Unpause} ◄── begin(Unpause) ────┤  │
//!     │                  └─ over(Err) ─► as before        │  │
//!     │                                                   │  │
//!     └─ over ───── Moves{Capture} ◄── begin(Capture) ────┘  │
//!                        └─ over, if it was paused ──────────┘
//! ```
//! `Unpause` and `Capture` begin in `Runs` too. `Readdress` begins and ends there. A step that fails sends the guest what takes it
//! back before it is over, so that `Runs` holds whatever the guest answers later: it works off its
//! messages in order.

use crate::supervisor::event::ClientId;

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Pause,
    Unpause,
    Capture,
    /// Of the guest's addresses, for a named network.
    Readdress,
}

/// A step that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) purpose: Purpose,
    /// The client that asked; none when the sandbox is to be stopped.
    pub(super) client: Option<ClientId>,
    /// Whether the guest was paused before.
    pub(super) was_paused: bool,
    /// Whether the guest had not yet answered what an earlier step asked.
    pub(super) owed: bool,
}

/// Whether the guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RunState {
    /// It runs, or will as soon as it has worked off what it was sent.
    #[default]
    Runs,
    /// A task talks to the agent and the machine.
    Moves(Step),
    /// It is frozen until an unpause, or until the sandbox is to end.
    Paused,
}

impl RunState {
    pub(super) const fn is_moving(self) -> bool {
        matches!(self, Self::Moves(_))
    }

    /// Whether it was paused by a user, also while that is captured or ends.
    pub(super) const fn is_paused(self) -> bool {
        match self {
            Self::Runs => false,
            Self::Moves(step) => step.was_paused,
            Self::Paused => true,
        }
    }

    /// Begins a step; the caller has made sure that none is under way.
    pub(super) fn begin(&mut self, purpose: Purpose, client: Option<ClientId>, owed: bool) {
        let was_paused = self.is_paused();
        *self = Self::Moves(Step {
            purpose,
            client,
            was_paused,
            owed,
        });
    }

    /// Ends the step that is under way and returns it.
    pub(super) fn over(&mut self, done: bool) -> Option<Step> {
        let Self::Moves(step) = *self else {
            return None;
        };
        let paused = match step.purpose {
            Purpose::Pause => done,
            Purpose::Unpause => step.was_paused && !done,
            Purpose::Capture | Purpose::Readdress => step.was_paused,
        };
        *self = if paused { Self::Paused } else { Self::Runs };
        Some(step)
    }

    /// The guest has thawed after nobody waited for it any more; whether that changes anything.
    pub(super) fn thawed_late(&mut self) -> bool {
        let changes = *self == Self::Paused;
        if changes {
            *self = Self::Runs;
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(from: RunState, purpose: Purpose, done: bool) -> RunState {
        let mut run_state = from;
        run_state.begin(purpose, None, false);
        assert!(run_state.is_moving());
        assert_eq!(run_state.is_paused(), from.is_paused());
        let step = run_state.over(done).unwrap();
        assert_eq!(step.purpose, purpose);
        run_state
    }

    #[test]
    fn every_step_ends_in_a_state_that_a_verb_can_leave() {
        use Purpose::{Capture, Pause, Readdress, Unpause};
        use RunState::{Paused, Runs};
        for (from, purpose, done, to) in [
            (Runs, Pause, true, Paused),
            (Runs, Pause, false, Runs),
            (Runs, Unpause, true, Runs),
            (Runs, Unpause, false, Runs),
            (Runs, Capture, true, Runs),
            (Runs, Capture, false, Runs),
            (Runs, Readdress, true, Runs),
            (Runs, Readdress, false, Runs),
            (Paused, Unpause, true, Runs),
            (Paused, Unpause, false, Paused),
            (Paused, Capture, true, Paused),
            (Paused, Capture, false, Paused),
        ] {
            let ended = after(from, purpose, done);
            assert_eq!(ended, to, "{from:?} {purpose:?} {done}");
            assert_eq!(after(ended, Unpause, true), Runs);
        }
    }

    #[test]
    fn a_late_thaw_ends_a_pause_and_nothing_else() {
        let mut run_state = RunState::Paused;
        assert!(run_state.thawed_late());
        assert_eq!(run_state, RunState::Runs);
        assert!(!run_state.thawed_late());
        run_state.begin(Purpose::Pause, Some(1), true);
        assert!(!run_state.thawed_late());
        assert!(run_state.is_moving());
        assert_eq!(run_state.over(true).unwrap().client, Some(1));
        assert_eq!(run_state.over(true), None);
    }
}
