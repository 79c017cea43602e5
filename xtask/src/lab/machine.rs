//! The lab's machine: one QEMU process, and the files through which it is spoken with.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{process as programs, qemu::Qemu};

/// The processor. One only: with two, QEMU 7.2's emulation of SVM stops or crashes the lab's kernel
/// within minutes (seen in 3 of 4 runs of the contract tests); with one, in about one lab of fifty.
const PROCESSOR: &str = "-accel tcg,thread=multi -cpu max,+svm,+npt -smp 1";

/// Memory, of which the half may hold what the command writes.
const MEMORY: &str = "6G";

/// Size of the scratch disk. A hole until it is written to.
const SCRATCH_BYTES: u64 = 32 << 30;

/// How much of the console an error quotes.
const CONSOLE_LINES: usize = 40;

/// How the names of machines' directories begin.
const PREFIX: &str = "machine-";

/// The files of a machine that has not run yet; they go with the value, or with the next lab if
/// this process is killed.
#[derive(Debug)]
pub(super) struct Lab {
    directory: PathBuf,
    kernel: PathBuf,
    /// Locks the directory: without a lock it is a dead process's.
    _lock: File,
}

impl Lab {
    /// Makes the machine's files below `directory`.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(super) fn new(directory: &Path, kernel: &Path, initramfs: &[u8]) -> Result<Self> {
        let own = directory.join(format!("{PREFIX}{}", process::id()));
        let context = || format!("Could not make `{}`", own.display());
        let lab = Self {
            _lock: own_directory(directory, &own).with_context(context)?,
            directory: own.clone(),
            kernel: kernel.to_owned(),
        };
        let make = || -> io::Result<()> {
            fs::write(lab.file("initramfs"), initramfs)?;
            File::create(lab.file("scratch"))?.set_len(SCRATCH_BYTES)
        };
        make().with_context(context)?;
        programs::run(
            Command::new("/usr/sbin/mkfs.ext4")
                .args(["-q", "-E", "lazy_itable_init=1,lazy_journal_init=1"])
                .arg(lab.file("scratch")),
        )?;
        Ok(lab)
    }

    /// Runs the machine to its end and returns the command's status.
    ///
    /// # Errors
    /// When QEMU fails, or the machine ended without a status; the error quotes its console.
    pub(super) fn run(self, qemu: &Qemu) -> Result<u8> {
        // It ends with us, whatever ends us.
        let mut qemu = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(qemu.program())
            .args(qemu.firmware())
            .args(self.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("Could not start QEMU")?;
        // QEMU opens its output by a name; of a file that would be with a position of its own.
        if let Some(mut output) = qemu.stdout.take() {
            io::copy(&mut output, &mut io::stdout()).context("Could not pass on the output")?;
        }
        let ended = qemu.wait().context("Could not wait for QEMU")?;
        if !ended.success() {
            bail!("QEMU failed: {ended}; {}", self.console());
        }
        let status = fs::read_to_string(self.file("status")).unwrap_or_default();
        match status.trim().parse() {
            Ok(status) => Ok(status),
            Err(_) => bail!("The lab ended before the command did; {}", self.console()),
        }
    }

    /// Source: qemu-system-x86_64(1).
    fn arguments(&self) -> Vec<String> {
        let file = |name: &str| self.file(name).display().to_string().replace(',', ",,");
        let mut all = words(&format!(
            "-M q35 {PROCESSOR} -m {MEMORY} -nodefaults -display none -no-reboot \
             -device virtio-serial-pci"
        ));
        let mut add = |name: &str, value: String| all.extend([name.to_owned(), value]);
        add("-kernel", self.kernel.display().to_string());
        add("-initrd", self.file("initramfs").display().to_string());
        add("-append", "console=ttyS0 quiet panic=-1".to_owned());
        for (name, path) in [
            ("console", file("console")),
            ("output", "/dev/stdout".to_owned()),
            ("status", file("status")),
        ] {
            add("-chardev", format!("file,id={name},path={path},append=on"));
        }
        add("-serial", "chardev:console".to_owned());
        for name in ["output", "status"] {
            add("-device", format!("virtserialport,chardev={name}"));
        }
        // What the host has mounted below its root is seen as one file system.
        add(
            "-fsdev",
            "local,id=host,path=/,readonly=on,security_model=none,multidevs=remap".to_owned(),
        );
        add(
            "-device",
            "virtio-9p-pci,fsdev=host,mount_tag=host".to_owned(),
        );
        add(
            "-drive",
            format!(
                "file={},format=raw,if=virtio,discard=unmap",
                file("scratch")
            ),
        );
        all
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The console's end, for an error.
    fn console(&self) -> String {
        let text = fs::read(self.file("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let last = lines.len().saturating_sub(CONSOLE_LINES);
        format!(
            "its console said:\n{}",
            lines.get(last..).unwrap_or_default().join("\n")
        )
    }
}

/// Makes and locks `own` in `directory`, and removes what killed processes left there.
fn own_directory(directory: &Path, own: &Path) -> io::Result<File> {
    // Nobody sweeps between the making of a directory and its lock.
    let sweep = File::open(directory)?;
    sweep.lock()?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_machine = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_machine && File::open(entry.path())?.try_lock().is_ok() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    fs::create_dir(own)?;
    let lock = File::open(own)?;
    lock.lock()?;
    Ok(lock)
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("warning: `{}` stays: {error}", self.directory.display());
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_lab_left_is_removed_and_what_a_live_one_has_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["machine-1", "machine-2", "linux-image"] {
            fs::create_dir(path(name)).unwrap();
        }
        let alive = File::open(path("machine-2")).unwrap();
        alive.lock().unwrap();
        let own = own_directory(directory.path(), &path("machine-3")).unwrap();
        assert!(!path("machine-1").exists());
        for name in ["machine-2", "machine-3", "linux-image"] {
            assert!(path(name).exists(), "{name}");
        }
        assert!(File::open(path("machine-3")).unwrap().try_lock().is_err());
        drop(own);
    }
}
