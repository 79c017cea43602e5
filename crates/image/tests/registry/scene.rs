//! A registry with an image, and a store to pull it into.

use std::{future::Future, sync::Mutex, time::Duration};

use cofferdam_image::{Error, Image, NoProgress, Progress, ProgressEvent, PullOptions, Result};
use cofferdam_testkit::registry::{FakeRegistry, digest};

use crate::store_support::{self, Sample, TestStore, amd64, files_below};

/// A registry with one image, a store to pull it into, and no credentials.
pub(crate) struct Scene {
    pub(crate) registry: FakeRegistry,
    pub(crate) test: TestStore,
    pub(crate) sample: Sample,
    pub(crate) options: PullOptions,
    pub(crate) config: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let registry = FakeRegistry::start();
        // Large enough for several reads, and not compressible to nothing.
        let noise: Vec<u8> = (0..400_000_u32)
            .flat_map(|i| (i ^ i << 7).to_le_bytes())
            .collect();
        let sample = Sample::of("amd64", &store_support::tar(&[("f", &noise)])).gzipped();
        sample.push(&registry, "x", "1");
        let config = tempfile::tempdir().unwrap();
        let options = PullOptions {
            mirrors: Some(String::new()),
            docker_config: Some(config.path().to_owned()),
            stall_timeout: Duration::from_secs(10),
            retry_wait: Duration::from_millis(1),
            ..PullOptions::default()
        };
        Self {
            registry,
            test: TestStore::new(),
            sample,
            options,
            config,
        }
    }

    pub(crate) fn layer(&self) -> String {
        digest(&self.sample.layer)
    }

    pub(crate) fn pull(&self) -> Result<Image> {
        self.pull_with("x:1", &NoProgress)
    }

    pub(crate) fn pull_with(&self, name: &str, progress: &dyn Progress) -> Result<Image> {
        let reference = format!("{}/{name}", self.registry.host()).parse()?;
        block_on(
            self.test
                .store
                .pull(&reference, &amd64(), &self.options, progress),
        )
    }

    /// A pull that must fail and leave nothing.
    pub(crate) fn refused(&self) -> Error {
        let error = self.pull().expect_err("the pull fails");
        assert!(self.test.store.list().unwrap().is_empty());
        assert_eq!(
            files_below(self.test.dir.path()),
            Vec::<String>::new(),
            "{error:?}"
        );
        error
    }

    pub(crate) fn login(&self, content: &str) {
        std::fs::write(self.config.path().join("config.json"), content).unwrap();
    }

    pub(crate) fn asked_for(&self, part: &str) -> usize {
        self.registry
            .requests()
            .iter()
            .filter(|r| r.path.contains(part))
            .count()
    }
}

/// Keeps the warnings of a pull.
#[derive(Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub(crate) fn taken(self) -> Vec<String> {
        self.0.into_inner().unwrap()
    }
}

impl Progress for Warnings {
    fn event(&self, event: ProgressEvent<'_>) {
        if let ProgressEvent::Warning { text } = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

pub(crate) fn part(digest: &str) -> String {
    digest[7..].to_owned()
}
