//! Steps against a guest that answers when the test says so. Time is tokio's own and stops
//! while there is something to do.

use std::{path::PathBuf, sync::Arc};

use cofferdam_backend::{
    Backend, BlockDevice, Machine, MachineSpec, MachineStatus,
    fake::{FakeBackend, KERNEL_MAGIC},
};
use cofferdam_proto::{CONTROL_STREAM, Decoder, DiskPart, decode_control, encode_control};

use super::{super::wire::Wire, *};
use crate::link::{Outgoing, Waiting, outgoing};

/// A machine and what was sent to its agent.
struct Scene {
    dir: tempfile::TempDir,
    machine: Arc<dyn Machine>,
    wire: Wire,
    outbox: Outgoing,
    sent: Waiting,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("upper"), [0; 4096]).unwrap();
        std::fs::write(path("kernel"), KERNEL_MAGIC).unwrap();
        let text = format!(
            r#"{{"id":"{}","kernel":"{}","console_log":"/c","vmm_log":"/v","run_dir":"{}"}}"#,
            "0".repeat(64),
            path("kernel").display(),
            path("run").display()
        );
        let mut spec: MachineSpec = serde_json::from_str(&text).unwrap();
        spec.block_devices = vec![BlockDevice {
            id: "upper".to_owned(),
            path: path("upper"),
            read_only: false,
        }];
        let machine = FakeBackend::new().start(&spec).await.unwrap().into();
        let (queue, sent) = outgoing();
        Self {
            dir,
            machine,
            wire: Wire::new(queue.clone()),
            outbox: queue,
            sent,
        }
    }

    fn guest(&self) -> Guest {
        Guest {
            sandbox: "web".to_owned(),
            machine: Arc::clone(&self.machine),
            wire: self.wire.clone(),
            outbox: self.outbox.clone(),
            disk_made: None,
            upper: self.dir.path().join("upper"),
        }
    }

    fn plan(&self) -> CapturePlan {
        CapturePlan {
            memory: None,
            disks: vec![self.copy()],
        }
    }

    fn copy(&self) -> PathBuf {
        self.dir.path().join("copy")
    }

    /// The next question; waits for it.
    async fn asked(&mut self) -> HostMessage {
        message(&self.sent.next().await.unwrap())
    }

    fn all_asked(&mut self) -> Vec<HostMessage> {
        std::iter::from_fn(|| self.sent.try_next())
            .map(|bytes| message(&bytes))
            .collect()
    }

    /// Answers the next question.
    async fn answer(&mut self, answer: AgentMessage) -> HostMessage {
        let asked = self.asked().await;
        assert_eq!(self.wire.answered(answer), None, "nobody waited");
        asked
    }
}

fn message(bytes: &[u8]) -> HostMessage {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let frame = decoder.next_frame().unwrap().unwrap();
    decode_control(frame.payload).unwrap()
}

fn is_thaw(message: &HostMessage) -> bool {
    matches!(message, HostMessage::Thaw { .. })
}

#[tokio::test(start_paused = true)]
async fn a_freeze_that_is_answered_too_late_is_followed_by_its_thaw() {
    let mut scene = Scene::new().await;
    let outbox = scene.outbox.clone();
    let pausing = tokio::spawn(pause(scene.guest()));
    let asked = scene.asked().await;
    assert_eq!(asked, HostMessage::Freeze { sync: false });
    // What others say meanwhile comes after the thaw, and never between a freeze and its answer.
    let other = &mut Vec::new();
    encode_control(CONTROL_STREAM, &HostMessage::Detach, other).unwrap();
    outbox.send(other.clone()).unwrap();
    let error = pausing.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuestFailed);
    assert!(error.hint_text().is_some(), "{error:?}");
    // The thaw is with the agent before anybody knows whether it lives.
    let asked = scene.all_asked();
    assert!(asked.len() == 2 && is_thaw(&asked[0]), "{asked:?}");
    assert_eq!(asked[1], HostMessage::Detach);
    assert_eq!(scene.machine.status(), MachineStatus::Running);
    // A pause that comes now does not take the old answer for its own.
    let second = tokio::spawn(pause(scene.guest()));
    let asked = scene.asked().await;
    assert!(matches!(asked, HostMessage::Freeze { sync: false }));
    for late in [AgentMessage::Frozen, AgentMessage::Thawed] {
        assert_eq!(scene.wire.answered(late.clone()), Some(late));
    }
    assert!(!second.is_finished());
    assert_eq!(scene.machine.status(), MachineStatus::Running);
    assert_eq!(scene.wire.answered(AgentMessage::Frozen), None);
    second.await.unwrap().unwrap();
    assert_eq!(scene.machine.status(), MachineStatus::Paused);
}

#[tokio::test(start_paused = true)]
async fn an_unpause_without_an_answer_has_still_told_all_to_go_on() {
    let mut scene = Scene::new().await;
    scene.machine.pause().await.unwrap();
    unpause(scene.guest()).await.unwrap_err();
    assert!(scene.all_asked().iter().all(is_thaw));
    assert_eq!(scene.machine.status(), MachineStatus::Running);
    assert!(scene.wire.is_owed());
}

#[tokio::test(start_paused = true)]
async fn a_capture_whose_freeze_is_late_is_taken_back_and_leaves_no_file() {
    let mut scene = Scene::new().await;
    let capture = capture(scene.guest(), scene.plan(), false, false);
    let error = capture.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuestFailed);
    let asked = scene.all_asked();
    assert!(is_thaw(asked.last().unwrap()), "{asked:?}");
    assert_eq!(scene.machine.status(), MachineStatus::Running);
    assert!(!scene.copy().exists());
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_captured_when_little_is_dirty_however_long_that_takes() {
    let mut scene = Scene::new().await;
    let capture = capture(scene.guest(), scene.plan(), true, false);
    let capturing = tokio::spawn(capture);
    // First what was deleted goes; it is waited for.
    let trimming = |running| AgentMessage::Trimming {
        running,
        used_bytes: 0,
    };
    let part = DiskPart {
        start: 0,
        bytes: 4096,
    };
    for (running, parts) in [(true, vec![part]), (true, vec![]), (false, vec![])] {
        let commit = !parts.is_empty();
        let asked = scene.answer(trimming(running)).await;
        assert_eq!(asked, HostMessage::Trim { parts, commit });
    }
    let eager = HostMessage::WriteBack { eager: true };
    // Much longer than any answer may take.
    for step in 1..=5000 {
        let bytes = (1 << 40) - step;
        assert_eq!(scene.answer(AgentMessage::Dirty { bytes }).await, eager);
    }
    let dirty = AgentMessage::Dirty { bytes: DIRTY_BYTES };
    assert_eq!(scene.answer(dirty.clone()).await, eager);
    let slow = HostMessage::HoldBack {
        percent: HELD_BACK_PERCENT,
    };
    assert_eq!(scene.answer(dirty.clone()).await, slow);
    assert_eq!(scene.answer(dirty).await, eager);
    let freeze = HostMessage::Freeze { sync: true };
    assert_eq!(scene.answer(AgentMessage::Frozen).await, freeze);
    assert!(is_thaw(&scene.answer(AgentMessage::Thawed).await));
    capturing.await.unwrap().unwrap();
    assert!(scene.copy().exists());
    assert_eq!(scene.machine.status(), MachineStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_nothing_is_given_up_and_the_guest_is_as_before() {
    let mut scene = Scene::new().await;
    let capture = capture(scene.guest(), scene.plan(), true, false);
    let mut capturing = tokio::spawn(capture);
    let error = loop {
        tokio::select! {
            ended = &mut capturing => break ended.unwrap().unwrap_err(),
            asked = scene.asked() => if is_thaw(&asked) {
                assert_eq!(scene.wire.answered(AgentMessage::Thawed), None);
            } else {
                let dirty = AgentMessage::Dirty { bytes: 1 << 30 };
                assert_eq!(scene.wire.answered(dirty), None);
            },
        }
    };
    assert!(error.to_string().contains("1024 MiB"), "{error:?}");
    // The thaw was answered, so nothing is left.
    assert!(!scene.wire.is_owed() && scene.all_asked().is_empty());
}
