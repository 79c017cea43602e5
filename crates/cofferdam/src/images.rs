//! The images of a store.

use std::io::Write;

use cofferdam_runtime::{
    Result,
    image::{
        HistoryEntry, Image, ImageDetails, ImageSummary, LoadSource, LoadedImage, Progress,
        Reference, Removed, SaveFormat,
    },
    lift_image,
};
use cofferdam_types::Platform;

use crate::Coffer;

/// Reads an image's name as Docker does: `debian` is `docker.io/library/debian:latest`.
///
/// # Errors
/// [`crate::ErrorKind::InvalidSpec`] when it is no name.
pub fn parse_reference(text: &str) -> Result<Reference> {
    lift_image(text.parse())
}

/// The images of a store.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    coffer: &'a Coffer,
}

impl<'a> Images<'a> {
    pub(crate) const fn new(coffer: &'a Coffer) -> Self {
        Self { coffer }
    }

    /// Fetches an image from its registry. Every byte is checked against its digest.
    ///
    /// # Errors
    /// Of the registry, the network, the image or the disk.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let store = self.coffer.runtime.images();
        let options = &self.coffer.runtime.store().layout().choices().pull;
        lift_image(store.pull(reference, platform, options, progress).await)
    }

    /// Reads images from a docker archive or an OCI layout.
    ///
    /// # Errors
    /// Of the archive or the disk.
    ///
    /// # Blocking
    /// As long as the reading takes; use a blocking thread in a busy runtime.
    pub fn load(
        &self,
        source: LoadSource,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>> {
        lift_image(
            self.coffer
                .runtime
                .images()
                .load(source, platform, progress),
        )
    }

    /// Writes images as an archive.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ImageNotFound`], or of the writer.
    ///
    /// # Blocking
    /// As long as the writing takes.
    pub fn save(&self, names: &[String], format: SaveFormat, out: &mut dyn Write) -> Result<()> {
        lift_image(self.coffer.runtime.images().save(names, format, out))
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ImageNotFound`].
    pub fn tag(&self, name: &str, new: &Reference) -> Result<()> {
        lift_image(self.coffer.runtime.images().tag(name, new))
    }

    /// Every image.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<ImageSummary>> {
        lift_image(self.coffer.runtime.images().list())
    }

    /// All about an image.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ImageNotFound`].
    pub fn inspect(&self, name: &str) -> Result<ImageDetails> {
        lift_image(self.coffer.runtime.images().inspect(name))
    }

    /// How an image was made.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ImageNotFound`].
    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        lift_image(self.coffer.runtime.images().history(name))
    }

    /// Removes a name, and the image with its last name; with `force` also when it has several.
    /// An image that a sandbox uses stays. The templates of an image go with it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::ImageNotFound`], [`crate::ErrorKind::InUse`].
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let user = |image: &_| self.coffer.image_user(image);
        let removed = lift_image(self.coffer.runtime.images().remove(name, force, &user))?;
        self.drop_templates();
        Ok(removed)
    }

    /// Removes images without a name; with `all`, every image that no sandbox uses. Their templates
    /// go with them.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune(&self, all: bool) -> Result<Removed> {
        let user = |image: &_| self.coffer.image_user(image);
        let removed = lift_image(self.coffer.runtime.images().prune(all, &user))?;
        self.drop_templates();
        Ok(removed)
    }

    /// Has the templates of images that are gone follow them.
    fn drop_templates(&self) {
        // The images are gone; a template that stays is taken by the next removal.
        let _ = self.coffer.runtime.drop_unneeded_templates(false);
    }
}
