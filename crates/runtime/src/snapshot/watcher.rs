//! Telling how far a capture has come, by the bytes of its files so far.

use std::{fmt, future::Future, path::Path, pin::pin, sync::Arc, time::Duration};

use cofferdam_image::{Phase, Progress, ProgressEvent};

/// How often that is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// Who is told how far a snapshot or fork has come; by default nobody.
#[derive(Clone, Default)]
pub struct Watcher(Option<Arc<dyn Progress>>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watcher({})", self.0.is_some())
    }
}

impl Watcher {
    /// Tells `progress`.
    pub fn new(progress: Arc<dyn Progress>) -> Self {
        Self(Some(progress))
    }

    /// Tells of the files in `dir` while `capture` makes them.
    pub(super) async fn during<T>(&self, dir: &Path, capture: impl Future<Output = T>) -> T {
        if self.0.is_none() {
            return capture.await;
        }
        self.begin(Phase::Capturing, None);
        let mut capture = pin!(capture);
        loop {
            match tokio::time::timeout(INTERVAL, &mut capture).await {
                Ok(done) => return done,
                Err(_) => self.advanced(bytes_in(dir)),
            }
        }
    }

    pub(super) fn begin(&self, phase: Phase, total_bytes: Option<u64>) {
        self.tell(ProgressEvent::Phase { phase, total_bytes });
    }

    pub(super) fn advanced(&self, done_bytes: u64) {
        self.tell(ProgressEvent::PhaseAdvanced { done_bytes });
    }

    fn tell(&self, event: ProgressEvent<'_>) {
        if let Some(progress) = &self.0 {
            progress.event(event);
        }
    }
}

/// Bytes that the files in `dir` use. Those that come or go meanwhile do not matter.
fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| cofferdam_disk::allocated_bytes(&entry.path()).ok());
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct EventList(Mutex<Vec<String>>);

    impl Progress for EventList {
        fn event(&self, event: ProgressEvent<'_>) {
            self.0.lock().unwrap().push(format!("{event:?}"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_capture_tells_the_bytes_of_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let told = Arc::new(EventList::default());
        let watcher = Watcher::new(told.clone());
        let capture = async {
            std::fs::write(dir.path().join("upper"), [1; 8192]).unwrap();
            // Time, on purpose: the test's clock jumps over it.
            tokio::time::sleep(INTERVAL * 2).await;
            5
        };
        assert_eq!(watcher.during(dir.path(), capture).await, 5);
        let told = told.0.lock().unwrap();
        assert!(told[0].contains("Capturing"), "{told:?}");
        assert!(told[1].contains("done_bytes: 8192"), "{told:?}");
    }
}
