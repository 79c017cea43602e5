//! The images of an archive, as both formats list them.

use super::{
    candidate::{Candidate, is_of_one_image},
    contents::Archive,
    docker, oci,
};
use crate::error::{Error, ErrorKind, Result};

/// The images in `archive`, and why others that it lists are none of them.
pub(crate) fn candidates(archive: &Archive<'_>) -> Result<(Vec<Candidate>, Vec<Error>)> {
    let mut refusals = Vec::new();
    let index = archive.document(oci::INDEX)?;
    let mut found = match &index {
        Some(index) => oci::candidates(archive, index, &mut refusals)?,
        None => Vec::new(),
    };
    let list = if archive.is_tar() {
        archive.document(docker::MANIFEST)?
    } else {
        None
    };
    for entry in list.as_deref().map_or(Ok(Vec::new()), docker::entries)? {
        add_docker_entry(archive, &entry, &mut found, &mut refusals)?;
    }
    if found.is_empty() {
        let nothing = || {
            Error::new(
                ErrorKind::Corrupt,
                "There is no `manifest.json` of Docker's and no `index.json` of an OCI layout \
                 in it that lists an image",
            )
            .hint("Write one with `docker save`, `podman save` or `skopeo copy`")
        };
        return Err(refusals.pop().unwrap_or_else(nothing));
    }
    Ok((found, refusals))
}

/// Docker writes a layout with a `manifest.json` beside it, which has the names. What only
/// that lists is an image too.
fn add_docker_entry(
    archive: &Archive<'_>,
    entry: &docker::DockerEntry,
    found: &mut Vec<Candidate>,
    refusals: &mut Vec<Error>,
) -> Result<()> {
    let mut is_known = false;
    for candidate in &mut *found {
        if entry.is_of(archive, &candidate.manifest.config.digest)? {
            candidate
                .names
                .extend(entry.repo_tags.iter().flatten().cloned());
            is_known = true;
        }
    }
    if is_known {
        return Ok(());
    }
    match docker::candidate(archive, entry) {
        Ok(candidate) => {
            found.push(candidate);
            // It is what the layout failed to give.
            refusals.pop();
        }
        Err(error) if is_of_one_image(&error) => refusals.push(error),
        Err(error) => return Err(error),
    }
    Ok(())
}
