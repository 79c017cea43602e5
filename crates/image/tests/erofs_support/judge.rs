//! Outside judges: `fsck.erofs`, the host kernel, and `umoci unpack`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{Nodes, sha256, walk};

/// Whether `program` can be started.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn run(program: &str, arguments: &[&Path]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn skip(judge: &str, reason: &str) {
    cofferdam_testkit::skip(&format!("{judge}: {reason}"));
}

/// Asks `fsck.erofs`.
pub fn fsck(image: &Path) {
    if !has("fsck.erofs") {
        return skip("fsck", "no `fsck.erofs` on this host");
    }
    let output = run("fsck.erofs", &[image]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && text.is_empty(),
        "fsck.erofs: {text}"
    );
}

/// Mounted image; unmounted when dropped.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// What the host's kernel sees in the image.
pub fn mounted(image: &Path, dir: &Path) -> Option<Nodes> {
    let point = dir.join("mnt");
    fs::create_dir(&point).unwrap();
    let options = Path::new("-oloop,ro");
    let output = run("mount", &[Path::new("-terofs"), options, image, &point]);
    if !output.status.success() {
        // As root on a kernel with EROFS a failed mount is a broken image.
        let kernel_has_it =
            fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("erofs"));
        let is_root = rustix::process::geteuid().is_root();
        assert!(
            !(kernel_has_it && is_root && Path::new("/dev/loop-control").exists()),
            "mount: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        // No package adds EROFS to a kernel, so its absence is no failure.
        if kernel_has_it {
            skip("mount", "this user cannot mount EROFS");
        }
        return None;
    }
    let mount = Mount(point);
    Some(walk::read(&mount.0))
}

/// What `umoci unpack` makes of the layers: the tree, or its refusal.
pub fn umoci(layers: &[Vec<u8>], dir: &Path) -> Option<Result<Nodes, String>> {
    if !has("umoci") || !rustix::process::geteuid().is_root() {
        skip("umoci", "needs `umoci` and root");
        return None;
    }
    let layout = dir.join("layout");
    write_layout(&layout, layers);
    let bundle = dir.join("bundle");
    let image = format!("{}:t", layout.display());
    let output = Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle)
        .output()
        .unwrap();
    Some(if output.status.success() {
        Ok(walk::read(&bundle.join("rootfs")))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

/// An OCI layout by hand (OCI image-spec, image-layout.md).
fn write_layout(layout: &Path, layers: &[Vec<u8>]) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |media_type: &str, content: &[u8]| {
        let digest = sha256(content);
        fs::write(blobs.join(digest.hex()), content).unwrap();
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#,
            content.len()
        )
    };
    let tars: Vec<String> = layers
        .iter()
        .map(|tar| blob("application/vnd.oci.image.layer.v1.tar", tar))
        .collect();
    let ids: Vec<String> = layers
        .iter()
        .map(|tar| format!(r#""{}""#, sha256(tar)))
        .collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    let config = blob(
        "application/vnd.oci.image.config.v1+json",
        config.as_bytes(),
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
        tars.join(",")
    );
    let manifest = blob(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.as_bytes(),
    );
    let named = manifest.trim_end_matches('}').to_owned()
        + r#","annotations":{"org.opencontainers.image.ref.name":"t"}}"#;
    fs::write(
        layout.join("index.json"),
        format!(r#"{{"schemaVersion":2,"manifests":[{named}]}}"#),
    )
    .unwrap();
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}
