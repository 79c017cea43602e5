//! Making, listing and removing pools.

use std::{path::PathBuf, time::Duration};

use cofferdam_base::{fs, time::unix_time_ns};
use cofferdam_image::{Image, ImageStore, Progress};
use cofferdam_proto::Request;
use cofferdam_types::{Digest, SandboxId, SandboxSpec, valid_name};

use super::{
    FORMAT_VERSION, MAX_SIZE, Pool, PoolInfo, PoolManifest, PoolOptions, StandbyPaths, fill,
    is_automatic,
};
use crate::{
    base::error::{Error, ErrorKind, Result, io, lift},
    client::Connection,
    spec::{interpreters::AutoWarmUps, process},
    store::{Store, images, layout::Layout, staging::StagingDir},
    template::{self, MachineShape, RootShape, TemplatePlan},
};

/// How long the removal of a pool waits for a process that fills it to have made its standby.
const FILL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the standbys of a pool that is removed may take to end, all together. Each takes
/// milliseconds.
pub(super) const RETIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// What is done with the pools of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pools<'a> {
    pub(crate) store: &'a Store,
    pub(crate) images: &'a ImageStore,
}

impl Pools<'_> {
    /// Makes a pool of standbys for `spec`'s image and shape, and fills it.
    ///
    /// # Errors
    /// Of the image, the spec, the commands or the host; [`ErrorKind::NameTaken`].
    pub(crate) async fn create(
        &self,
        spec: SandboxSpec,
        options: &PoolOptions,
        progress: &dyn Progress,
    ) -> Result<PoolInfo> {
        crate::host::admission::spec(&spec)?;
        let name = pool_name(&spec, options)?;
        let layout = self.store.layout();
        let target = layout.pools().join(&name);
        if target.exists() {
            let what = format!("The name `{name}` is taken by another pool");
            return Err(Error::new(ErrorKind::NameTaken, what).hint(format!(
                "Remove it with `coffer pool rm {name}`, or name this one"
            )));
        }
        let image = images::find_image(self.store.layout(), self.images, &spec, progress).await?;
        let rootfs = lift(self.images.rootfs(&image, progress))?;
        let root = RootShape::of(&spec, image.manifest).filter(|_| spec.tmpfs.is_empty());
        let Some(root) = root else {
            let what = "Standbys cannot have tmpfs mounts of their own";
            return Err(Error::new(ErrorKind::Unsupported, what).hint("Leave out `--tmpfs`"));
        };
        let shape = MachineShape::of(&spec, rootfs.disk_bytes);
        let manifest = manifest(
            layout,
            name.clone(),
            &spec,
            options,
            &image,
            (shape, root, rootfs.path),
        )?;
        let staging = StagingDir::new(target)?;
        fs::publish_json(&staging.path().join("pool.json"), &manifest, false)
            .map_err(|error| io("Could not write a pool", error))?;
        let dir = staging.publish()?;
        let pool = Pool { dir, manifest };
        if let Err(error) = fill::fill(layout, &pool).await {
            // A pool that cannot be filled is none.
            self.remove(&name).await?;
            return Err(error);
        }
        Ok(pool.info(layout))
    }

    /// The name of a pool whose standbys have this image.
    pub(crate) fn of_image(&self, image: &Digest) -> Option<String> {
        let pools = Pool::all(self.store.layout());
        let mut manifests = pools.into_iter().map(|pool| pool.manifest);
        manifests
            .find(|manifest| manifest.image == Some(*image))
            .map(|manifest| manifest.name)
    }

    /// Every pool.
    pub(crate) fn list(&self) -> Vec<PoolInfo> {
        let layout = self.store.layout();
        let mut all: Vec<_> = Pool::all(layout)
            .iter()
            .map(|pool| pool.info(layout))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Ends a pool's standbys and removes it. Sandboxes that claimed one go on.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let layout = self.store.layout();
        let pool = Pool::load(layout, name)?;
        // Without its manifest nobody fills it again.
        fs::remove_file_if_present(&pool.dir.join("pool.json"))
            .map_err(|error| io(format!("Could not remove pool `{name}`"), error))?;
        // A process that fills it stops before the next standby. If that one hangs, so does the
        // process, until the standby is killed.
        let _lock = match tokio::time::timeout(FILL_TIMEOUT, fill::lock(&pool)).await {
            Ok(lock) => lock?,
            Err(_) => {
                for id in pool.ids() {
                    let place = StandbyPaths::of(layout, &pool, id);
                    if !place.is_ready() && place.give_up_unready() {
                        pool.end(layout, id);
                    }
                }
                fill::lock(&pool).await?
            }
        };
        let deadline = tokio::time::Instant::now() + RETIRE_TIMEOUT;
        for id in pool.standbys(layout) {
            let place = StandbyPaths::of(layout, &pool, id);
            let retired = tokio::time::timeout_at(deadline, retire(&place)).await;
            // One that was claimed at this moment lives on as somebody's sandbox.
            if retired.is_err() && (place.give_up() || place.is_given_up()) {
                pool.end(layout, id);
            }
        }
        fs::remove_dir_if_present(&pool.dir)
            .map_err(|error| io(format!("Could not remove pool `{name}`"), error))
    }
}

/// What is written down of a pool.
fn manifest(
    layout: &Layout,
    name: String,
    spec: &SandboxSpec,
    options: &PoolOptions,
    image: &Image,
    (shape, root, rootfs): (MachineShape, RootShape, PathBuf),
) -> Result<PoolManifest> {
    let command = |argv: &Vec<String>| {
        let spec = SandboxSpec {
            entrypoint: Some(Vec::new()),
            command: argv.clone(),
            ..spec.clone()
        };
        process::merge(&spec, &image.config, SandboxId::from_random([0; 32]))
    };
    Ok(PoolManifest {
        format: FORMAT_VERSION,
        name,
        size: options.size,
        created_ns: unix_time_ns(),
        backend: crate::host::backend(layout, spec.backend.as_deref())?
            .name()
            .to_owned(),
        kernel: spec.kernel.clone(),
        image: Some(image.id),
        plan: TemplatePlan {
            shape,
            root,
            rootfs,
            image_name: spec.image.clone(),
            warm_ups: Vec::new(),
            workload: None,
            limit: template::DEFAULT_TIMEOUT,
            auto_warm_ups: AutoWarmUps::of(spec, &image.config),
        },
        warm_ups: options
            .warm_ups
            .iter()
            .map(command)
            .collect::<Result<_>>()?,
        ends_after_s: None,
    })
}

/// Asks a standby to end.
async fn retire(place: &StandbyPaths) -> Result<()> {
    let mut standby = Connection::open(&place.socket(), Request::Retire).await?;
    standby.answer().await.map(drop)
}

/// The name asked for, or the last part of the image's.
fn pool_name(spec: &SandboxSpec, options: &PoolOptions) -> Result<String> {
    if !(1..=MAX_SIZE).contains(&options.size) {
        let what = format!(
            "`{}` standbys are not between 1 and {MAX_SIZE}",
            options.size
        );
        return Err(Error::new(ErrorKind::InvalidSpec, what));
    }
    let of_image = || {
        let last = spec.image.rsplit('/').next().unwrap_or_default();
        last.split(['@', ':']).next().unwrap_or_default().to_owned()
    };
    let name = options.name.clone().unwrap_or_else(of_image);
    if !valid_name(&name) {
        let what = format!("`{name}` is not a name for a pool");
        return Err(Error::new(ErrorKind::InvalidSpec, what).hint("Give one with `--name`"));
    }
    if is_automatic(&name) {
        let what = format!("`{name}` is a name of an automatic pool");
        return Err(Error::new(ErrorKind::InvalidSpec, what).hint("Give another with `--name`"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(image: &str, name: Option<&str>, size: u32) -> Result<String> {
        let spec = SandboxSpec {
            image: image.to_owned(),
            ..SandboxSpec::default()
        };
        let options = PoolOptions {
            name: name.map(str::to_owned),
            size,
            warm_ups: Vec::new(),
        };
        pool_name(&spec, &options)
    }

    #[test]
    fn a_pool_is_named_after_its_image_unless_it_has_a_name() {
        for (image, name) in [
            ("debian", "debian"),
            ("example.com:5000/team/app:1.2", "app"),
            ("app@sha256:00", "app"),
        ] {
            assert_eq!(named(image, None, 1).unwrap(), name);
        }
        assert_eq!(named("debian", Some("web"), 1).unwrap(), "web");
        assert!(named("debian", Some("../web"), 1).is_err());
        assert!(named("debian", Some("auto.web"), 1).is_err());
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for size in [0, MAX_SIZE + 1] {
            assert_eq!(
                named("x", None, size).unwrap_err().kind(),
                ErrorKind::InvalidSpec
            );
        }
    }
}
