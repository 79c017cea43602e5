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
    /// Show the manifests' digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Docker's flag for hidden images; there are none
    #[arg(short, long, hide = true)]
    all: bool,
    /// Form: table, json or a Go template
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<String>,
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
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
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
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Save images.
#[derive(Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// File; standard output when absent or `-`
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

/// Remove stopped sandboxes and unnamed images, or such images alone.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Also images with a name that no sandbox uses; in `prune`, all templates
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print all about images.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageInspectArgs {
    /// Form: json or a Go template
    #[arg(short, long, value_name = "FORM")]
    pub(crate) format: Option<String>,
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

/// Docker's other names for verbs about images.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImageVerb {
    /// List images
    #[command(alias = "list")]
    Ls(ImagesArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Load images from a docker archive or an OCI layout
    Load(LoadArgs),
    /// Save images to an archive
    Save(SaveArgs),
    /// Give an image one more name
    Tag(TagArgs),
    /// Remove images
    #[command(alias = "remove")]
    Rm(RmiArgs),
    /// Show how an image was made
    History(HistoryArgs),
    /// Print all about images as JSON
    Inspect(ImageInspectArgs),
    /// Remove images without a name
    Prune(PruneArgs),
}

/// Show how an image was made.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Form: table, json or a Go template
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<String>,
    /// Whole commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    pub(crate) image: String,
}
