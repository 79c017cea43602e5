//! Verbs that Docker has and this program does not, with the way that there is.

use std::ffi::OsStr;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Verbs of Docker 27, and what to do in their place.
#[rustfmt::skip]
const VERBS: &[(&str, &str)] = &[
    ("build", "Build the image with buildah, podman or docker, then `coffer load -i ARCHIVE`"),
    ("builder", "Build images with buildah, podman or docker, then `coffer load -i ARCHIVE`"),
    ("buildx", "Build images with buildah, podman or docker, then `coffer load -i ARCHIVE`"),
    ("checkpoint", "Take a snapshot: `coffer snapshot create SANDBOX`"),
    ("commit", "Keep the disk of a sandbox: `coffer snapshot create --disk SANDBOX`; then `coffer fork SNAPSHOT`"),
    ("compose", "Start each sandbox by itself with `coffer run -d`"),
    ("config", "Pass values with `-e` or `--env-file`"),
    ("context", "Name another store by COFFER_HOME"),
    ("cp", "`tar c FILE | coffer exec -i SANDBOX tar x -C DIR`, or `coffer exec SANDBOX tar c FILE | tar x`"),
    ("diff", "Look into the sandbox with `coffer exec SANDBOX find / -xdev -newer FILE`"),
    ("export", "`coffer exec SANDBOX tar c --one-file-system /`, or `coffer snapshot export`"),
    ("import", "Make an image of the files with buildah or umoci, then `coffer load -i ARCHIVE`"),
    ("login", "Log in with docker, podman or skopeo: `coffer pull` reads their credentials"),
    ("logout", "Log out with docker, podman or skopeo: `coffer pull` reads their credentials"),
    ("manifest", "Inspect what a registry has with skopeo; `coffer inspect IMAGE` shows a local image"),
    ("node", "There is no cluster: each host has its own sandboxes"),
    ("plugin", "There are no plugins"),
    ("push", "`coffer save -o ARCHIVE IMAGE`, then `skopeo copy docker-archive:ARCHIVE docker://NAME`"),
    ("rename", "Give the name when the sandbox is made: `coffer run --name NAME`, or `coffer fork -n NAME`"),
    ("search", "Search on the registry's web page"),
    ("secret", "Pass values with `-e` or `--env-file`"),
    ("service", "There is no cluster: start each sandbox with `coffer run -d`"),
    ("stack", "There is no cluster: start each sandbox with `coffer run -d`"),
    ("swarm", "There is no cluster: each host has its own sandboxes"),
    ("trust", "`coffer pull` checks every byte against its digest; signatures are not checked"),
    ("update", "Limits are set when a sandbox is made: `coffer run`, or `coffer fork` with others"),
    ("volume", "Sandboxes have no volumes in this version: put files into the image, or send them to standard input"),
];

/// The verb that an error says is not there, and what to do in its place, if Docker has it.
pub(crate) fn hint(error: &clap::Error) -> Option<(&str, &'static str)> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    let (_, hint) = VERBS.iter().find(|(known, _)| known == verb)?;
    Some((verb, hint))
}

/// Whether a word is a noun in front of Docker's verbs about containers.
pub(crate) fn is_noun(word: &OsStr) -> bool {
    word == "container"
}
