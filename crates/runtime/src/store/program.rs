//! The `coffer` program as seen by itself and by programs that use the library: supervisors,
//! template builders and standbys are this program again with a first argument that no user types.

use std::{ffi::OsStr, path::PathBuf, process::Command};

use cofferdam_base::env_vars;

use super::layout::Layout;
use crate::base::{
    environment,
    error::{Error, ErrorKind, Result, io},
};

/// First argument of a supervisor.
pub(crate) const SUPERVISE: &str = "__supervise";

/// First argument of a template builder.
pub(crate) const BUILD_TEMPLATE: &str = "__build-template";

/// First argument of a standby of a pool.
pub(crate) const STAND_BY: &str = "__stand-by";

/// First argument of a process that fills a pool.
pub(crate) const FILL_POOL: &str = "__fill-pool";

/// First argument of the KVM probe.
pub(crate) const PROBE_KVM: &str = "__probe-kvm";

/// Name of the program.
const NAME: &str = "coffer";

/// The path of the program: the one that was chosen, `COFFER_PROGRAM`, else this very program if it is `coffer`, else one
/// beside it or in `PATH`.
///
/// # Errors
/// When there is none.
pub(crate) fn path(layout: &Layout) -> Result<PathBuf> {
    if let Some(path) = &layout.choices().program {
        return Ok(path.clone());
    }
    if let Some(path) = env_vars::var_os(env_vars::PROGRAM) {
        return Ok(PathBuf::from(path));
    }
    let this =
        std::env::current_exe().map_err(|error| io("Could not find the running program", error))?;
    if this.file_name().is_some_and(|name| name == NAME) {
        return Ok(this);
    }
    let beside = this.parent().map(|dir| dir.join(NAME));
    let in_path = env_vars::var_os("PATH")
        .map(|path| {
            std::env::split_paths(&path)
                .map(|dir| dir.join(NAME))
                .collect::<Vec<_>>()
        })
        .unwrap_or_default();
    beside
        .into_iter()
        .chain(in_path)
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "The `coffer` program is not installed",
            )
            .hint("Put it in `PATH`, or name it with `COFFER_PROGRAM`")
        })
}

/// The program in a role, with what it must inherit of this process's choices and environment.
///
/// # Errors
/// When the program is not there.
pub(crate) fn command(layout: &Layout, role: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(path(layout)?);
    command.arg(role).env_clear().envs(environment::kept());
    command.envs(layout.choices().variables());
    Ok(command)
}
