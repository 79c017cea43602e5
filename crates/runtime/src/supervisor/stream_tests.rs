//! Byte streams with a real supervisor and a guest that does what it is asked for.

use std::path::Path;

use cofferdam_proto::{
    AgentMessage, Failure, FailureKind, HostMessage, Request, StreamTarget, SupervisorMessage,
};

use cofferdam_types::ExitStatus;

use super::harness::{Guest, Sandbox};
use crate::{
    base::error::ErrorKind,
    client::{Connection, Incoming},
};

const TARGET: StreamTarget = StreamTarget::Port(7);

impl Guest {
    /// Waits for the request of a stream; returns its number.
    fn stream_request(&mut self) -> u32 {
        let (stream, message) = self.next();
        assert_eq!(message, HostMessage::Connect(TARGET));
        stream
    }
}

async fn open(socket: &Path) -> Connection {
    let request = Request::Connect(TARGET);
    let mut connection = Connection::open(socket, request).await.unwrap();
    assert_eq!(connection.answer().await.unwrap(), SupervisorMessage::Heard);
    connection
}

async fn kill(socket: &Path) {
    let kill = Request::Kill { signal: 9 };
    let mut connection = Connection::open(socket, kill).await.unwrap();
    // The guest ends as it is killed.
    while connection.answer().await.is_ok() {}
}

#[tokio::test]
async fn bytes_go_both_ways_and_both_ends_are_told() {
    let agent = |stream| {
        let mut guest = Guest::new(stream);
        let number = guest.stream_request();
        guest.send(number, &AgentMessage::Connected);
        guest.print(number, b"from the server");
        guest.send(number, &AgentMessage::Disconnected);
        let number = guest.stream_request();
        let reset = Failure {
            kind: FailureKind::ConnectionReset,
            message: "Reset".to_owned(),
        };
        guest.send(number, &AgentMessage::Connected);
        guest.send(number, &AgentMessage::Failed(reset));
        let number = guest.stream_request();
        let refused = Failure {
            kind: FailureKind::ConnectionRefused,
            message: "No".to_owned(),
        };
        guest.send(number, &AgentMessage::Failed(refused));
        guest.die_by_kill();
    };
    let client = async |socket: &Path| {
        let mut connection = open(socket).await;
        assert_eq!(
            connection.answer().await.unwrap(),
            SupervisorMessage::Connected
        );
        let Incoming::Output { bytes, .. } = connection.next().await.unwrap() else {
            panic!("no bytes")
        };
        assert_eq!(bytes, b"from the server");
        assert_eq!(connection.answer().await.unwrap(), SupervisorMessage::Done);
        let mut connection = open(socket).await;
        assert_eq!(
            connection.answer().await.unwrap(),
            SupervisorMessage::Connected
        );
        let reset = connection.answer().await.unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
        let refused = open(socket).await.answer().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert!(refused.hint_text().is_some());
        kill(socket).await;
    };
    Sandbox::new().run(agent, client).await;
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_stream_in_the_guest() {
    let agent = |stream| {
        let mut guest = Guest::new(stream);
        // One that was not yet connected, and one that was.
        for connected in [false, true] {
            let number = guest.stream_request();
            if connected {
                guest.send(number, &AgentMessage::Connected);
            }
            assert_eq!(guest.next(), (number, HostMessage::Detach));
            // What crosses the end is thrown away.
            guest.print(number, b"late");
        }
        guest.die_by_kill();
    };
    let client = async |socket: &Path| {
        drop(open(socket).await);
        let mut connection = open(socket).await;
        assert_eq!(
            connection.answer().await.unwrap(),
            SupervisorMessage::Connected
        );
        drop(connection);
        kill(socket).await;
    };
    Sandbox::new().run(agent, client).await;
}

#[tokio::test]
async fn a_guest_that_sends_bytes_of_a_stream_before_it_is_connected_breaks_the_protocol() {
    let sandbox = Sandbox::new();
    let agent = |stream| {
        let mut guest = Guest::new(stream);
        let number = guest.stream_request();
        guest.print(number, b"early");
        while guest.next_within(None).is_some() {}
    };
    let client = async |socket: &Path| {
        let failed = open(socket).await.answer().await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::GuestFailed);
    };
    sandbox.run(agent, client).await;
    sandbox.expect_broken();
}

#[tokio::test]
async fn a_stream_past_the_limit_is_refused_until_another_has_ended() {
    const LIMIT: usize = 256;
    let agent = |stream| {
        let mut guest = Guest::new(stream);
        for _ in 0..LIMIT {
            let number = guest.stream_request();
            guest.send(number, &AgentMessage::Connected);
        }
        let (number, message) = guest.next();
        assert_eq!(message, HostMessage::Detach);
        guest.send(number, &AgentMessage::Disconnected);
        let number = guest.stream_request();
        guest.send(number, &AgentMessage::Connected);
        loop {
            let (number, message) = guest.next();
            if message != HostMessage::Detach {
                return guest.exit(number, ExitStatus::Signal(9));
            }
            guest.send(number, &AgentMessage::Disconnected);
        }
    };
    let client = async |socket: &Path| {
        let connected = async || {
            let mut connection = open(socket).await;
            let answer = connection.answer().await;
            answer.map(|answer| {
                assert_eq!(answer, SupervisorMessage::Connected);
                connection
            })
        };
        let mut connections = Vec::new();
        for _ in 0..LIMIT {
            connections.push(connected().await.unwrap());
        }
        let refused = connected().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(refused.to_string().contains("at most 256"), "{refused}");
        assert!(refused.hint_text().is_some());
        connections.pop();
        // The supervisor hears of the end a moment later.
        let next = loop {
            if let Ok(connection) = connected().await {
                break connection;
            }
        };
        drop((connections, next));
        kill(socket).await;
    };
    Sandbox::new().run(agent, client).await;
}
