//! Why a guest died or never answered: the backend's diagnosis of its traces, as an error.

use cofferdam_backend::{Backend, Diagnosis, Failure, LogKind, Machine, MachineEnd, MachineSpec};

use crate::base::{
    error::{Error, ErrorKind},
    task::log_line,
};

/// Lines of a log that are looked at.
const TAIL_LINES: usize = 60;

/// Adds what the traces tell to a failure of the guest; other failures stay as they are.
pub(crate) fn explain(
    backend: &dyn Backend,
    machine: &dyn Machine,
    spec: &MachineSpec,
    error: Error,
) -> Error {
    if error.kind() != ErrorKind::GuestFailed {
        return error;
    }
    let tail = |kind| {
        machine
            .logs(TAIL_LINES, kind)
            .unwrap_or_default()
            .join("\n")
    };
    let (console_tail, vmm_tail) = (tail(LogKind::Console), tail(LogKind::Vmm));
    let end = match machine.exit_status() {
        Some(exit) => match exit.signal {
            Some(signal) => MachineEnd::Killed(signal),
            None => MachineEnd::Exited(exit.code.unwrap_or_default()),
        },
        None => MachineEnd::StillRunning,
    };
    let failure = Failure {
        console_tail: &console_tail,
        vmm_tail: &vmm_tail,
        end,
    };
    explained(backend.diagnose(&failure), spec, error)
}

fn explained(diagnosis: Option<Diagnosis>, spec: &MachineSpec, error: Error) -> Error {
    let Some(diagnosis) = diagnosis else {
        return error.hint(format!(
            "The guest's console is in `{}`",
            spec.console_log.display()
        ));
    };
    log_line(&diagnosis.operator);
    let explained = Error::new(ErrorKind::GuestFailed, diagnosis.client).because(error);
    match diagnosis.hint {
        Some(hint) => explained.hint(hint),
        None => explained,
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_backend::DiagnosisKind;

    use super::*;

    fn spec() -> MachineSpec {
        serde_json::from_str(&format!(
            r#"{{"id":"{}","kernel":"/k","console_log":"/c","vmm_log":"/v","run_dir":"/r"}}"#,
            "0".repeat(64)
        ))
        .unwrap()
    }

    #[test]
    fn a_panic_on_the_console_becomes_the_sentence_and_the_symptom_its_cause() {
        let console = "[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs";
        let diagnosis = Diagnosis::new(DiagnosisKind::NoRootFilesystem, console);
        let symptom = Error::new(ErrorKind::GuestFailed, "The machine ended without notice");
        let error = explained(Some(diagnosis), &spec(), symptom);
        assert!(
            error.chain().ends_with("The machine ended without notice"),
            "{error:?}"
        );
        assert_ne!(error.to_string(), "The machine ended without notice");
        assert!(error.hint_text().is_some());
    }

    #[test]
    fn without_a_diagnosis_the_reader_is_told_where_to_look() {
        let symptom = Error::new(ErrorKind::GuestFailed, "The guest stopped answering");
        let error = explained(None, &spec(), symptom);
        assert!(error.hint_text().unwrap().contains("/c"));
    }
}
