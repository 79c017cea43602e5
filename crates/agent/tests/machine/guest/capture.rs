//! Captures of a running machine, and machines restored from them.
//!
//! Source: QEMU's docs/interop/qmp-spec.rst and qapi/migration.json. QMP answers in lines of JSON,
//! in which the few words that are waited for here cannot stand for anything else.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use super::{Guest, PATIENCE, connect, scratch};

/// A machine at one moment: memory, devices and disks.
pub(crate) struct Capture {
    directory: PathBuf,
}

impl Guest {
    /// Captures the machine, which goes on afterwards.
    pub(crate) fn capture(&self) -> Capture {
        let directory = scratch();
        let mut monitor = Monitor::open(&self.directory);
        monitor.ask(r#"{"execute":"stop"}"#, "\"return\"");
        let events = r#"{"capability":"events","state":true}"#;
        let events = format!(
            r#"{{"execute":"migrate-set-capabilities","arguments":{{"capabilities":[{events}]}}}}"#
        );
        monitor.ask(&events, "\"return\"");
        let state = directory.join("state").display().to_string();
        let migrate =
            format!(r#"{{"execute":"migrate","arguments":{{"uri":"exec:cat > {state}"}}}}"#);
        monitor.ask(&migrate, "\"status\": \"completed\"");
        for disk in ["root.erofs", "upper.ext4"] {
            fs::copy(self.directory.join(disk), directory.join(disk)).unwrap();
        }
        monitor.ask(r#"{"execute":"cont"}"#, "\"return\"");
        Capture { directory }
    }
}

impl Capture {
    /// A machine that goes on from here; there may be many.
    pub(crate) fn restore(&self) -> Guest {
        let directory = scratch();
        for disk in ["root.erofs", "upper.ext4"] {
            fs::copy(self.directory.join(disk), directory.join(disk)).unwrap();
        }
        // Its own name for it, since it reads it after this returns.
        let state = directory.join("state");
        fs::hard_link(self.directory.join("state"), &state).unwrap();
        let state = state.display().to_string();
        let begin = ["-incoming".to_owned(), format!("exec:cat {state}")];
        Guest::start(directory, &begin)
    }

    /// The file behind the upper disk.
    pub(crate) fn upper(&self) -> PathBuf {
        self.directory.join("upper.ext4")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// QEMU's control channel.
struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn open(directory: &Path) -> Self {
        let stream = connect(&directory.join("qmp.sock"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut monitor = Self {
            lines: BufReader::new(stream),
        };
        monitor.wait_for("\"QMP\"");
        monitor.ask(r#"{"execute":"qmp_capabilities"}"#, "\"return\"");
        monitor
    }

    /// Sends a command and waits for a line with `answer`.
    fn ask(&mut self, command: &str, answer: &str) {
        let line = format!("{command}\n");
        self.lines.get_mut().write_all(line.as_bytes()).unwrap();
        self.wait_for(answer);
    }

    fn wait_for(&mut self, part: &str) {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            let count = self.lines.read_line(&mut line).expect("QEMU is silent");
            assert!(count > 0 && !line.contains("\"error\""), "{line}");
        }
    }
}
