//! Automatic standbys: one, of the image that ran last, for a short time.
//!
//! It is a pool of its own with a standby that ends by itself, and the pool with it. The pool's
//! name comes from its template's key; another image's takes its place.

use cofferdam_backend::Backend;
use cofferdam_base::{fs, time::unix_time_ns};
use cofferdam_proto::Request;

use super::{FORMAT_VERSION, Pool, PoolManifest, StandbyPaths, fill::spawn_fill};
use crate::{
    base::error::{ErrorKind, Result, io, lift},
    client::Connection,
    host::guest,
    store::{Entry, config::Config, layout::Layout, staging::StagingDir},
    template::{self, DEFAULT_TIMEOUT, MachineShape, RootShape, TemplatePlan},
};

/// How often the directory of a pool that has ended is removed while another process writes in it.
const REMOVAL_TRIES: u32 = 8;

/// How automatic pools' names begin.
const PREFIX: &str = "auto.";

/// Digits of the template's key in a name.
const KEY_DIGITS: usize = 12;

/// Has one standby kept for the next sandbox like this one, if it is not too large. It is made in
/// the background.
///
/// # Errors
/// Of the settings, the backend or the file system.
pub(crate) fn keep_one(layout: &Layout, entry: &Entry, backend: &str) -> Result<()> {
    let (record, config) = (&entry.record, Config::load(layout)?);
    let Some(root) = RootShape::of(&record.spec, record.image.manifest) else {
        return Ok(());
    };
    if record.spec.memory.bytes() > config.standby_memory().bytes() {
        return Ok(());
    }
    let guest = guest::find(layout, record.spec.kernel.as_deref())?;
    let backend = crate::host::backend(layout, Some(backend))?;
    let mut manifest = PoolManifest {
        format: FORMAT_VERSION,
        name: String::new(),
        size: 1,
        created_ns: unix_time_ns(),
        backend: backend.name().to_owned(),
        kernel: record.spec.kernel.clone(),
        // It must not keep its image from being removed: it ends by itself.
        image: None,
        plan: TemplatePlan {
            shape: MachineShape::of(&record.spec, record.image.disk_bytes),
            root,
            rootfs: record.image.rootfs.clone(),
            image_name: record.image.name.clone(),
            warm_ups: Vec::new(),
            workload: None,
            limit: DEFAULT_TIMEOUT,
            auto_warm_ups: record.image.auto_warm_ups.clone(),
        },
        warm_ups: Vec::new(),
        ends_after_s: Some(config.standby_time().as_secs()),
    };
    manifest.name = name(&manifest, backend.as_ref(), &guest)?;
    let target = layout.pools().join(&manifest.name);
    if !target.join("pool.json").exists() {
        // What is left of one whose standby has just ended.
        let _ = fs::remove_dir_if_present(&target);
        let staging = StagingDir::new(target)?;
        fs::publish_json(&staging.path().join("pool.json"), &manifest, false)
            .map_err(|error| io("Could not write a pool", error))?;
        match staging.publish() {
            // Another sandbox of the same kind was faster.
            Err(error) if error.kind() == ErrorKind::Io => {}
            published => drop(published?),
        }
    }
    spawn_fill(layout, &manifest.name)
}

/// Whether a pool of this name is one that was made by itself.
pub(crate) fn is_automatic(name: &str) -> bool {
    name.starts_with(PREFIX)
}

fn name(
    manifest: &PoolManifest,
    backend: &dyn Backend,
    guest: &guest::GuestFiles,
) -> Result<String> {
    let (plan, compatibility) = (&manifest.plan, lift(backend.compatibility_key())?);
    let (key, _) = template::image_key(guest, &compatibility, &plan.shape, &plan.root);
    Ok(format!("{PREFIX}{}", &key[..KEY_DIGITS.min(key.len())]))
}

/// Removes an automatic pool without a standby.
pub(crate) fn remove_if_empty(layout: &Layout, name: &str) {
    // One that cannot be read is replaced by the next automatic pool.
    if let Ok(pool) = Pool::load(layout, name) {
        pool.remove_empty(layout);
    }
}

impl Pool {
    /// Whether it is one that was made by itself.
    pub(super) fn is_automatic(&self) -> bool {
        self.manifest.ends_after_s.is_some()
    }

    /// Ends the automatic standbys of other images, before this pool gets its own.
    pub(super) async fn end_other_automatic(&self, layout: &Layout) {
        let others = Self::all(layout).into_iter();
        let others = others.filter(|other| other.is_automatic() && other.dir != self.dir);
        for other in others {
            other.end_automatic(layout).await;
        }
    }

    /// Ends an automatic pool. One that was claimed at this moment lives on as a sandbox.
    async fn end_automatic(&self, layout: &Layout) {
        let _ = fs::remove_file_if_present(&self.dir.join("pool.json"));
        for id in self.standbys(layout) {
            let place = StandbyPaths::of(layout, self, id);
            let ask = async {
                let mut standby = Connection::open(&place.socket(), Request::Retire).await?;
                standby.answer().await
            };
            let asked = tokio::time::timeout(super::catalogue::RETIRE_TIMEOUT, ask).await;
            if asked.is_err() && place.give_up() {
                self.end(layout, id);
            }
        }
        self.remove_empty(layout);
    }

    /// Removes what is left of an automatic pool that has ended. Its last standby does this: it has
    /// files there until its process ends, which is after it has answered the one that ends it.
    pub(super) fn remove_ended(&self, layout: &Layout) {
        if !self.dir.join("pool.json").exists() {
            self.remove_empty(layout);
        }
    }

    /// Removes an automatic pool whose standby has ended.
    pub(super) fn remove_empty(&self, layout: &Layout) {
        if self.is_automatic() && self.standbys(layout).is_empty() {
            // The process that fills it may write its log at this moment, and then the directory is
            // not empty. A leftover is removed by the next automatic pool.
            let removed = |_| fs::remove_dir_if_present(&self.dir).is_ok();
            let _ = (0..REMOVAL_TRIES).any(removed);
        }
    }
}
