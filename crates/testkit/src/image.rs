//! Images that need no other tool to be made: docker archives with layers of given files.
//!
//! Deterministic: the same files give the same bytes. Source: moby image-spec v1.2.

use std::{env, fmt, fs};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Names under which busybox is called in the test image.
const APPLETS: [&str; 50] = [
    "awk",
    "basename",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "head",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mount",
    "mv",
    "nc",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "tee",
    "test",
    "touch",
    "tr",
    "true",
    "uname",
    "wc",
];

/// An image under construction.
pub struct ImageBuilder {
    layers: Vec<Vec<u8>>,
    layer: Builder<Vec<u8>>,
    config: Value,
    architecture: String,
}

impl fmt::Debug for ImageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// An image without files that runs nothing.
    #[must_use]
    pub fn new() -> Self {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            layers: Vec::new(),
            layer: Builder::new(Vec::new()),
            config: json!({"Env": [path], "WorkingDir": "/"}),
            architecture: "amd64".to_owned(),
        }
    }

    /// Sets a field of the image's configuration by its OCI name, such as `User`.
    #[must_use]
    pub fn config(mut self, name: &str, value: Value) -> Self {
        self.config[name] = value;
        self
    }

    /// Sets the architecture by its OCI name, in place of `amd64`.
    #[must_use]
    pub fn architecture(mut self, name: &str) -> Self {
        name.clone_into(&mut self.architecture);
        self
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        self.append(EntryType::Directory, path, mode, (0, 0), &[]);
        self
    }

    /// Adds a file of root's.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.file_of(path, mode, (0, 0), content)
    }

    /// Adds a file of a user and group.
    #[must_use]
    pub fn file_of(mut self, path: &str, mode: u32, owner: (u64, u64), content: &[u8]) -> Self {
        self.append(EntryType::Regular, path, mode, owner, content);
        self
    }

    /// Adds a symbolic link.
    ///
    /// # Panics
    /// When a path does not fit a tar archive.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = header(EntryType::Symlink, 0o777, (0, 0), 0);
        self.layer
            .append_link(&mut header, path, target)
            .expect("path fits a tar archive");
        self
    }

    /// Ends the layer; what follows goes into the next one.
    ///
    /// # Panics
    /// Never: writing to memory works.
    #[must_use]
    pub fn next_layer(mut self) -> Self {
        let layer = std::mem::replace(&mut self.layer, Builder::new(Vec::new()));
        self.layers
            .push(layer.into_inner().expect("writing to memory works"));
        self
    }

    /// Adds a whole layer, a tar file.
    #[must_use]
    pub fn tar_layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    /// The image as a docker archive.
    ///
    /// # Panics
    /// Never: writing to memory works.
    #[must_use]
    pub fn archive(self, reference: &str) -> Vec<u8> {
        let image = self.next_layer();
        let diff_ids: Vec<String> = image
            .layers
            .iter()
            .map(|layer| format!("sha256:{}", sha256(layer)))
            .collect();
        let config = json!({
            "architecture": image.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": diff_ids.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>(),
        });
        let config = serde_json::to_vec(&config).expect("JSON of strings works");
        let config_name = format!("{}.json", sha256(&config));
        let layers: Vec<(String, Vec<u8>)> = image
            .layers
            .into_iter()
            .map(|layer| (format!("{}/layer.tar", sha256(&layer)), layer))
            .collect();
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": [reference],
            "Layers": layers.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        }]);
        let manifest = serde_json::to_vec(&manifest).expect("JSON of strings works");
        let mut archive = Builder::new(Vec::new());
        let mut add = |name: &str, content: &[u8]| {
            let mut header = header(EntryType::Regular, 0o644, (0, 0), content.len());
            archive
                .append_data(&mut header, name, content)
                .expect("writing to memory works");
        };
        add(&config_name, &config);
        for (name, layer) in &layers {
            add(name, layer);
        }
        add("manifest.json", &manifest);
        archive.into_inner().expect("writing to memory works")
    }

    fn append(
        &mut self,
        kind: EntryType,
        path: &str,
        mode: u32,
        owner: (u64, u64),
        content: &[u8],
    ) {
        let mut header = header(kind, mode, owner, content.len());
        self.layer
            .append_data(&mut header, path, content)
            .expect("path fits a tar archive");
    }
}

/// An image with busybox and its usual names, the users `root` and `app` (1000, groups 1000 and
/// 2000), and a poisoned `nsswitch.conf`.
///
/// # Panics
/// When the host has no static busybox.
#[must_use]
pub fn busybox() -> ImageBuilder {
    busybox_of(&busybox_program())
}

/// The first static `busybox` in `PATH`; Debian's package `busybox-static` has one, and
/// `cargo xtask test` unpacks it.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn busybox_program() -> Vec<u8> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter_map(|directory| fs::read(directory.join("busybox")).ok())
        .find(|program| is_static(program))
        .expect("a static busybox is in PATH: Debian's package `busybox-static`")
}

/// Whether a program needs no loader: it does not name the one of glibc on x86-64.
fn is_static(program: &[u8]) -> bool {
    let loader = b"/lib64/ld-linux-x86-64.so.2";
    !program.windows(loader.len()).any(|part| part == loader)
}

/// The same with this static busybox.
///
/// # Panics
/// Never: it is written to memory.
#[must_use]
pub fn busybox_of(program: &[u8]) -> ImageBuilder {
    let mut image = ImageBuilder::new()
        .directory("bin", 0o755)
        .directory("etc", 0o755)
        .directory("root", 0o700)
        .directory("tmp", 0o1777)
        .file("bin/busybox", 0o755, program)
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .file(
            "etc/group",
            0o644,
            b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n",
        )
        .file(
            "etc/nsswitch.conf",
            0o644,
            b"passwd: nosuchmodule compat\ngroup: nosuchmodule\n",
        )
        .config("Cmd", json!(["sh"]));
    for applet in APPLETS {
        image = image.symlink(&format!("bin/{applet}"), "busybox");
    }
    image
}

/// [`busybox`] as a docker archive.
#[must_use]
pub fn busybox_archive(reference: &str) -> Vec<u8> {
    busybox().archive(reference)
}

/// A header of an entry dated 1970.
fn header(kind: EntryType, mode: u32, (uid, gid): (u64, u64), size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(0);
    header.set_size(size as u64);
    header
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
