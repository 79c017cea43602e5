//! Tests of the store on a temporary home.

use std::{path::Path, sync::Arc};

use cofferdam_backend::{
    Backend,
    fake::{FakeBackend, KERNEL_MAGIC},
};
use cofferdam_proto::ProcessSpec;
use cofferdam_types::{Digest, SandboxSpec, SandboxStatus, Signal};

use super::*;
use crate::{
    backends::{Backends, Given},
    store::{names::Claim, resume::Resume},
};

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self) -> Store {
        Store::open(Layout::at(self.dir.path()).unwrap()).unwrap()
    }
}

pub(crate) fn record(byte: u8, name: &str) -> SandboxRecord {
    SandboxRecord {
        version: RECORD_VERSION,
        id: SandboxId::from_random([byte; 32]),
        name: name.to_owned(),
        created_ns: u64::from(byte),
        spec: SandboxSpec::default(),
        image: RecordedImage {
            name: "image".to_owned(),
            id: Digest::from_sha256([1; 32]),
            manifest: Digest::from_sha256([2; 32]),
            rootfs: "/rootfs".into(),
            disk_bytes: 0,
            auto_warm_ups: None,
        },
        process: ProcessSpec::default(),
        hostname: "host".to_owned(),
        stop_signal: Signal::TERM,
        forked_from: None,
    }
}

fn live_state() -> SandboxState {
    SandboxState {
        status: SandboxStatus::Running,
        ..SandboxState::created()
    }
}

#[test]
fn a_sandbox_is_found_by_name_id_and_unique_prefix() {
    let home = Home::new();
    let store = home.open();
    store.insert(&record(0xa1, "web"), |_| Ok(())).unwrap();
    store.insert(&record(0xa2, "db"), |_| Ok(())).unwrap();
    let id = record(0xa1, "web").id.to_string();
    for name in ["web", &id, "a1", &id[..12]] {
        assert_eq!(store.find(name).unwrap().record.name, "web", "{name}");
    }
    assert_eq!(store.find("a").unwrap_err().kind(), ErrorKind::Ambiguous);
    for name in ["", "nope", "f", "../etc"] {
        assert_eq!(
            store.find(name).unwrap_err().kind(),
            ErrorKind::NotFound,
            "{name}"
        );
    }
}

#[test]
fn the_newest_sandbox_is_listed_first() {
    let home = Home::new();
    let store = home.open();
    store.insert(&record(1, "old"), |_| Ok(())).unwrap();
    store.insert(&record(2, "new"), |_| Ok(())).unwrap();
    let names: Vec<String> = store
        .list()
        .unwrap()
        .into_iter()
        .map(|entry| entry.record.name)
        .collect();
    assert_eq!(names, ["new", "old"]);
}

#[test]
fn lost_names_are_made_again_from_the_directories() {
    let home = Home::new();
    home.open().insert(&record(1, "kept"), |_| Ok(())).unwrap();
    let names = home.open().layout().names();
    std_fs::remove_dir_all(&names).unwrap();
    let store = home.open();
    assert_eq!(store.find("kept").unwrap().record.name, "kept");
    assert_eq!(
        store
            .insert(&record(2, "kept"), |_| Ok(()))
            .unwrap_err()
            .kind(),
        ErrorKind::NameTaken
    );
}

#[test]
fn where_names_cannot_be_written_sandboxes_are_found_and_no_name_is_given_twice() {
    let home = Home::new();
    home.open().insert(&record(1, "kept"), |_| Ok(())).unwrap();
    let names = home.open().layout().names();
    std_fs::remove_dir_all(&names).unwrap();
    std_fs::write(&names, "no directory").unwrap();
    let store = home.open();
    assert_eq!(store.find("kept").unwrap().record.name, "kept");
    assert!(store.is_taken("kept").unwrap());
    let twice = store.insert(&record(2, "kept"), |_| Ok(())).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::NameTaken);
    store.insert(&record(2, "new"), |_| Ok(())).unwrap_err();
    store.remove(record(1, "kept").id).unwrap();
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_live_state_is_believed_only_while_the_lock_is_held() {
    let home = Home::new();
    let store = home.open();
    let id = record(1, "web").id;
    store.insert(&record(1, "web"), |_| Ok(())).unwrap();
    store.set_state(id, &live_state()).unwrap();
    let lock = store.try_lock(id).unwrap().unwrap();
    assert_eq!(
        store.find("web").unwrap().state.status,
        SandboxStatus::Running
    );
    drop(lock);
    let state = store.find("web").unwrap().state;
    assert_eq!(state.status, SandboxStatus::Failed);
    assert_eq!(state.failure.unwrap().kind, "supervisor_lost");
}

#[tokio::test]
async fn the_machine_of_a_lost_supervisor_is_ended_by_the_next_look() {
    let home = Home::new();
    let backend = Arc::new(FakeBackend::new());
    let backends = Backends::Given(Arc::new(Given::of(backend.clone())));
    let layout = Layout::at(home.dir.path()).unwrap();
    let store = Store::open(layout.with_backends(backends)).unwrap();
    let record = record(1, "web");
    store.insert(&record, |_| Ok(())).unwrap();
    store.set_state(record.id, &live_state()).unwrap();
    let kernel = home.dir.path().join("kernel");
    std_fs::write(&kernel, KERNEL_MAGIC).unwrap();
    let spec = format!(
        r#"{{"id":"{}","kernel":"{}","console_log":"/c","vmm_log":"/v","run_dir":"{}"}}"#,
        record.id,
        kernel.display(),
        store.layout().sandbox(record.id).run.display()
    );
    let spec = serde_json::from_str(&spec).unwrap();
    let machine = backend.start(&spec).await.unwrap();
    assert!(machine.exit_status().is_none());
    let state = store.find("web").unwrap().state;
    assert_eq!(state.status, SandboxStatus::Failed);
    assert!(machine.exit_status().is_some());
}

#[test]
fn an_abandoned_sandbox_that_was_to_be_removed_is_removed() {
    let home = Home::new();
    let store = home.open();
    let mut doomed = record(1, "gone");
    doomed.spec.auto_remove = true;
    store.insert(&doomed, |_| Ok(())).unwrap();
    store.set_state(doomed.id, &live_state()).unwrap();
    assert_eq!(store.find("gone").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!store.layout().sandbox(doomed.id).dir.exists());
}

#[test]
fn staging_of_dead_processes_is_swept_and_of_living_ones_kept() {
    let home = Home::new();
    let store = home.open();
    let dir = store.layout().sandboxes();
    // The largest process id of Linux is 2^22; this one cannot exist.
    let dead = dir.join(".tmp-99999999-0-x");
    let living = dir.join(format!(".tmp-{}-0-x", std::process::id()));
    std_fs::create_dir(&dead).unwrap();
    std_fs::create_dir(&living).unwrap();
    drop(home.open());
    assert!(!dead.exists());
    assert!(living.exists());
}

#[test]
fn a_removed_sandbox_leaves_nothing_and_frees_its_name() {
    let home = Home::new();
    let store = home.open();
    store.insert(&record(1, "web"), |_| Ok(())).unwrap();
    store.remove(record(1, "web").id).unwrap();
    assert_eq!(
        std_fs::read_dir(store.layout().sandboxes())
            .unwrap()
            .count(),
        0
    );
    store.insert(&record(2, "web"), |_| Ok(())).unwrap();
}

#[test]
fn damaged_files_are_a_typed_error_with_the_way_out() {
    let home = Home::new();
    let store = home.open();
    let paths = store.insert(&record(1, "web"), |_| Ok(())).unwrap();
    std_fs::write(paths.record(), b"{").unwrap();
    let error = store.find("web").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.hint_text().unwrap().contains("coffer rm -f"));
}

#[test]
fn a_name_that_a_killed_process_had_claimed_is_free() {
    let home = Home::new();
    let store = home.open();
    let claim = || store.names.claim("web", record(1, "web").id).unwrap();
    assert_eq!(claim(), Claim::Made);
    assert!(!store.is_taken("web").unwrap());
    assert_eq!(claim(), Claim::Made);
    store.insert(&record(2, "web"), |_| Ok(())).unwrap();
    assert_eq!(store.find("web").unwrap().record.id, record(2, "web").id);
}

#[test]
fn a_sandbox_that_left_its_name_behind_can_come_back() {
    let home = Home::new();
    let store = home.open();
    let paths = store.insert(&record(1, "web"), |_| Ok(())).unwrap();
    // As a removal on a full disk leaves it.
    std::fs::remove_dir_all(paths.dir).unwrap();
    store.insert(&record(1, "web"), |_| Ok(())).unwrap();
    assert_eq!(store.find("web").unwrap().record.id, record(1, "web").id);
    // One that is there does not come a second time.
    let twice = store.insert(&record(1, "web"), |_| Ok(())).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::NameTaken);
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn a_name_is_taken_while_its_sandbox_is_being_made() {
    let home = Home::new();
    let store = home.open();
    let meanwhile = |_: &Path| {
        let other = home.open();
        assert!(other.is_taken("web").unwrap());
        let refused = other.insert(&record(2, "web"), |_| Ok(())).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NameTaken);
        Ok(())
    };
    store.insert(&record(1, "web"), meanwhile).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn a_sandbox_that_could_not_be_made_leaves_no_name_and_no_files() {
    let home = Home::new();
    let store = home.open();
    let fail = |_: &Path| Err(Error::new(ErrorKind::NoSpace, "The disk is full"));
    let error = store.insert(&record(1, "web"), fail).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(!store.is_taken("web").unwrap());
    let left = std_fs::read_dir(store.layout().sandboxes())
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

/// A sandbox that is to go on from files in a directory of the snapshots that is gone.
fn resuming(store: &Store, dir: &str, status: SandboxStatus) -> Option<Entry> {
    let sandbox = record(1, "web");
    let files = crate::store::snapshot::machine_files(&store.layout().snapshots().join(dir));
    let resume = |dir: &Path| Resume::new(&files, cofferdam_proto::IdentityCause::Fork).write(dir);
    store.insert(&sandbox, resume).unwrap();
    let state = SandboxState {
        status,
        ..SandboxState::created()
    };
    store.set_state(sandbox.id, &state).unwrap();
    store.load(sandbox.id).unwrap()
}

#[test]
fn a_fork_that_has_lost_its_capture_before_it_came_up_is_debris() {
    for status in [
        SandboxStatus::Created,
        SandboxStatus::Starting,
        SandboxStatus::Failed,
    ] {
        let home = Home::new();
        let store = home.open();
        assert!(
            resuming(&store, ".tmp-1-0-abc", status).is_none(),
            "{status}"
        );
        assert!(!store.is_taken("web").unwrap());
    }
}

#[test]
fn a_restored_sandbox_outlives_its_snapshot() {
    let home = Home::new();
    let store = home.open();
    let entry = resuming(&store, "abc", SandboxStatus::Failed).unwrap();
    assert_eq!(entry.state.status, SandboxStatus::Failed);
    let paths = store.layout().sandbox(entry.record.id);
    assert!(Resume::read(&paths).unwrap().is_none());
}
