//! Kept sessions with a real supervisor and a guest that does what it is asked for.

use std::path::Path;

use cofferdam_proto::{
    AgentMessage, ClientMessage, ExecOptions, HostMessage, ProcessSpec, Request, SESSION_STREAM,
    SessionStatus, SupervisorMessage,
};
use cofferdam_types::{ExitStatus, SandboxSpec};

use super::harness::{Guest, Sandbox};
use crate::client::{Connection, Incoming};

/// The next answer that is no `Heard`.
async fn answer(connection: &mut Connection) -> SupervisorMessage {
    loop {
        match connection.answer().await.unwrap() {
            SupervisorMessage::Heard => {}
            other => return other,
        }
    }
}

async fn ask(socket: &Path, request: Request) -> (Connection, SupervisorMessage) {
    let mut connection = Connection::open(socket, request).await.unwrap();
    let first = answer(&mut connection).await;
    (connection, first)
}

async fn sessions(socket: &Path) -> Vec<SessionStatus> {
    match ask(socket, Request::Sessions).await.1 {
        SupervisorMessage::Sessions(all) => all,
        other => panic!("{other:?}"),
    }
}

async fn output(connection: &mut Connection) -> Vec<u8> {
    loop {
        match connection.next().await.unwrap() {
            Incoming::Output { bytes, .. } => return bytes,
            Incoming::Message(SupervisorMessage::Heard) => {}
            other @ Incoming::Message(_) => panic!("{other:?}"),
        }
    }
}

fn exec(detach: bool, keep: bool) -> Request {
    Request::Exec {
        process: ProcessSpec {
            argv: vec!["job".to_owned(), "-x".to_owned()],
            ..ProcessSpec::default()
        },
        options: ExecOptions {
            detach,
            keep,
            ..ExecOptions::default()
        },
    }
}

#[tokio::test]
async fn a_kept_session_has_several_readers_and_its_exit_is_kept() {
    let sandbox = Sandbox::with_spec(SandboxSpec::default());
    let agent = |stream| {
        let mut guest = Guest::new(stream);
        let session = guest.start_exec();
        // One signal of a reader for each step of the test: then all who should be there are.
        let wait = |guest: &mut Guest| {
            let (stream, message) = guest.next();
            assert_eq!(
                (stream, message),
                (session, HostMessage::Signal { signal: 10 })
            );
        };
        wait(&mut guest);
        guest.print(session, b"both");
        wait(&mut guest);
        guest.exit(session, ExitStatus::Code(7));
        guest.die_by_kill();
    };
    let client = async |socket: &Path| {
        let (_, started) = ask(socket, exec(true, true)).await;
        let SupervisorMessage::Started { session, .. } = started else {
            panic!("{started:?}")
        };
        assert_ne!(session, SESSION_STREAM);
        let attach = Request::AttachSession {
            session,
            stdin: false,
        };
        let (mut one, _) = ask(socket, attach.clone()).await;
        let (mut other, _) = ask(socket, attach.clone()).await;
        let next = async |connection: Connection| {
            let (incoming, outgoing) = connection.split();
            outgoing
                .message(ClientMessage::Signal { signal: 10 })
                .await
                .unwrap();
            (incoming, outgoing)
        };
        let listed = sessions(socket).await;
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (listed[0].command.as_str(), listed[0].clients),
            ("job -x", 2)
        );
        assert!(listed[0].kept && listed[0].exit.is_none());
        let (third, _) = ask(socket, attach.clone()).await;
        let (mut third, outgoing) = next(third).await;
        assert_eq!(output(&mut one).await, b"both");
        assert_eq!(output(&mut other).await, b"both");
        // One of them leaves; the session goes on.
        drop(one);
        outgoing
            .message(ClientMessage::Signal { signal: 10 })
            .await
            .unwrap();
        let ended = SupervisorMessage::Exited {
            status: ExitStatus::Code(7),
        };
        assert_eq!(answer(&mut other).await, ended);
        while !matches!(third.next().await.unwrap(), Incoming::Message(message) if message == ended)
        {
        }
        let listed = sessions(socket).await;
        assert_eq!(listed[0].exit, Some(ExitStatus::Code(7)));
        assert!(listed[0].ended_ns.unwrap() >= listed[0].started_ns);
        // Later ones get the exit too.
        let (mut late, _) = ask(socket, attach).await;
        assert_eq!(answer(&mut late).await, ended);
        ask(socket, Request::Kill { signal: 9 }).await;
    };
    sandbox.run(agent, client).await;
}

#[tokio::test]
async fn a_session_that_is_not_kept_has_one_client_and_no_afterlife() {
    let sandbox = Sandbox::with_spec(SandboxSpec::default());
    let agent = |stream| {
        let mut guest = Guest::new(stream);
        let session = guest.start_exec();
        let (stream, message) = guest.next();
        assert_eq!((stream, message), (session, HostMessage::Detach));
        guest.send(
            session,
            &AgentMessage::Exited {
                status: ExitStatus::Code(0),
            },
        );
        guest.die_by_kill();
    };
    let client = async |socket: &Path| {
        let (connection, started) = ask(socket, exec(false, false)).await;
        let SupervisorMessage::Started { session, .. } = started else {
            panic!("{started:?}")
        };
        let attach = Request::AttachSession {
            session,
            stdin: false,
        };
        let mut refused = Connection::open(socket, attach).await.unwrap();
        assert_eq!(refused.answer().await.unwrap(), SupervisorMessage::Heard);
        let error = refused.answer().await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NotFound, "{error}");
        drop(connection);
        while !sessions(socket).await.is_empty() {}
        ask(socket, Request::Kill { signal: 9 }).await;
    };
    sandbox.run(agent, client).await;
}
