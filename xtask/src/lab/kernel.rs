//! Debian's generic kernel, unpacked and not installed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{packages, process};

/// The package that depends on the newest generic kernel. The cloud kernel lacks hardware.
const NEWEST: &str = "linux-image-amd64";

/// What the lab's kernel has as modules and the lab needs, each after what it is for.
const MODULES: &[&str] = &[
    // Devices of the machine.
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    // The host's files, and what is written over them.
    "9pnet_virtio",
    "9p",
    "overlay",
    // The scratch disk.
    "crc32c_generic",
    "ext4",
    // What the lab is for.
    "kvm_amd",
    // What programs under test use.
    "erofs",
    "loop",
    "tun",
];

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The file that boots.
    pub(super) image: PathBuf,
    root: PathBuf,
    release: String,
}

/// A module's file and its parameters, as `insmod` takes them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) path: PathBuf,
    pub(super) parameters: String,
}

impl Kernel {
    /// The newest kernel that the package index knows, in `directory`.
    ///
    /// # Errors
    /// When it cannot be downloaded or unpacked.
    pub(super) fn ensure(directory: &Path) -> Result<Self> {
        let mut package = newest()?;
        let root = packages::unpack(&package, directory).or_else(|_| {
            // The index was stale, and is not any more.
            package = newest()?;
            packages::unpack(&package, directory)
        })?;
        let release = package
            .strip_prefix("linux-image-")
            .with_context(|| format!("`{package}` is no kernel package's name"))?
            .to_owned();
        // The package's installation would do it, in the host's own directories.
        process::run(
            Command::new("/usr/sbin/depmod")
                .arg("--basedir")
                .arg(&root)
                .arg(&release),
        )?;
        Ok(Self {
            image: root.join(format!("boot/vmlinuz-{release}")),
            root,
            release,
        })
    }

    /// The modules to load, in an order in which each comes after what it needs.
    ///
    /// # Errors
    /// When one does not exist.
    pub(super) fn modules(&self) -> Result<Vec<Module>> {
        let mut all: Vec<Module> = Vec::new();
        for name in MODULES {
            let text = process::capture(
                Command::new("/usr/sbin/modprobe")
                    // What the host wants of its own modules is nothing to us.
                    .args(["--config", "/dev/null", "--show-depends"])
                    .args(["--set-version", &self.release, "--dirname"])
                    .arg(&self.root)
                    .arg(name),
            )?;
            for line in text.lines().filter(|line| !line.starts_with("builtin ")) {
                let module = parse(line, &self.root)?;
                if !all.iter().any(|other| other.path == module.path) {
                    all.push(module);
                }
            }
        }
        Ok(all)
    }
}

/// The package that [`NEWEST`] depends on.
fn newest() -> Result<String> {
    let ask = || {
        let mut command = Command::new("apt-cache");
        // In another language it would answer in that.
        process::capture(command.env("LC_ALL", "C").args(["depends", NEWEST]))
    };
    let find = |text: &str| {
        let name = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "));
        name.map(str::to_owned)
    };
    if let Some(name) = ask().ok().as_deref().and_then(find) {
        return Ok(name);
    }
    packages::Index::machine().update()?;
    find(&ask()?).with_context(|| format!("The package index has no `{NEWEST}`"))
}

/// A line of `modprobe --show-depends`: `insmod PATH [PARAMETER]…`, nothing quoted, with a path
/// below `root`.
fn parse(line: &str, root: &Path) -> Result<Module> {
    let below = || {
        let rest = line.strip_prefix("insmod ")?.strip_prefix(root.to_str()?)?;
        let (path, parameters) = rest.split_once(' ').unwrap_or((rest, ""));
        Some(Module {
            path: root.join(path.trim_start_matches('/')),
            parameters: parameters.trim().to_owned(),
        })
    };
    below().with_context(|| format!("`modprobe` gave no module of the lab's: `{line}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_modprobe_gives_the_file_and_its_parameters() {
        let root = Path::new("/a b");
        let module = parse("insmod /a b/m/kvm-amd.ko npt=1 nested=0 ", root).unwrap();
        assert_eq!(module.path, Path::new("/a b/m/kvm-amd.ko"));
        assert_eq!(module.parameters, "npt=1 nested=0");
    }

    #[test]
    fn a_module_that_the_lab_would_not_load_is_an_error() {
        assert!(parse("install /bin/true", Path::new("/m")).is_err());
        assert!(parse("insmod /lib/modules/kvm.ko", Path::new("/m")).is_err());
    }
}
