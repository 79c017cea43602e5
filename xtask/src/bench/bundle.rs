//! The same root file system for everybody: an OCI layout, its archive, and runtime bundles.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::process;

/// Image names.
pub(crate) const DEBIAN: &str = "bench/debian:12";

/// What the cases use.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// A Debian with Python as a docker archive of some 200 MB.
    pub(crate) archive: PathBuf,
    /// The same as an OCI layout.
    pub(crate) layout: PathBuf,
    /// The same unpacked, as an OCI runtime bundle.
    pub(crate) bundle: PathBuf,
}

/// Makes what is missing; the packages come from the distribution's archive.
///
/// # Errors
/// When a tool fails.
pub(crate) fn make(dir: &Path) -> Result<Inputs> {
    fs::create_dir_all(dir)?;
    let inputs = Inputs {
        archive: dir.join("debian.tar"),
        layout: dir.join("layout"),
        bundle: dir.join("bundle"),
    };
    if inputs.archive.is_file() && inputs.bundle.join("config.json").is_file() {
        return Ok(inputs);
    }
    for path in [&inputs.layout, &inputs.bundle] {
        let _ = fs::remove_dir_all(path);
    }
    let _ = fs::remove_file(&inputs.archive);
    println!("Making a Debian image with Python");
    let layer = dir.join("layer.tar");
    let reference = format!("{}:debian", inputs.layout.display());
    process::run(
        Command::new("mmdebstrap")
            .args([
                "--quiet",
                "--variant=minbase",
                "--include=python3-minimal,ca-certificates",
            ])
            .arg("bookworm")
            .arg(&layer),
    )?;
    process::run(
        Command::new("umoci")
            .args(["init", "--layout"])
            .arg(&inputs.layout),
    )?;
    process::run(Command::new("umoci").args(["new", "--image", &reference]))?;
    process::run(
        Command::new("umoci")
            .args(["raw", "add-layer", "--image", &reference])
            .arg(&layer),
    )?;
    process::run(Command::new("umoci").args([
        "config",
        "--image",
        &reference,
        "--config.cmd",
        "bash",
    ]))?;
    fs::remove_file(&layer)?;
    process::run(Command::new("skopeo").args([
        "copy",
        "--quiet",
        &format!("oci:{reference}"),
        &format!("docker-archive:{}:{DEBIAN}", inputs.archive.display()),
    ]))?;
    process::run(
        Command::new("umoci")
            .args(["unpack", "--image", &reference])
            .arg(&inputs.bundle),
    )?;
    set_command(&inputs.bundle, &["/bin/true"])?;
    Ok(inputs)
}

/// Makes a bundle run `command` without a terminal.
///
/// # Errors
/// When the bundle has no configuration.
pub(crate) fn set_command(bundle: &Path, command: &[&str]) -> Result<()> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).with_context(|| format!("Could not read `{}`", path.display()))?;
    let mut config: serde_json::Value = serde_json::from_slice(&text)?;
    config["process"]["args"] = json!(command);
    config["process"]["terminal"] = json!(false);
    fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
    Ok(())
}
