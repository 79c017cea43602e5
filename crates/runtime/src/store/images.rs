//! Finding the image that a specification names.

use cofferdam_image::{Image, ImageStore, Progress, Reference};
use cofferdam_types::{Platform, PullPolicy, SandboxSpec};

use super::layout::Layout;
use crate::base::error::{Error, ErrorKind, Result, lift};

/// The image of `spec`, pulled if it is to be.
///
/// # Errors
/// [`ErrorKind::ImageNotFound`] when it is not there and not to be pulled;
/// [`ErrorKind::Unsupported`] for another platform; those of a pull.
pub(crate) async fn find_image(
    layout: &Layout,
    images: &ImageStore,
    spec: &SandboxSpec,
    progress: &dyn Progress,
) -> Result<Image> {
    let platform = spec.platform.clone().unwrap_or_else(Platform::host);
    if !platform.runs_on(&Platform::host()) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("Images for {platform} do not run on {}", Platform::host()),
        ));
    }
    let found = if spec.pull == PullPolicy::Always {
        None
    } else {
        lift(images.resolve(&spec.image, &platform))?
    };
    if let Some(image) = found {
        return Ok(image);
    }
    if spec.pull == PullPolicy::Never {
        return Err(Error::new(
            ErrorKind::ImageNotFound,
            format!(
                "There is no image `{}` for {platform} in the store",
                spec.image
            ),
        )
        .hint("Pull or load it, or allow that with `--pull missing`"));
    }
    let reference: Reference = lift(spec.image.parse())?;
    let options = &layout.choices().pull;
    lift(images.pull(&reference, &platform, options, progress).await)
}
