//! Leases of sandboxes with a real supervisor and a guest that does what it is asked for.

use std::{path::Path, sync::mpsc::channel, time::Duration};

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, ClientRequest, ExecOptions, HostMessage, ProcessSpec, Request,
    SupervisorMessage,
};
use cofferdam_types::{ExitStatus, LeaseSpec, OnTimeout, SandboxSpec, SandboxStatus, Signal};

use super::harness::{Guest, Sandbox};
use crate::{client::Connection, store::EndedBy};

/// A time-out that is over soon.
const SOON: Duration = Duration::from_millis(50);

/// A time-out that is not over during a test.
const LATE: Duration = Duration::from_secs(3600);

/// An idle time-out that a busy host does not let pass between two steps of a test.
const IDLE: Duration = Duration::from_secs(1);

fn sandbox(lease: LeaseSpec) -> Sandbox {
    Sandbox::with_spec(SandboxSpec {
        lease,
        ..SandboxSpec::default()
    })
}

fn expect_ended(sandbox: &Sandbox, by: EndedBy) {
    let state = sandbox.entry().state;
    assert_eq!(state.status, SandboxStatus::Stopped);
    assert_eq!(state.exit, Some(ExitStatus::Signal(9)));
    assert_eq!((state.ended_by, state.lease), (Some(by), None));
}

#[tokio::test]
async fn a_sandbox_without_any_client_ends_when_its_time_is_over() {
    let sandbox = sandbox(LeaseSpec {
        timeout: Some(SOON),
        ..LeaseSpec::default()
    });
    sandbox
        .run_alone(|stream| Guest::new(stream).die_by_kill())
        .await;
    expect_ended(&sandbox, EndedBy::Timeout);
}

#[tokio::test]
async fn a_command_and_output_keep_an_idle_time_out_from_ending_the_sandbox() {
    let sandbox = sandbox(LeaseSpec {
        idle_timeout: Some(IDLE),
        ..LeaseSpec::default()
    });
    let agent = |stream| {
        let mut guest = Guest::new(stream);
        let exec = guest.start_exec();
        assert_eq!(guest.next_within(Some(IDLE * 2)), None, "an exec runs");
        guest.exit(exec, ExitStatus::Code(0));
        for _ in 0..30 {
            // Time, on purpose: output comes more often than the time-out, for longer than it.
            assert_eq!(guest.next_within(Some(SOON)), None, "there is output");
            guest.print(cofferdam_proto::SESSION_STREAM, b"x");
        }
        guest.die_by_kill();
    };
    let client = async |socket: &Path| {
        let (process, options) = (ProcessSpec::default(), ExecOptions::default());
        let exec = Request::Exec { process, options };
        let mut connection = Connection::open(socket, exec).await.unwrap();
        while !matches!(
            connection.answer().await.unwrap(),
            SupervisorMessage::Exited { .. }
        ) {}
    };
    sandbox.run(agent, client).await;
    expect_ended(&sandbox, EndedBy::IdleTimeout);
}

#[tokio::test]
async fn a_lease_can_pause_and_begins_anew_with_the_unpause() {
    let sandbox = sandbox(LeaseSpec {
        timeout: Some(SOON),
        on_timeout: OnTimeout::Pause,
        ..LeaseSpec::default()
    });
    let (frozen, freezes) = channel();
    let agent = move |stream| {
        let mut guest = Guest::new(stream);
        for _ in 0..2 {
            assert_eq!(guest.next().1, HostMessage::Freeze { sync: false });
            guest.send(CONTROL_STREAM, &AgentMessage::Frozen);
            frozen.send(()).unwrap();
            assert!(matches!(guest.next().1, HostMessage::Thaw { .. }));
            guest.send(CONTROL_STREAM, &AgentMessage::Thawed);
        }
        guest.die_by_kill();
    };
    let client = async |socket: &Path| {
        let freezes = std::sync::Arc::new(std::sync::Mutex::new(freezes));
        let ask = async |request| {
            let mut connection = Connection::open(socket, request).await.unwrap();
            while connection.answer().await.unwrap() == SupervisorMessage::Heard {}
        };
        for last in [false, true] {
            let freezes = freezes.clone();
            let wait = move || freezes.lock().unwrap().recv().unwrap();
            tokio::task::spawn_blocking(wait).await.unwrap();
            while sandbox.entry().state.status != SandboxStatus::Paused {
                tokio::task::yield_now().await;
            }
            let lease = sandbox.entry().state.lease.unwrap();
            assert_eq!(lease.over, Some(EndedBy::Timeout));
            let signal = Signal::KILL.number();
            ask(if last {
                Request::Kill { signal }
            } else {
                Request::Unpause
            })
            .await;
        }
    };
    sandbox.run(agent, client).await;
    expect_ended(&sandbox, EndedBy::Kill);
}

#[tokio::test]
async fn a_client_sets_another_end() {
    let sandbox = sandbox(LeaseSpec {
        timeout: Some(LATE),
        ..LeaseSpec::default()
    });
    let client = async |socket: &Path| {
        for (timeout, extend) in [(SOON, true), (SOON, false)] {
            let ends = sandbox.entry().state.lease;
            let timeout_ms = u64::try_from(timeout.as_millis()).ok();
            let change = Request::SetTimeout { timeout_ms, extend };
            let mut connection = Connection::open(socket, change).await.unwrap();
            while connection.answer().await.unwrap() == SupervisorMessage::Heard {}
            let now = sandbox.entry().state.lease;
            // The clocks that it is computed from differ by a few nanoseconds.
            let is_same = now.zip(ends).is_some_and(|(now, ends)| {
                now.ends_ns.unwrap().abs_diff(ends.ends_ns.unwrap()) < 1_000_000_000
            });
            assert_eq!(is_same, extend, "{ends:?} {now:?}");
        }
    };
    sandbox
        .run(|stream| Guest::new(stream).die_by_kill(), client)
        .await;
    expect_ended(&sandbox, EndedBy::Timeout);
}

#[tokio::test]
async fn a_client_of_another_version_can_end_the_sandbox_and_nothing_else() {
    let sandbox = sandbox(LeaseSpec::default());
    let client = async |socket: &Path| {
        let ask = async |request| {
            let stream = crate::base::socket::connect(socket).await.unwrap();
            let generation = 99;
            let request = ClientRequest {
                generation,
                request,
            };
            let mut connection = Connection::asking(stream, &request).await.unwrap();
            loop {
                match connection.answer().await {
                    Ok(SupervisorMessage::Heard) => {}
                    other => return other,
                }
            }
        };
        let refused = ask(Request::Status).await.unwrap_err();
        assert_eq!(refused.kind(), crate::ErrorKind::Unsupported);
        let wait = ask(Request::Wait);
        let kill = ask(Request::Kill { signal: 9 });
        let (exited, killed) = tokio::join!(wait, kill);
        let status = ExitStatus::Signal(9);
        assert_eq!(exited.unwrap(), SupervisorMessage::Exited { status });
        assert_eq!(killed.unwrap(), SupervisorMessage::Done);
    };
    sandbox
        .run(|stream| Guest::new(stream).die_by_kill(), client)
        .await;
    expect_ended(&sandbox, EndedBy::Kill);
}
