//! What the tests of the root file system share: a tar writer, an EROFS reader that knows nothing
//! of the writer, a walk over real directories, and `umoci` as the outside judge.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod case;
pub mod judge;
pub mod reader;
pub mod tar;
pub mod walk;

use std::{collections::BTreeMap, fs::File, io::Read};

use cofferdam_image::{Compression, Error, LayerSource, Limits, Result, RootfsStats, build_rootfs};
use cofferdam_types::Digest;
use sha2::{Digest as _, Sha256};

/// One file as any reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    /// Full names and values, sorted.
    pub xattrs: Vec<(String, Vec<u8>)>,
    pub what: What,
    /// Names of a file; 0 for directories, where file systems differ.
    pub links: u64,
    /// The first path, in order, of the same inode.
    pub group: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Directory,
    File { size: u64, sha256: String },
    Symlink(Vec<u8>),
    Device { major: u32, minor: u32 },
    Fifo,
}

/// Paths without a leading slash; the root is empty.
pub type Nodes = BTreeMap<Vec<u8>, Node>;

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// A layer of plain tar bytes.
pub fn plain(tar: &[u8]) -> LayerSource<'_> {
    LayerSource {
        reader: Box::new(tar),
        compression: Compression::None,
        diff_id: sha256(tar),
    }
}

/// Builds an image and gives it back as bytes.
pub fn build(layers: Vec<LayerSource<'_>>, limits: &Limits) -> Result<(RootfsStats, Vec<u8>)> {
    build_with(layers, &[], limits)
}

/// The same, with directories that are to be there.
pub fn build_with(
    layers: Vec<LayerSource<'_>>,
    directories: &[String],
    limits: &Limits,
) -> Result<(RootfsStats, Vec<u8>)> {
    let mut file = tempfile::tempfile().unwrap();
    let layers = layers.into_iter().map(Ok);
    let stats = build_rootfs(layers, directories, &mut file, limits, &|_| {})?;
    Ok((stats, content(&file)))
}

/// Builds what must not be buildable.
pub fn failure(layers: Vec<LayerSource<'_>>, limits: &Limits) -> Error {
    match build(layers, limits) {
        Err(error) => error,
        Ok((stats, _)) => panic!("this was built: {stats:?}"),
    }
}

pub fn content(mut file: &File) -> Vec<u8> {
    use std::io::Seek;
    let mut image = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut image).unwrap();
    image
}

pub fn show(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
