//! Archives into the store.
//!
//! One pass over the archive, one write of each blob; then the root file system; then all images
//! of the archive get their names in one step, or none does.

use std::collections::HashMap;

use cofferdam_base::time::unix_time_ns;
use cofferdam_types::Platform;

use super::{LoadSource, candidate::Candidate, contents::Archive, images};
use crate::{
    error::{Error, ErrorKind, Result},
    manifest::{shown, wrong_platform},
    model::{Image, LoadedImage},
    progress::{Progress, ProgressEvent},
    reference::Reference,
    store::{
        ImageStore,
        index::Record,
        ingest::{Ingest, NewImage},
        rootfs::{Cancel, build, layer_files},
    },
};

/// Keeps what runs on `platform`, the best of each group; warns of what is left out.
fn choose(candidates: &mut Vec<Candidate>, platform: &Platform, progress: &dyn Progress) {
    let rank = |candidate: &Candidate| candidate.platform.rank_on(platform);
    let mut best = HashMap::new();
    for candidate in &*candidates {
        if let (Some(group), Some(rank)) = (candidate.group, rank(candidate)) {
            let known = best.entry(group).or_insert(rank);
            *known = rank.min(*known);
        }
    }
    candidates.retain(|candidate| {
        let is_best = match (rank(candidate), candidate.group) {
            (Some(rank), Some(group)) => best.get(&group) == Some(&rank),
            (rank, _) => rank.is_some(),
        };
        // Of an image with many platforms one is enough.
        let is_replaced = candidate
            .group
            .is_some_and(|group| best.contains_key(&group));
        if !is_best && !is_replaced {
            let name = candidate.names.first().map_or_else(
                || candidate.manifest.config.digest.to_string(),
                |name| name.to_owned(),
            );
            let text = format!(
                "Skipped {}: it is for `{}`, not for `{platform}`",
                shown(&name),
                candidate.platform
            );
            progress.event(ProgressEvent::Warning { text: &text });
        }
        is_best
    });
}

impl ImageStore {
    /// Reads the images of an archive that run on `platform`, builds their root file systems and
    /// names them as the archive does.
    ///
    /// # Errors
    /// `Corrupt`, `DigestMismatch`, `TooLarge` and `Unsupported` of the archive;
    /// `PlatformMismatch` when nothing in it runs on `platform`; `NotFound`, `Permission`,
    /// `NoSpace` and `Io` of the host. The store is then as it was.
    ///
    /// # Blocking
    /// As long as the source takes to give its bytes, and the building.
    pub fn load(
        &self,
        source: LoadSource,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>> {
        let ingest = Ingest::begin(&self.layout)?;
        let archive = Archive::open(&ingest, source, progress)?;
        let (mut candidates, refusals) = images::candidates(&archive)?;
        let offered: Vec<String> = candidates
            .iter()
            .map(|c| format!("`{}`", c.platform))
            .collect();
        if !candidates.iter().any(|c| c.platform.runs_on(platform)) {
            return Err(wrong_platform(platform, &offered.join(", ")));
        }
        for error in refusals {
            let text = format!("Skipped an image: {}", error.chain());
            progress.event(ProgressEvent::Warning { text: &text });
        }
        choose(&mut candidates, platform, progress);
        merge_names(&mut candidates);
        let mut images = Vec::new();
        let mut loaded = Vec::new();
        for candidate in candidates {
            for layer in &candidate.manifest.layers {
                if !archive.blob(&layer.digest, layer.size)? && !ingest.blob(&layer.digest).exists()
                {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("The archive lacks the layer `{}`", layer.digest),
                    ));
                }
            }
            let (image, references) = self.prepare(&ingest, candidate, progress)?;
            loaded.push(image);
            images.push(NewImage {
                record: references.0,
                references: references.1,
            });
        }
        ingest.commit(images)?;
        Ok(loaded)
    }

    fn prepare(
        &self,
        ingest: &Ingest,
        candidate: Candidate,
        progress: &dyn Progress,
    ) -> Result<(LoadedImage, (Record, Vec<String>))> {
        let Candidate {
            digest,
            manifest,
            config,
            names,
            platform,
            ..
        } = candidate;
        let references = full_names(&names, progress);
        let layers = layer_files(&manifest, &config, |digest| ingest.blob(digest));
        let built = build(
            layers,
            &config.config.volumes,
            &ingest.rootfs(&digest),
            progress,
            &Cancel::default(),
        )?;
        let record = Record {
            id: manifest.config.digest,
            manifest: digest,
            platform: platform.clone(),
            created: config.created.0.clone(),
            added_ns: unix_time_ns(),
            size_bytes: manifest.content_bytes(),
            repo_digests: Default::default(),
            layers: manifest.layers.iter().map(|layer| layer.digest).collect(),
            rootfs: Some(built),
        };
        let image = Image {
            id: record.id,
            manifest: digest,
            platform,
            config: config.config,
        };
        Ok((
            LoadedImage {
                image,
                references: references.clone(),
            },
            (record, references),
        ))
    }
}

/// A layout lists an image once for each of its names.
fn merge_names(candidates: &mut Vec<Candidate>) {
    let mut merged: Vec<Candidate> = Vec::new();
    for candidate in candidates.drain(..) {
        match merged
            .iter_mut()
            .find(|other| other.digest == candidate.digest)
        {
            Some(other) => other.names.extend(candidate.names),
            None => merged.push(candidate),
        }
    }
    *candidates = merged;
}

/// The full names among `names`. A name that is not valid is a warning and is left out; the image
/// still has its id.
fn full_names(names: &[String], progress: &dyn Progress) -> Vec<String> {
    let mut full = Vec::new();
    // Docker and podman write these for an image without a name.
    let given = |name: &&String| !name.is_empty() && !name.contains("<none>");
    for name in names.iter().filter(given) {
        match name
            .parse::<Reference>()
            .map(|reference| reference.tagged())
        {
            Ok(Some(reference)) => full.push(reference.to_string()),
            // A digest alone is no name that an image can be given; the image has it anyway.
            Ok(None) => {}
            Err(error) => {
                let text = format!("Left a name out: {error}");
                progress.event(ProgressEvent::Warning { text: &text });
            }
        }
    }
    full.sort();
    full.dedup();
    full
}
