//! Every environment variable that Cofferdam reads, in one place.

use std::{ffi::OsString, path::PathBuf};

/// Directory of images, sandboxes and templates.
pub const HOME: &str = "COFFER_HOME";
/// Guest kernel to use in place of the one beside the program.
pub const KERNEL: &str = "COFFER_KERNEL";
/// The `coffer` program that a library user's process starts supervisors with.
pub const PROGRAM: &str = "COFFER_PROGRAM";
/// Backend to use when none is asked for by flag.
pub const BACKEND: &str = "COFFER_BACKEND";
/// The QEMU program to use in place of the one in `PATH`: a path, or a name in `PATH`.
pub const QEMU: &str = "COFFER_QEMU";
/// Directory of the docker configuration file with registry credentials.
pub const DOCKER_CONFIG: &str = "DOCKER_CONFIG";
/// File with registry credentials in podman's form, containers-auth.json(5).
pub const REGISTRY_AUTH_FILE: &str = "REGISTRY_AUTH_FILE";
/// Extra certificate authorities (PEM) trusted for registries.
pub const CA_FILE: &str = "COFFER_CA_FILE";
/// Mirrors, `registry=mirror` pairs separated by commas.
pub const MIRRORS: &str = "COFFER_MIRRORS";

/// What all templates together may take of the disk, a size such as `8g`; 0 is no limit.
pub const TEMPLATES_LIMIT: &str = "COFFER_TEMPLATES_LIMIT";

/// The value of `name`; an empty value counts as unset.
#[must_use]
pub fn var_os(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The value of `name` as text; empty or non-UTF-8 values count as unset.
#[must_use]
pub fn var(name: &str) -> Option<String> {
    var_os(name).and_then(|value| value.into_string().ok())
}

/// The program that the value of `name` means: a path, made absolute by the current directory, or
/// a name without a slash, which is looked up in `PATH` and stays as it is if it is not there.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let value = PathBuf::from(var_os(name)?);
    if value.components().count() > 1 || value.is_absolute() {
        return Some(std::path::absolute(&value).unwrap_or(value));
    }
    let path = var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(&value))
        .find(|candidate| candidate.is_file());
    Some(found.unwrap_or(value))
}

/// The value of `name` as an absolute path; others count as unset, as the XDG specification says.
#[must_use]
pub fn absolute_path(name: &str) -> Option<PathBuf> {
    var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}
