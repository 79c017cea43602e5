//! An image that an archive offers, whichever of the formats lists it.

use cofferdam_types::{Digest, Platform};

use crate::{
    error::{Error, ErrorKind},
    manifest::Manifest,
    model::RawConfig,
};

/// An image that an archive offers.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Of the manifest.
    pub(crate) digest: Digest,
    pub(crate) platform: Platform,
    pub(crate) manifest: Manifest,
    pub(crate) config: RawConfig,
    /// Names as the archive has them.
    pub(crate) names: Vec<String>,
    /// The entry of the layout's index that it belongs to, with its other platforms.
    pub(crate) group: Option<usize>,
}

/// Whether an error is about one image and says nothing about others.
pub(crate) fn is_of_one_image(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::PlatformMismatch
    )
}
