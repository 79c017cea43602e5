//! Starts, sessions and ends.

use cofferdam_proto::{ExecOptions, ProcessSpec, Request, StartMode, SupervisorMessage};
use cofferdam_types::{ExitStatus, NetworkSpec, SandboxStatus, Signal};

use super::{Home, LIMIT, soon};
use crate::{Connection, ErrorKind, ForkOptions, ForkSource, Incoming};

/// Reads until the session's end: its output and its exit.
async fn to_the_end(connection: &mut Connection) -> (Vec<u8>, ExitStatus) {
    let mut output = Vec::new();
    loop {
        match connection.next().await.unwrap() {
            Incoming::Output { bytes, .. } => output.extend(bytes),
            Incoming::Message(SupervisorMessage::Exited { status }) => return (output, status),
            Incoming::Message(_) => {}
        }
    }
}

#[tokio::test]
async fn the_first_start_makes_the_base_template_and_the_second_uses_it() {
    let home = Home::new();
    let (one, two) = (home.sandbox("one", &["x"]), home.sandbox("two", &["x"]));
    let (_held, stages) = soon(home.start(&one)).await;
    assert!(stages.contains(&"base template".to_owned()), "{stages:?}");
    assert_eq!(
        home.agent.did(),
        ["boot", "quiesce", "adopt start one", "mount", "start"]
    );
    let (_held, _) = soon(home.start(&two)).await;
    // No machine boots.
    assert_eq!(home.agent.did(), ["adopt start two", "mount", "start"]);
    for name in ["one", "two"] {
        assert_eq!(home.status(name), SandboxStatus::Running);
        assert!(home.degraded(name).is_empty());
        home.kill(name).await;
    }
    // The image's own template is for later starts.
    let ordered = soon(home.ordered(2)).await;
    assert_eq!(ordered, ["template image", "template image"]);
}

#[tokio::test]
async fn a_backend_without_templates_boots_each_sandbox_and_says_so() {
    let home = Home::plain();
    let entry = home.sandbox_with("web", &["x"], |spec| spec.network = NetworkSpec::none());
    let (_held, _) = soon(home.start(&entry)).await;
    let did = home.agent.did();
    assert_eq!(did, ["boot", "adopt start web", "mount", "start"]);
    let degraded = home.degraded("web");
    assert_eq!(degraded.len(), 1, "{degraded:?}");
    assert!(degraded[0].contains("has no templates"), "{degraded:?}");
    home.kill("web").await;
}

#[tokio::test]
async fn what_the_backend_lacks_is_refused_before_the_supervisor_is_asked() {
    let home = Home::plain();
    let entry = home.sandbox_with("web", &["x"], |spec| spec.network = NetworkSpec::none());
    let (_held, _) = soon(home.start(&entry)).await;
    home.agent.did();
    let entry = home.runtime.find("web").unwrap();
    let pause = soon(home.runtime.pause(&entry)).await;
    assert_eq!(pause.unwrap_err().kind(), ErrorKind::Unsupported);
    let (source, options) = (ForkSource::Sandbox(&entry), ForkOptions::default());
    let fork = soon(home.runtime.fork(source, &options, &mut |_| {})).await;
    assert_eq!(fork.unwrap_err().kind(), ErrorKind::Unsupported);
    // The guest was not held up for either.
    assert!(home.agent.did().is_empty());
    assert_eq!(home.status("web"), SandboxStatus::Running);
    home.kill("web").await;
}

#[tokio::test]
async fn a_restore_that_fails_falls_back_to_a_boot_and_is_noted() {
    let home = Home::new();
    let entry = home.sandbox("web", &["x"]);
    home.backend.fail_restores(1);
    let (_held, stages) = soon(home.start(&entry)).await;
    let did = home.agent.did();
    assert_eq!(
        did.iter().filter(|what| *what == "boot").count(),
        2,
        "{did:?}"
    );
    assert_eq!(did.last().unwrap(), "start");
    let degraded = home.degraded("web");
    assert_eq!(degraded.len(), 1, "{degraded:?}");
    assert!(degraded[0].contains("A restore that fails"), "{degraded:?}");
    // The client gets the sentence with the stages.
    assert!(
        stages.iter().any(|stage| stage.contains(&degraded[0])),
        "{stages:?}"
    );
    home.kill("web").await;
}

#[tokio::test]
async fn a_workload_that_ends_gives_its_output_and_its_exit() {
    let home = Home::new();
    let entry = home.sandbox("web", &["echo", "hello"]);
    let (mut connection, _) = soon(home.start(&entry)).await;
    let (output, status) = soon(to_the_end(&mut connection)).await;
    assert_eq!(
        (output.as_slice(), status),
        (&b"hello"[..], ExitStatus::Code(0))
    );
    let exit = soon(home.runtime.wait(&entry)).await.unwrap();
    assert_eq!(exit, ExitStatus::Code(0));
    assert_eq!(home.status("web"), SandboxStatus::Stopped);
}

#[tokio::test]
async fn an_exec_is_a_session_beside_the_workload() {
    let home = Home::new();
    let entry = home.sandbox("web", &["x"]);
    let (_held, _) = soon(home.start(&entry)).await;
    let entry = home.runtime.find("web").unwrap();
    for (argv, output, status) in [
        (["echo", "hi"], &b"hi"[..], ExitStatus::Code(0)),
        (["exit", "3"], b"", ExitStatus::Code(3)),
    ] {
        let process = ProcessSpec {
            argv: argv.map(str::to_owned).to_vec(),
            ..ProcessSpec::default()
        };
        let options = ExecOptions::default();
        let request = Request::Exec { process, options };
        let asked = home.runtime.request(&entry, request);
        let (mut connection, answer) = soon(asked).await.unwrap();
        assert!(
            matches!(answer, SupervisorMessage::Started { .. }),
            "{answer:?}"
        );
        let ended = soon(to_the_end(&mut connection)).await;
        assert_eq!((ended.0.as_slice(), ended.1), (output, status));
    }
    assert_eq!(home.status("web"), SandboxStatus::Running);
    home.kill("web").await;
}

#[tokio::test]
async fn a_stop_sends_the_stop_signal_and_a_second_start_boots_no_machine() {
    let home = Home::new();
    let entry = home.sandbox("web", &["x"]);
    let (_held, _) = soon(home.start(&entry)).await;
    let entry = home.runtime.find("web").unwrap();
    soon(home.runtime.stop(&entry, Some(LIMIT))).await.unwrap();
    let entry = home.runtime.find("web").unwrap();
    assert_eq!(entry.state.status, SandboxStatus::Stopped);
    let term = ExitStatus::Signal(Signal::TERM.number());
    assert_eq!(entry.state.exit, Some(term));
    home.agent.did();
    let (_held, _) = soon(home.start(&entry)).await;
    assert_eq!(home.agent.did(), ["adopt start web", "mount", "start"]);
    home.kill("web").await;
    let exit = home.runtime.find("web").unwrap().state.exit;
    assert_eq!(exit, Some(ExitStatus::Signal(Signal::KILL.number())));
}

#[tokio::test]
async fn a_pause_holds_the_guest_until_it_is_unpaused() {
    let home = Home::new();
    let entry = home.sandbox("web", &["x"]);
    let (_held, _) = soon(home.start(&entry)).await;
    home.agent.did();
    let entry = home.runtime.find("web").unwrap();
    soon(home.runtime.pause(&entry)).await.unwrap();
    assert_eq!(home.status("web"), SandboxStatus::Paused);
    let entry = home.runtime.find("web").unwrap();
    soon(home.runtime.unpause(&entry)).await.unwrap();
    assert_eq!(home.status("web"), SandboxStatus::Running);
    assert_eq!(home.agent.did(), ["freeze", "thaw"]);
    home.kill("web").await;
}

#[tokio::test]
async fn a_machine_that_crashes_fails_its_sandbox_and_its_clients() {
    let home = Home::new();
    let entry = home.sandbox("web", &["x"]);
    let (mut connection, _) = soon(home.start(&entry)).await;
    home.crash(&entry);
    let failed = async {
        loop {
            let next = connection.next().await.unwrap();
            if let Incoming::Message(SupervisorMessage::Failed(failure)) = next {
                return failure;
            }
        }
    };
    let failure = soon(failed).await;
    assert_eq!(failure.kind, "guest_failed", "{failure:?}");
    drop(connection);
    let error = soon(home.runtime.wait(&entry)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuestFailed, "{error:?}");
    assert_eq!(home.status("web"), SandboxStatus::Failed);
    // It can start again.
    let entry = home.runtime.find("web").unwrap();
    let (_held, _) = soon(home.start(&entry)).await;
    assert_eq!(home.status("web"), SandboxStatus::Running);
    home.kill("web").await;
}

#[tokio::test]
async fn a_start_of_what_is_removed_at_that_moment_says_so() {
    let home = Home::new();
    let entry = home.sandbox("web", &["x"]);
    home.runtime
        .remove(&home.runtime.find("web").unwrap(), true)
        .await
        .unwrap();
    let started = home.runtime.start(&entry, StartMode::default()).await;
    let error = started.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("was removed"), "{error}");
}
