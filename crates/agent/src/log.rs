//! One line each to the kernel's log, which shows errors on the serial console.
//!
//! Source: Documentation/ABI/testing/dev-kmsg: `<level>text`; level 3 is an error, 5 a notice, which
//! a kernel that was booted `quiet` keeps to itself.

use std::{fs::File, io::Write, sync::OnceLock};

static KMSG: OnceLock<Option<File>> = OnceLock::new();

/// Logs an error. Lost when there is no `/dev/kmsg`; there is nowhere else to say so.
pub(crate) fn error(message: &str) {
    log(3, message);
}

/// Logs something worth knowing when looking for an error.
pub(crate) fn notice(message: &str) {
    log(5, message);
}

fn log(level: u8, message: &str) {
    let kmsg = KMSG.get_or_init(|| File::options().write(true).open("/dev/kmsg").ok());
    if let Some(mut kmsg) = kmsg.as_ref() {
        let line = message.replace(|c: char| c.is_control(), " ");
        // One write is one record; a failed one cannot be reported.
        let _ = kmsg.write_all(format!("<{level}>cofferdam-agent: {line}\n").as_bytes());
    }
}
