//! Sandboxes that go, starts that are cancelled, and snapshots of what runs.

use cofferdam_proto::StartMode;
use cofferdam_types::{ExitStatus, SandboxStatus, Signal};

use super::{Home, soon};
use crate::{ErrorKind, SnapshotKind, SnapshotOptions};

/// Waits until a guest has booted.
async fn booted(home: &Home) {
    while !home.agent.did().contains(&"boot".to_owned()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_start_whose_guest_never_answers_is_cancelled_by_a_kill_and_leaves_no_machine() {
    let home = Home::new();
    home.agent.be_mute();
    let entry = home.sandbox("web", &["x"]);
    let start = home.runtime.start(&entry, StartMode::default());
    let kill = async {
        booted(&home).await;
        assert_eq!(home.status("web"), SandboxStatus::Starting);
        assert_eq!(home.backend.living(), 1);
        home.kill("web").await;
    };
    let (started, ()) = soon(async { tokio::join!(start, kill) }).await;
    assert_eq!(started.unwrap_err().kind(), ErrorKind::Cancelled);
    let state = home.runtime.find("web").unwrap().state;
    assert_eq!(state.status, SandboxStatus::Stopped);
    let killed = ExitStatus::Signal(Signal::KILL.number());
    assert_eq!(state.exit, Some(killed));
    assert_eq!(home.backend.living(), 0);
}

#[tokio::test]
async fn a_sandbox_that_is_to_be_removed_goes_at_its_end_with_its_machine() {
    let home = Home::new();
    let entry = home.sandbox_with("web", &["x"], |spec| spec.auto_remove = true);
    let (_held, _) = soon(home.start(&entry)).await;
    let dir = home.layout.sandbox(entry.record.id).dir;
    assert!(dir.exists());
    home.kill("web").await;
    let found = home.runtime.find("web");
    assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_stopped_sandbox_has_no_machine_and_can_be_removed() {
    let home = Home::new();
    let entry = home.sandbox("web", &["exit", "0"]);
    let (_held, _) = soon(home.start(&entry)).await;
    soon(home.runtime.wait(&entry)).await.unwrap();
    assert_eq!(home.backend.living(), 0);
    let entry = home.runtime.find("web").unwrap();
    soon(home.runtime.remove(&entry, false)).await.unwrap();
    assert!(home.runtime.list().unwrap().is_empty());
}

#[tokio::test]
async fn snapshots_of_a_running_sandbox_hold_it_up_once_and_are_whole() {
    let home = Home::new();
    let entry = home.sandbox("web", &["x"]);
    let (_held, _) = soon(home.start(&entry)).await;
    let entry = home.runtime.find("web").unwrap();
    for (kind, files) in [(SnapshotKind::Full, 3), (SnapshotKind::Disk, 1)] {
        home.agent.did();
        let options = SnapshotOptions {
            kind: Some(kind),
            ..SnapshotOptions::default()
        };
        let snapshot = soon(home.runtime.create_snapshot(&entry, options))
            .await
            .unwrap();
        assert_eq!(snapshot.manifest.kind, kind);
        assert_eq!(snapshot.manifest.files.len(), files);
        assert_eq!(home.agent.did(), ["freeze", "thaw"]);
        let id = snapshot.manifest.id.to_string();
        let found = home.runtime.find_snapshot(&id).unwrap();
        assert_eq!(found.manifest.sandbox.id, entry.record.id);
    }
    assert_eq!(home.status("web"), SandboxStatus::Running);
    home.kill("web").await;
}
