//! Why a guest died or never answered, from what it left on its console.

use cofferdam_backend::{LogKind, Machine, MachineSpec};

use crate::error::{Error, ErrorKind};

/// Lines of a log that are looked at and shown.
const TAIL_LINES: usize = 40;

/// Adds what the console tells to a failure of the guest; other failures stay as they are.
pub(crate) fn explain(machine: &dyn Machine, spec: &MachineSpec, error: Error) -> Error {
    if error.kind() != ErrorKind::GuestFailed {
        return error;
    }
    let console = machine
        .logs(TAIL_LINES, LogKind::Console)
        .unwrap_or_default();
    let vmm = machine.logs(TAIL_LINES, LogKind::Vmm).unwrap_or_default();
    let (cause, hint) = judge(&console, &vmm, spec);
    Error::new(ErrorKind::GuestFailed, cause)
        .because(error)
        .hint(hint)
}

/// One sentence and one hint for the two logs.
fn judge(console: &[String], vmm: &[String], spec: &MachineSpec) -> (String, String) {
    let find = |lines: &[String], needle: &str| {
        lines
            .iter()
            .find(|line| line.contains(needle))
            .map(|line| printable(line))
    };
    let log = format!("The guest's console is in `{}`", spec.console_log.display());
    if let Some(line) = find(console, "Kernel panic") {
        let memory = console.iter().any(|line| line.contains("Out of memory"));
        let hint = if memory {
            "Give the sandbox more memory with `--memory`".to_owned()
        } else {
            log
        };
        return (format!("The guest's kernel panicked: {line}"), hint);
    }
    if let Some(line) = find(vmm, "KVM internal error") {
        return (
            format!("KVM on this host cannot run the guest's kernel: {line}"),
            "Use emulation with `--backend qemu-tcg`; `coffer doctor` says more".to_owned(),
        );
    }
    if let Some(line) = find(vmm, "Cannot allocate memory") {
        return (
            format!("The host has too little memory for the guest: {line}"),
            "Give the sandbox less memory with `--memory`".to_owned(),
        );
    }
    if console.iter().all(|line| line.trim().is_empty()) {
        let said = vmm
            .last()
            .map(|line| format!(": {}", printable(line)))
            .unwrap_or_default();
        return (
            format!("The guest printed nothing and did not answer{said}"),
            format!("Is `{}` a kernel that boots by PVH?", spec.kernel.display()),
        );
    }
    ("The guest did not become ready".to_owned(), log)
}

/// A line of the guest's without what a terminal would obey.
fn printable(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(console: &str, vmm: &str) -> (String, String) {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let spec: MachineSpec = serde_json::from_str(&format!(
            r#"{{"id":"{}","kernel":"/k","console_log":"/c","vmm_log":"/v","run_dir":"/r"}}"#,
            "0".repeat(64)
        ))
        .unwrap();
        judge(&lines(console), &lines(vmm), &spec)
    }

    #[test]
    fn each_death_has_its_sentence_and_its_way_out() {
        let panic = judged("[ 1.0] Kernel panic - not syncing: VFS\u{1b}[31m", "");
        assert!(panic.0.contains("panicked") && !panic.0.contains('\u{1b}'));
        let oom = judged("Out of memory\nKernel panic - not syncing", "");
        assert!(oom.1.contains("--memory"));
        let kvm = judged("", "KVM internal error. Suberror: 1");
        assert!(kvm.1.contains("qemu-tcg"));
        let silent = judged("\n", "");
        assert!(silent.0.contains("printed nothing") && silent.1.contains("/k"));
        let host = judged("", "cannot set up guest memory: Cannot allocate memory");
        assert!(host.1.contains("less memory"));
        let other = judged("Linux version 6.12", "");
        assert!(other.1.contains("/c"));
    }
}
