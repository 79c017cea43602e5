//! The tarball in a bare Debian of another release, used by an ordinary user.
//!
//! The root has Debian's smallest set of packages and QEMU. It is made once, from the mirror that
//! this machine's apt uses. A try mounts what it needs in namespaces of its own, so that the root
//! stays as it was made and a try leaves no process.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use cofferdam_testkit::image::busybox_of;

use crate::{packages, process, workspace};

/// The release. The program is built on an older one, and runs on that and on newer ones.
const SUITE: &str = "trixie";

/// Its name and number, as in os-release(5).
const VERSION: &str = "debian 13";

/// The user that runs the program, and its group.
const USER: u32 = 1000;

/// Packages whose programs make the root and the namespaces.
const PACKAGES: &[&str] = &["debian-archive-keyring", "mmdebstrap", "util-linux"];

/// The test image's name.
const IMAGE: &str = "dist:test";

/// Mounts what a process needs and becomes the user's shell. `$1` is the root, `$2` the user's home,
/// `$3` the user, `$4` a script.
const ENTER: &str = r#"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount --bind "$2" "$1/home/user"
exec chroot "$1" setpriv --reuid "$3" --regid "$3" --clear-groups \
    env -i HOME=/home/user PATH=/usr/bin:/bin LC_ALL=C.UTF-8 sh -ec "$4"
"#;

/// What the user does. Sandboxes and all other processes end with the namespace.
const SCRIPT: &str = r#"
exec 2>&1
cd "$HOME"
tar -xzf cofferdam.tar.gz --strip-components=1
id -u
(. /etc/os-release && echo "$ID $VERSION_ID")
export COFFER_HOME="$HOME/store"
./coffer load -q -i image.tar
./coffer run --rm dist:test sh -c 'echo "from process $$"; exit 3' || echo "status $?"
./coffer run -d --name one dist:test sleep 1000 >/dev/null
./coffer exec one sh -c 'echo written >/file; cat /file'
./coffer rm -f one
./coffer ps -aq
echo done
"#;

/// What the script prints.
const EXPECTED: &[&str] = &[
    "1000",
    VERSION,
    "Loaded image: dist:test",
    "from process 1",
    "status 3",
    "written",
    "one",
    "done",
];

/// Unpacks `tarball` in the bare root and uses it there.
///
/// # Errors
/// When the root cannot be made, or what the program did was not as expected: quotes its output.
pub(super) fn check(tarball: &Path) -> Result<()> {
    let root = root()?;
    let home = Home::new(tarball)?;
    let mut command = packages::as_root("unshare")?;
    command
        .args(["--mount", "--pid", "--fork", "--kill-child"])
        .args(["sh", "-ec", ENTER, "sh"])
        .arg(&root)
        .arg(&home.directory)
        .args([&USER.to_string(), SCRIPT])
        .stdin(Stdio::null());
    let output = command.output().context("Could not start `unshare`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !text.lines().eq(EXPECTED.iter().copied()) {
        bail!(
            "The tarball does not work in a bare Debian {SUITE}: {}\n{text}{errors}",
            output.status
        );
    }
    print!("{text}");
    Ok(())
}

/// The bare root; makes it unless it is there.
///
/// # Errors
/// When there is neither root nor sudo, or the packages cannot be fetched.
pub(super) fn root() -> Result<PathBuf> {
    packages::ensure("a bare Debian root", PACKAGES)?;
    let directory = workspace::target().join("roots");
    let whole = directory.join(SUITE);
    let context = || format!("Could not make a Debian root in `{}`", whole.display());
    fs::create_dir_all(&directory).with_context(context)?;
    // Of two processes at once the second waits, and finds what the first has made.
    let lock = File::open(&directory).with_context(context)?;
    lock.lock().with_context(context)?;
    if whole.is_dir() {
        return Ok(whole);
    }
    let staging = directory.join(format!(".staging-{SUITE}"));
    if staging.exists() {
        // Left by a process that was killed. It may have mounted something there.
        process::run(
            packages::as_root("rm")?
                .args(["--recursive", "--force", "--one-file-system"])
                .arg(&staging),
        )?;
    }
    make(&staging).with_context(context)?;
    process::run(packages::as_root("mv")?.arg(&staging).arg(&whole)).with_context(context)?;
    Ok(whole)
}

fn make(root: &Path) -> Result<()> {
    let source = format!(
        "deb [signed-by={}] {} {SUITE} main",
        packages::KEYRING,
        packages::mirror()?
    );
    eprintln!("Making a bare root of Debian {SUITE}");
    process::run_aside(
        packages::as_root("mmdebstrap")?
            .args(["--quiet", "--mode=root", "--variant=minbase"])
            .arg("--include=qemu-system-x86")
            .arg(format!(
                "--customize-hook=chroot \"$1\" useradd --create-home --uid {USER} user"
            ))
            .arg(SUITE)
            .arg(root)
            .arg(source),
    )
}

/// The user's home for one try, with the tarball and an image's archive in it.
#[derive(Debug)]
struct Home {
    directory: PathBuf,
}

impl Home {
    fn new(tarball: &Path) -> Result<Self> {
        let directory = workspace::target().join(format!("dist-check-{}", std::process::id()));
        let home = Self { directory };
        let busybox = packages::busybox(&workspace::target().join("packages"))?;
        let archive = busybox_of(&fs::read(busybox)?).archive(IMAGE);
        let fill = || {
            fs::create_dir_all(&home.directory)?;
            fs::copy(tarball, home.directory.join("cofferdam.tar.gz"))?;
            fs::write(home.directory.join("image.tar"), archive)
        };
        fill().with_context(|| format!("Could not fill `{}`", home.directory.display()))?;
        let owner = format!("{USER}:{USER}");
        process::run(
            packages::as_root("chown")?
                .args(["--recursive", &owner])
                .arg(&home.directory),
        )?;
        Ok(home)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let removed = packages::as_root("rm").and_then(|mut command| {
            process::run(
                command
                    .args(["--recursive", "--force"])
                    .arg(&self.directory),
            )
        });
        if let Err(error) = removed {
            eprintln!("warning: `{}` stays: {error:#}", self.directory.display());
        }
    }
}
