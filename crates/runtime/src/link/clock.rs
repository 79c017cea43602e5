//! The time line of a start.

use std::time::Instant;

use cofferdam_proto::Stage;

/// Measures the stages of a start.
pub(crate) struct Clock {
    last: Instant,
    pub(crate) stages: Vec<Stage>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            last: Instant::now(),
            stages: Vec::new(),
        }
    }

    /// Ends a stage by a note, which is cut to the room that the table of stages has.
    pub(crate) fn lap_noted(&mut self, note: &str) {
        const CHARACTERS: usize = 120;
        self.lap(&note.chars().take(CHARACTERS).collect::<String>());
    }

    pub(crate) fn lap(&mut self, name: &str) {
        let now = Instant::now();
        let micros = u64::try_from((now - self.last).as_micros()).unwrap_or(u64::MAX);
        self.stages.push(Stage {
            name: name.to_owned(),
            micros,
        });
        self.last = now;
    }
}
