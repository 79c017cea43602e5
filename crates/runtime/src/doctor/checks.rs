//! What `doctor` looks at beside backends.

use std::path::PathBuf;

use super::Check;
use crate::{
    base::error::{Error, Result},
    store::layout::Layout,
};

/// Every check, in the order of `doctor`'s answer.
pub(super) fn all(layout: &Layout, kernel: &Result<PathBuf>, lost: Option<&Error>) -> Vec<Check> {
    vec![
        store_check(layout, lost),
        kernel_check(kernel),
        agent_check(),
        space_check(layout),
        memory_check(),
        template_check(layout),
        capture_check(),
    ]
}

fn store_check(layout: &Layout, lost: Option<&Error>) -> Check {
    Check {
        name: "store".to_owned(),
        ok: lost.is_none(),
        detail: lost.map_or_else(|| layout.home().display().to_string(), Error::chain),
        cost: lost.map(|_| "Nothing works without a store of images and sandboxes".to_owned()),
        command: lost.map(|_| "export COFFER_HOME=/path/that/you/may/write".to_owned()),
    }
}

fn kernel_check(kernel: &Result<PathBuf>) -> Check {
    Check {
        name: "guest kernel".to_owned(),
        ok: kernel.is_ok(),
        detail: match kernel {
            Ok(path) => path.display().to_string(),
            Err(error) => error.chain(),
        },
        cost: kernel
            .is_err()
            .then(|| "No sandbox can start without `--kernel`".to_owned()),
        command: kernel.is_err().then(|| "cargo xtask kernel".to_owned()),
    }
}

fn agent_check() -> Check {
    let ok = crate::host::guest::has_agent();
    Check {
        name: "guest agent".to_owned(),
        ok,
        detail: if ok {
            "built in"
        } else {
            "missing from this build"
        }
        .to_owned(),
        cost: (!ok).then(|| "No sandbox can start".to_owned()),
        command: (!ok).then(|| "cargo xtask build --release".to_owned()),
    }
}

/// Where the Yama module of the kernel says who may read whose memory; absent without it. Source:
/// Linux `Documentation/admin-guide/LSM/Yama.rst`.
const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// Number of the capability that reads memory where Yama wants one. Source: `linux/capability.h`.
const CAP_SYS_PTRACE: u32 = 19;

fn capture_check() -> Check {
    let scope = std::fs::read_to_string(PTRACE_SCOPE).unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ok = reads_memory(&scope, &status);
    Check {
        name: "live captures".to_owned(),
        ok,
        detail: if ok {
            "what a guest has changed can be read out of its machine".to_owned()
        } else {
            format!("`kernel.yama.ptrace_scope` is {}", scope.trim())
        },
        cost: (!ok).then(|| {
            "Each fork or snapshot of a running sandbox copies all of its memory".to_owned()
        }),
        command: (!ok).then(|| "sudo sysctl kernel.yama.ptrace_scope=1".to_owned()),
    }
}

/// Whether a process may read the memory of its children, by Yama's setting and its own
/// `/proc/self/status`. Only with scopes 2 and 3 it may not, and with 2 the capability helps.
fn reads_memory(scope: &str, status: &str) -> bool {
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    match scope.trim() {
        "3" => false,
        "2" => capabilities.is_some_and(|mask| mask >> CAP_SYS_PTRACE & 1 == 1),
        _ => true,
    }
}

/// Room for one template and one image of common size, in bytes.
const COMFORTABLE_BYTES: u64 = 2 << 30;

fn space_check(layout: &Layout) -> Check {
    // A store that is still to be made takes the space of what it is made in.
    let there = layout.home().ancestors().find(|path| path.exists());
    let free = rustix::fs::statvfs(there.unwrap_or_else(|| layout.home()))
        .map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let ok = free >= COMFORTABLE_BYTES;
    let free = cofferdam_types::ByteSize::from_bytes(free);
    Check {
        name: "disk space".to_owned(),
        ok,
        detail: format!("{free} free in `{}`", layout.home().display()),
        cost: (!ok).then(|| "Images and templates may not fit".to_owned()),
        command: (!ok).then(|| "export COFFER_HOME=/path/with/space".to_owned()),
    }
}

/// Memory for one sandbox of the default size and its VMM, in bytes.
const ONE_SANDBOX_BYTES: u64 = 640 << 20;

fn memory_check() -> Check {
    let available = crate::host::room::meminfo("MemAvailable:").unwrap_or(0);
    let ok = available >= ONE_SANDBOX_BYTES;
    Check {
        name: "memory".to_owned(),
        ok,
        detail: format!(
            "{} available",
            cofferdam_types::ByteSize::from_bytes(available)
        ),
        cost: (!ok).then(|| "A sandbox of the default size may not start".to_owned()),
        command: None,
    }
}

/// What the last starts found about templates.
fn template_check(layout: &Layout) -> Check {
    let missing = crate::template::recent_failures(layout);
    let reasons: Vec<String> = missing
        .iter()
        .map(|missing| format!("the {} template: {}", missing.what, missing.error().chain()))
        .collect();
    let ok = reasons.is_empty();
    Check {
        name: "templates".to_owned(),
        ok,
        detail: if ok {
            "none failed to be made in the last minutes".to_owned()
        } else {
            reasons.join("; ")
        },
        cost: (!ok).then(|| "Sandboxes work, but each of them boots by itself".to_owned()),
        command: (!ok).then(|| "coffer template build IMAGE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strict_settings_without_the_capability_keep_memory_from_being_read() {
        let none = "Name:\tx\nCapEff:\t0000000000000000\n";
        let ptrace = "CapEff:\t0000000000080000\n";
        for (scope, status, expected) in [
            ("", none, true),
            ("0\n", none, true),
            ("1\n", none, true),
            ("2\n", none, false),
            ("2\n", ptrace, true),
            ("2\n", "", false),
            ("3\n", ptrace, false),
        ] {
            assert_eq!(
                reads_memory(scope, status),
                expected,
                "{scope:?} {status:?}"
            );
        }
    }
}
