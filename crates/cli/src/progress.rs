//! Progress of long work: bars on a terminal, nothing elsewhere.

use std::{collections::HashMap, io::IsTerminal, sync::Mutex};

use cofferdam::{Phase, Progress, ProgressEvent};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Bars for layers and phases.
#[derive(Debug)]
pub(crate) struct Bars {
    multi: MultiProgress,
    // Taken for the length of one event.
    bars: Mutex<HashMap<String, ProgressBar>>,
    enabled: bool,
}

const PHASE: &str = "";

impl Bars {
    /// Bars on standard error, if that is a terminal and they are wanted.
    pub(crate) fn new(quiet: bool) -> Self {
        let enabled = !quiet && std::io::stderr().is_terminal();
        Self {
            multi: MultiProgress::new(),
            bars: Mutex::new(HashMap::new()),
            enabled,
        }
    }

    fn add(&self, id: &str, title: String, total: Option<u64>) {
        let bar = match total {
            Some(total) => ProgressBar::new(total).with_style(style(
                "{msg:14} {bar:30} {bytes:>10}/{total_bytes:10} {bytes_per_sec}",
            )),
            None => ProgressBar::new_spinner().with_style(style("{msg:14} {spinner} {bytes}")),
        };
        let bar = self.multi.add(bar.with_message(title));
        self.with(|bars| {
            if let Some(old) = bars.insert(id.to_owned(), bar) {
                old.finish_and_clear();
            }
        });
    }

    fn with(&self, change: impl FnOnce(&mut HashMap<String, ProgressBar>)) {
        change(
            &mut self
                .bars
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.with(|bars| bars.values().for_each(ProgressBar::finish_and_clear));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Bars {
    fn event(&self, event: ProgressEvent<'_>) {
        if !self.enabled {
            return;
        }
        match event {
            ProgressEvent::Phase { phase, total_bytes } => {
                let title = match phase {
                    Phase::Resolving => "Resolving",
                    Phase::Downloading => "Downloading",
                    Phase::Reading => "Reading",
                    Phase::Unpacking => "Building root",
                    _ => "Working",
                };
                self.add(PHASE, title.to_owned(), total_bytes);
            }
            ProgressEvent::PhaseAdvanced { done_bytes } => self.with(|bars| {
                if let Some(bar) = bars.get(PHASE) {
                    bar.set_position(done_bytes);
                }
            }),
            ProgressEvent::LayerStarted { id, total_bytes } => {
                self.add(id, id.to_owned(), Some(total_bytes));
            }
            ProgressEvent::LayerAdvanced { id, bytes } => self.with(|bars| {
                if let Some(bar) = bars.get(id) {
                    bar.inc(bytes);
                }
            }),
            ProgressEvent::LayerRetried { id, kept_bytes } => self.with(|bars| {
                if let Some(bar) = bars.get(id) {
                    bar.set_position(kept_bytes);
                }
            }),
            ProgressEvent::LayerDone { id, .. } => self.with(|bars| {
                if let Some(bar) = bars.remove(id) {
                    bar.finish_and_clear();
                }
            }),
            _ => {}
        }
    }
}
