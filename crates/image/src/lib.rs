//! OCI images: from a reference, a registry or an archive to one EROFS root file system.
//!
//! Called by the runtime, through [`ImageStore`]. Nothing of a layer ever becomes a path on the
//! host: layers are kept as fetched, by digest, and merged into one read-only image that a guest
//! kernel mounts. Knows no machine.
//!
//! ```text
//! registry ─┐                      ┌► blobs/ ─► layer ─► erofs ─► rootfs/
//! archive ──┴► store::ingest ──────┤
//!                                  └► index.json (names, last)
//! ```

mod archive;
mod erofs;
mod error;
mod go_json;
mod layer;
mod manifest;
mod media;
mod model;
mod progress;
mod reference;
mod registry;
mod rootfs;
mod store;
mod tree;

pub use archive::{LoadSource, SaveFormat};
pub use erofs::RootfsStats;
pub use error::{Error, ErrorKind, Result};
pub use layer::{Compression, LayerSource};
pub use model::{
    HistoryEntry, Image, ImageConfig, ImageDetails, ImageSummary, LoadedImage, Removed,
    RootFsDetails, Rootfs,
};
pub use progress::{NoProgress, Phase, Progress, ProgressEvent};
pub use reference::Reference;
pub use registry::{PullOptions, STALL_TIMEOUT};
pub use rootfs::build_rootfs;
pub use store::{
    ImageStore,
    rootfs::ROOT_DISK_CLASSES_BYTES,
    usage::{ImageUsage, ImagesUsage},
};
pub use tree::Limits;
