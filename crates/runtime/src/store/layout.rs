//! Every path of the store, in one place.
//!
//! ```text
//! home/                      0700, COFFER_HOME
//!   images/                  the image store
//!   sandboxes/<id>/          one directory per sandbox: the truth about it
//!     sandbox.json           what was asked and resolved; never changes
//!     state.json             where it is in its life
//!     lock                   held by its supervisor as long as that lives
//!     restart.lock           held by a restart, so that another waits for it
//!     upper.ext4             its writes
//!     output.log, output.log.1, console.log, vmm.log, supervisor.log
//!   events/                  what happened to sandboxes, as JSON lines
//!   networks/<name>/         network.json and members.json
//!   pools/<name>/            pool.json and a directory per standby
//!   snapshots/<id>/          manifest.json, upper.ext4; of a full one also memory and state
//!   templates/<key>/         memory, state, manifest.json, upper.ext4
//!   cache/                   worthless when lost: blank uppers, host findings
//!   config.json              the user's settings
//!   names/<name>             a link to the id of the sandbox; made again when lost
//! run/<short id>/            0700, sockets and the machine's record; gone after a reboot
//! run/n/<8 digits>/          0700, sockets of the members of a network
//! ```

use std::path::{Path, PathBuf};

use cofferdam_base::{env_vars, fs};
use cofferdam_types::SandboxId;

use super::choices::Choices;
use crate::{
    backends::Backends,
    base::error::{Error, ErrorKind, Result, io},
};

/// Where things are on this host for this user.
#[derive(Clone, Debug)]
pub struct Layout {
    home: PathBuf,
    run: PathBuf,
    choices: Choices,
    backends: Backends,
}

impl Layout {
    /// The layout by environment: `COFFER_HOME`, else `/var/lib/cofferdam` for root and the XDG
    /// data directory for others; sockets in `XDG_RUNTIME_DIR`, else below `/run` or the home.
    ///
    /// # Errors
    /// When no home can be told or made.
    pub fn from_environment() -> Result<Self> {
        Self::with(Choices::default())
    }

    fn home_from_environment() -> Result<PathBuf> {
        let root = rustix::process::geteuid().is_root();
        let home = match env_vars::var_os(env_vars::HOME) {
            Some(home) => std::path::absolute(PathBuf::from(home))
                .map_err(|error| io("Could not resolve `COFFER_HOME`", error))?,
            None if root => PathBuf::from("/var/lib/cofferdam"),
            None => env_vars::absolute_path("XDG_DATA_HOME")
                .or_else(|| Some(env_vars::absolute_path("HOME")?.join(".local/share")))
                .ok_or_else(|| {
                    Error::new(ErrorKind::InvalidSpec, "There is no home directory")
                        .hint("Set `COFFER_HOME` to a directory of your own")
                })?
                .join("cofferdam"),
        };
        Ok(home)
    }

    /// The layout by environment, for looks at a host whose store may not be there: nothing is
    /// made.
    pub(crate) fn of_lost_store() -> Self {
        // Below a device nothing can be.
        let home = Self::home_from_environment().unwrap_or_else(|_| PathBuf::from("/dev/null"));
        Self {
            run: run_dir(&home),
            home,
            choices: Choices::default().resolved().unwrap_or_default(),
            backends: Backends::default(),
        }
    }

    /// The layout with its home at `home`, which is made if needed.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn at(home: &Path) -> Result<Self> {
        Self::with(Choices {
            home: Some(home.to_owned()),
            ..Choices::default()
        })
    }

    /// The layout by a program's choices. The home is made if needed.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn with(choices: Choices) -> Result<Self> {
        let home = match &choices.home {
            Some(home) => home.clone(),
            None => Self::home_from_environment()?,
        };
        let layout = Self {
            run: run_dir(&home),
            home,
            choices: choices.resolved()?,
            backends: Backends::default(),
        };
        for path in [
            layout.home.clone(),
            layout.sandboxes(),
            layout.pools(),
            layout.snapshots(),
            layout.templates(),
            layout.cache(),
        ] {
            if !path.is_dir() {
                fs::create_private_dir(&path).map_err(|error| not_made(&path, error))?;
            }
        }
        Ok(layout)
    }

    /// The QEMU program to use; `None` for the one in `PATH`.
    #[must_use]
    pub fn qemu(&self) -> Option<&Path> {
        self.choices.qemu.as_deref()
    }

    /// What the program has chosen.
    #[must_use]
    pub const fn choices(&self) -> &Choices {
        &self.choices
    }

    /// The same with other backends than the program's.
    #[cfg(test)]
    pub(crate) fn with_backends(mut self, backends: Backends) -> Self {
        self.backends = backends;
        self
    }

    /// The backends of this store's machines.
    pub(crate) const fn backends(&self) -> &Backends {
        &self.backends
    }

    /// The home directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.home.join("images")
    }

    /// Where a recorded root file system is now: a store can be moved with all that is in it.
    pub(crate) fn rootfs_here(&self, recorded: &Path) -> PathBuf {
        let images = self.images();
        match recorded.file_name() {
            Some(name) if !recorded.starts_with(&images) => images.join("rootfs").join(name),
            _ => recorded.to_owned(),
        }
    }

    /// The directory of all sandboxes.
    #[must_use]
    pub fn sandboxes(&self) -> PathBuf {
        self.home.join("sandboxes")
    }

    /// A sandbox's directory.
    #[must_use]
    pub fn sandbox(&self, id: SandboxId) -> SandboxPaths {
        SandboxPaths {
            dir: self.sandboxes().join(id.to_string()),
            run: self.run.join(id.short()),
        }
    }

    /// The directory of the journal; made with the first event.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.home.join("events")
    }

    /// The directory of all pools.
    #[must_use]
    pub fn pools(&self) -> PathBuf {
        self.home.join("pools")
    }

    /// The directory of all named networks; made by the first start of a sandbox with a network.
    #[must_use]
    pub fn networks(&self) -> PathBuf {
        self.home.join("networks")
    }

    /// The directory of the sockets by which the members of a network reach each other. Its name
    /// is short: a socket's path has 108 bytes at most.
    pub(crate) fn network_sockets(&self, id: &str) -> PathBuf {
        self.all_network_sockets().join(id.get(..8).unwrap_or(id))
    }

    /// The directory of those directories.
    pub(crate) fn all_network_sockets(&self) -> PathBuf {
        self.run.join("n")
    }

    /// The directory of all snapshots.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.home.join("snapshots")
    }

    /// The directory of all templates.
    #[must_use]
    pub fn templates(&self) -> PathBuf {
        self.home.join("templates")
    }

    /// Things worth nothing when lost.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.home.join("cache")
    }

    /// The user's settings.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.home.join("config.json")
    }

    /// The directory with the names of sandboxes.
    #[must_use]
    pub fn names(&self) -> PathBuf {
        self.home.join("names")
    }

    /// Makes the directory of a sandbox's sockets.
    pub(crate) fn make_sockets(&self, paths: &SandboxPaths) -> Result<()> {
        let make = || fs::create_private_dir(&paths.run);
        make()
            .or_else(|error| match error.kind() {
                // Another sandbox's end took the parent away in between; it cannot twice, for
                // what it left behind is gone.
                std::io::ErrorKind::NotFound => make(),
                _ => Err(error),
            })
            .map_err(|error| io(format!("Could not make `{}`", paths.run.display()), error))
    }

    /// Removes a sandbox's sockets, and their directory with the last of them. Leftovers are swept
    /// later, so a failure needs no report.
    pub(crate) fn remove_sockets(&self, paths: &SandboxPaths) {
        let _ = fs::remove_dir_if_present(&paths.run);
        // Fails while another sandbox has its sockets there.
        let _ = std::fs::remove_dir(&self.run);
    }

    /// The directory of sockets; made with the first sandbox that starts.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }
}

fn not_made(path: &Path, error: std::io::Error) -> Error {
    match std::fs::read_link(path) {
        Ok(target) => {
            let what = format!(
                "`{}` is a link to `{}`, which is no directory",
                path.display(),
                target.display()
            );
            Error::new(ErrorKind::InvalidSpec, what)
                .hint("Make that directory, or set `COFFER_HOME` to another one")
        }
        Err(_) => io(format!("Could not make `{}`", path.display()), error)
            .hint("Set `COFFER_HOME` to a directory that you may write"),
    }
}

/// The paths of one sandbox.
#[derive(Clone, Debug)]
pub struct SandboxPaths {
    /// Its directory.
    pub dir: PathBuf,
    /// Its directory of sockets.
    pub run: PathBuf,
}

impl SandboxPaths {
    /// What was asked and resolved.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.dir.join("sandbox.json")
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// The lock of the `restart` that is under way.
    pub fn restart_lock(&self) -> PathBuf {
        self.dir.join("restart.lock")
    }

    /// The supervisor's lock.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Its writes.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper.ext4")
    }

    /// Whether it has a disk of its own, or one to go on with.
    pub(crate) fn has_disk(&self) -> bool {
        self.upper().exists()
    }

    /// The workload's output.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.dir.join("output.log")
    }

    /// Room for [`Self::state`] on a full disk.
    pub(crate) fn spare_state(&self) -> PathBuf {
        self.dir.join("state.spare")
    }

    /// The guest's console.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// What the VMM printed.
    #[must_use]
    pub fn vmm(&self) -> PathBuf {
        self.dir.join("vmm.log")
    }

    /// What the supervisor printed.
    #[must_use]
    pub fn supervisor_log(&self) -> PathBuf {
        self.dir.join("supervisor.log")
    }

    /// The supervisor's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("supervisor.sock")
    }
}

/// Sockets need short paths (`sun_path` has 108 bytes; unix(7)) that vanish with a reboot. Two
/// homes of one user do not share a directory: its name has the home's hash.
fn run_dir(home: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    // FNV-1a, 64 bits: only has to tell a user's few homes apart.
    let hash = home
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let name = format!("cofferdam-{hash:016x}");
    let uid = rustix::process::geteuid();
    let base = if uid.is_root() {
        PathBuf::from("/run")
    } else {
        match env_vars::absolute_path("XDG_RUNTIME_DIR").filter(|path| path.is_dir()) {
            Some(path) => path,
            None => return home.join("run"),
        }
    };
    base.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_is_a_link_to_nowhere_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        std::os::unix::fs::symlink("/no/such/place", &home).unwrap();
        let error = Layout::at(&home).unwrap_err().to_string();
        assert!(error.contains("is a link to `/no/such/place`"), "{error}");
    }

    #[test]
    fn directories_are_private_and_two_homes_have_two_run_directories() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let one = Layout::at(&dir.path().join("one")).unwrap();
        let two = Layout::at(&dir.path().join("two")).unwrap();
        assert_ne!(one.run(), two.run());
        for path in [one.home(), &one.sandboxes()] {
            assert_eq!(
                std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o700
            );
        }
    }
}
