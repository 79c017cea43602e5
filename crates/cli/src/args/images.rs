//! Verbs about images.

use std::path::PathBuf;

use cofferdam::Platform;

/// List images.
#[derive(Debug, clap::Args)]
pub(crate) struct ImagesArgs {
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Only images of this repository
    pub(crate) repository: Option<String>,
}

/// Fetch an image.
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// Print only the image's id
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Platform
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<Platform>,
    pub(crate) image: String,
}

/// Load images.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// File or directory; standard input when absent
    #[arg(short, long, value_name = "PATH")]
    pub(crate) input: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Platform
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<Platform>,
}

/// Save images.
#[derive(Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// File; standard output when absent
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Form: docker or oci
    #[arg(long, default_value = "docker", value_parser = ["docker", "oci"])]
    pub(crate) format: String,
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

/// Give an image one more name.
#[derive(Debug, clap::Args)]
pub(crate) struct TagArgs {
    pub(crate) image: String,
    pub(crate) name: String,
}

/// Remove images.
#[derive(Debug, clap::Args)]
pub(crate) struct RmiArgs {
    /// Also when it has several names
    #[arg(short, long)]
    pub(crate) force: bool,
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

/// Show how an image was made.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// Whole commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    pub(crate) image: String,
}
