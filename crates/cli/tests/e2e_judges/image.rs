//! The image of the judges: a small Debian with clients and servers, made once for all test runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cofferdam_testkit::{coffer::Coffer, image::ImageBuilder};

pub(crate) const IMAGE: &str = "judges:test";

const PACKAGES: &str = "bind9-dnsutils,ca-certificates,curl,git,iperf3,iputils-ping,nginx-light,\
                        openssh-client,openssh-server,python3-minimal,redis-server";

/// Puts the image into the store, unless it is there. `None`: this machine cannot make it, and the
/// test is skipped.
pub(crate) fn load(coffer: &Coffer) -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        cofferdam_testkit::skip("mmdebstrap makes an image only as root");
        return None;
    }
    if Command::new("mmdebstrap")
        .arg("--version")
        .output()
        .is_err()
    {
        cofferdam_testkit::skip("mmdebstrap is not installed");
        return None;
    }
    let layer = layer();
    let _lock = cofferdam_testkit::lock(&coffer.home().join("judges.lock"));
    let ready = coffer.home().join("judges-is-loaded");
    if !ready.exists() {
        let builder = ImageBuilder::new().tar_layer(fs::read(layer).unwrap());
        let archive = builder.archive(IMAGE);
        let loaded = coffer.run_with_input(["load"], &archive);
        assert_eq!(loaded.code, 0, "{loaded:?}");
        fs::write(ready, b"").unwrap();
    }
    Some(IMAGE)
}

/// The layer as a tar file.
fn layer() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("judges");
    fs::create_dir_all(&directory).unwrap();
    let _lock = cofferdam_testkit::lock(&directory.join("lock"));
    let layer = directory.join("layer.tar");
    if layer.exists() {
        return layer;
    }
    let partial = directory.join("partial.tar");
    let output = Command::new("mmdebstrap")
        .args([
            "--quiet",
            "--variant=minbase",
            "--aptopt=Acquire::Retries \"5\"",
        ])
        .args(
            ["man", "doc", "locale"]
                .map(|what| format!("--dpkgopt=path-exclude=/usr/share/{what}/*")),
        )
        .arg(format!("--include={PACKAGES}"))
        .arg("bookworm")
        .arg(&partial)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    fs::rename(partial, &layer).unwrap();
    layer
}
