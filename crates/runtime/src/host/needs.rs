//! What a request needs of a backend. It is asked before anything is made, so that a request that
//! cannot be met is refused at once, and not by the machine in the middle of the work.

use cofferdam_backend::{Backend, SnapshotTier};

use crate::{
    base::error::{Error, ErrorKind, Result},
    store::layout::Layout,
};

/// Something that not every backend has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A machine with this many processors, and with a network interface or without.
    Machine { vcpus: u8, network: bool },
    /// Many machines from one captured one.
    Forks,
    /// The disk of a machine that runs.
    LiveDisk,
    /// Memory, devices and disk of a machine that runs.
    LiveMemory,
    /// A machine whose processors can be stopped and continued.
    Pause,
}

/// Refuses what `backend` does not have.
///
/// # Errors
/// [`ErrorKind::Unsupported`] with what it has; [`ErrorKind::InvalidSpec`] for too many processors.
pub(crate) fn expect(backend: &dyn Backend, need: Need) -> Result<()> {
    let (name, can) = (backend.name(), backend.capabilities());
    let lacks = |what: &str| {
        let what = format!("The backend `{name}` has no {what}");
        Err(Error::new(ErrorKind::Unsupported, what).hint("Choose another backend"))
    };
    match need {
        Need::Machine { vcpus, .. } if vcpus > can.max_vcpus => {
            let most = can.max_vcpus;
            let what = format!("`{vcpus}` processors are more than the {most} of `{name}`");
            Err(Error::new(ErrorKind::InvalidSpec, what))
        }
        Need::Machine { network: true, .. } if !can.network => {
            let what = format!("The backend `{name}` has no network interface");
            Err(Error::new(ErrorKind::Unsupported, what)
                .hint("Use `--network none`, or choose another backend"))
        }
        Need::Forks if !can.fork => lacks("templates and no forks"),
        Need::LiveDisk if can.snapshot < SnapshotTier::Disk => lacks("snapshots"),
        Need::LiveMemory if can.snapshot < SnapshotTier::Live => {
            lacks("snapshots of machines that run")
        }
        Need::Pause if !can.pause_resume => lacks("pause"),
        Need::Machine { .. } | Need::Forks | Need::LiveDisk | Need::LiveMemory | Need::Pause => {
            Ok(())
        }
    }
}

/// Refuses what the backend of a live sandbox, by its name, does not have. Without a name nothing is
/// known, and the machine will refuse it.
///
/// # Errors
/// As for [`expect`].
pub(crate) fn expect_of_live(layout: &Layout, backend: Option<&str>, need: Need) -> Result<()> {
    match backend.and_then(|name| super::named(layout, name)) {
        Some(backend) => expect(backend.as_ref(), need),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_backend::fake::FakeBackend;

    use super::*;

    #[test]
    fn a_backend_is_asked_for_all_that_a_request_needs() {
        let needs = [
            Need::Machine {
                vcpus: 1,
                network: true,
            },
            Need::Forks,
            Need::LiveDisk,
            Need::LiveMemory,
            Need::Pause,
        ];
        let sound = FakeBackend::new();
        for need in needs {
            expect(&sound, need).unwrap();
        }
        let plain = FakeBackend::new().plain();
        for need in needs {
            let error = expect(&plain, need).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.hint_text().is_some());
        }
        let many = Need::Machine {
            vcpus: u8::MAX,
            network: false,
        };
        let error = expect(&sound, many).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    }
}
