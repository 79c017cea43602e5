//! Debian's kernel source package and the tools that a kernel build needs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{packages, process};

/// The source package; Debian moves it along with the 6.12 long-term series.
const PACKAGE: &str = "linux-source-6.12";

/// What that package holds.
const ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// Packages for unpacking and building.
const TOOLS: &[&str] = &[
    PACKAGE,
    "bc",
    "binutils",
    "bison",
    "flex",
    "gcc",
    "libc6-dev",
    "libelf-dev",
    "make",
    "xz-utils",
];

/// Large parts of the archive that no x86 build opens. Every Kconfig file stays, for Kconfig reads
/// also those of other architectures.
const UNUSED: &[&str] = &[
    "*.dts",
    "*.dtsi",
    "*.rst",
    "*/arch/arm/*.[chS]",
    "*/arch/arm64/*.[chS]",
    "*/arch/mips/*.[chS]",
    "*/arch/powerpc/*.[chS]",
    "*/drivers/gpu/drm/amd/include/*",
    "*/tools/perf/*",
    "*/tools/testing/selftests/*",
];

/// Installs what is missing.
///
/// # Errors
/// When apt fails.
pub(crate) fn ensure_tools() -> Result<()> {
    packages::ensure("the kernel build", TOOLS).inspect_err(|_| {
        eprintln!("hint: `{PACKAGE}` is in Debian 12's security archive (`bookworm-security`)");
    })
}

/// The version of the source package.
///
/// # Errors
/// When it is not installed.
pub(crate) fn version() -> Result<String> {
    packages::version(PACKAGE)
}

/// Unpacks the source so that its top is `directory`.
///
/// # Errors
/// When tar fails.
pub(crate) fn unpack(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("Could not make `{}`", directory.display()))?;
    let mut tar = Command::new("tar");
    tar.args([
        "--extract",
        "--strip-components=1",
        "--file",
        ARCHIVE,
        "--directory",
    ])
    .arg(directory)
    .args(UNUSED.iter().map(|pattern| format!("--exclude={pattern}")));
    process::run(&mut tar)
}
