//! Progress of long work: bars on a terminal, nothing elsewhere; with `-v`, what each phase took.

use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use cofferdam::{Phase, Progress, ProgressEvent};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::output;

/// Bars for layers and phases.
#[derive(Debug)]
pub(crate) struct Bars {
    multi: MultiProgress,
    // Both are taken for the length of one event, never together.
    bars: Mutex<HashMap<String, ProgressBar>>,
    phases: Mutex<Vec<(&'static str, Instant)>>,
    enabled: bool,
    verbose: bool,
}

const PHASE: &str = "";

impl Bars {
    /// Bars on standard error, if that is a terminal and they are wanted.
    pub(crate) fn new(quiet: bool, verbose: bool) -> Self {
        let enabled = !quiet && std::io::stderr().is_terminal();
        Self {
            multi: MultiProgress::new(),
            bars: Mutex::new(HashMap::new()),
            phases: Mutex::new(Vec::new()),
            enabled,
            verbose,
        }
    }

    /// Clears the bars and tells what the phases took, if that is wanted.
    pub(crate) fn finish(self) {
        let end = Instant::now();
        let phases = self.phases.lock();
        let phases = std::mem::take(&mut *phases.unwrap_or_else(PoisonError::into_inner));
        let verbose = self.verbose;
        drop(self);
        if verbose {
            let ends = phases.iter().skip(1).map(|(_, begin)| *begin).chain([end]);
            for ((name, begin), end) in phases.iter().zip(ends) {
                output::stage(end - *begin, name);
            }
        }
    }

    /// Takes the bars from the screen, so that lines can be printed.
    pub(crate) fn clear(&self) {
        self.with(|bars| bars.drain().for_each(|(_, bar)| bar.finish_and_clear()));
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
        change(&mut self.bars.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}

fn title(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolving => "Resolving",
        Phase::Downloading => "Downloading",
        Phase::Reading => "Reading",
        Phase::Writing => "Writing",
        Phase::Unpacking => "Building root",
        Phase::Capturing => "Copying",
        Phase::Syncing => "Syncing",
        _ => "Working",
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Bars {
    fn event(&self, event: ProgressEvent<'_>) {
        if let ProgressEvent::Phase { phase, .. } = event {
            let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
            phases.push((title(phase), Instant::now()));
        }
        if let ProgressEvent::Warning { text } = event {
            // Beside the bars, not among them.
            self.multi.suspend(|| output::warning_line(text));
        }
        if !self.enabled {
            return;
        }
        match event {
            ProgressEvent::Phase { phase, total_bytes } => {
                self.add(PHASE, title(phase).to_owned(), total_bytes);
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
