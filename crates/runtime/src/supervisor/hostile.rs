//! A real supervisor against an agent that lies: it floods, stalls, repeats itself, and says what
//! cannot be true. Whatever it does, the supervisor stays small, or ends the sandbox.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream as StdUnixStream,
    path::Path,
    thread,
};

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, Decoder, FrameKind, HostMessage, INITIAL_WINDOW_BYTES,
    ProcessSpec, Request, SESSION_STREAM, SupervisorMessage, decode_control,
};

use super::{
    harness::{Sandbox, control, data},
    *,
};
use crate::{client::Connection, link::AgentLink};

/// What the supervisor may grow by, in bytes. All of its queues together take a part of that.
const MAX_GROWTH_BYTES: u64 = 8 << 20;

/// How much an agent floods, in bytes of frames. A queue that keeps something of each small frame
/// takes several times as much, and [`MAX_GROWTH_BYTES`] soon.
const FLOOD_BYTES: usize = 3 << 20;

/// Resident memory of this process in bytes; proc_pid_statm(5).
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// Ends the sandbox at once, since it breaks the protocol: credit of nothing.
const NO_CREDIT: [u8; 16] = [4, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];

/// Sends a frame again and again without reading, then [`NO_CREDIT`]; returns by how many bytes this
/// process grew at most. A supervisor that hangs up ends it.
fn flood(mut stream: StdUnixStream, frame: &[u8]) -> u64 {
    let piece = frame.repeat((256 << 10) / frame.len());
    let before = resident_bytes();
    let mut most = before;
    for _ in 0..FLOOD_BYTES / piece.len() {
        if stream.write_all(&piece).is_err() {
            break;
        }
        most = most.max(resident_bytes());
    }
    let _ = stream.write_all(&NO_CREDIT);
    most.saturating_sub(before)
}

/// Reads what the host sends until `wanted` accepts a message; returns its stream.
fn wait_for(stream: &mut StdUnixStream, wanted: impl Fn(&HostMessage) -> bool) -> u32 {
    let mut decoder = Decoder::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some(frame) = decoder.next_frame().unwrap() {
            if frame.kind == FrameKind::Control && wanted(&decode_control(frame.payload).unwrap()) {
                return frame.stream;
            }
        }
        let length = stream.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "the supervisor hung up");
        decoder.push(&buffer[..length]);
    }
}

#[tokio::test]
async fn output_of_single_bytes_without_reading_credit_leaves_the_supervisor_small() {
    let sandbox = Sandbox::new();
    let grown = sandbox
        .run_alone(|stream| flood(stream, &data(SESSION_STREAM, b"x", false)))
        .await;
    assert!(grown < MAX_GROWTH_BYTES, "it grew by {grown} bytes");
    sandbox.expect_broken();
}

#[tokio::test]
async fn output_of_sessions_that_are_not_there_leaves_the_supervisor_small() {
    let sandbox = Sandbox::new();
    let grown = sandbox
        .run_alone(|stream| flood(stream, &data(77, &[0; 60_000], false)))
        .await;
    assert!(grown < MAX_GROWTH_BYTES, "it grew by {grown} bytes");
    sandbox.expect_broken();
}

#[tokio::test]
async fn answers_that_nobody_asked_for_leave_the_supervisor_small() {
    for message in [
        AgentMessage::OutOfMemory { killed: 1 },
        AgentMessage::Frozen,
        AgentMessage::Thawed,
        AgentMessage::Dirty { bytes: u64::MAX },
    ] {
        let sandbox = Sandbox::new();
        let frame = control(CONTROL_STREAM, &message);
        let grown = sandbox.run_alone(move |stream| flood(stream, &frame)).await;
        assert!(grown < MAX_GROWTH_BYTES, "{message:?}: {grown} bytes");
        sandbox.expect_broken();
    }
}

#[tokio::test]
async fn what_breaks_the_rules_ends_the_sandbox() {
    let ended_twice = [
        data(SESSION_STREAM, b"", true),
        data(SESSION_STREAM, b"", true),
    ];
    // Headers of an empty data frame and of a message of 1 MiB.
    let empty = [0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0].to_vec();
    let long = [0, 0, 16, 0, 0, 0, 0, 0, 1, 0, 0, 0].to_vec();
    let started = AgentMessage::Started { pid: 1 };
    for frames in [
        ended_twice.concat(),
        [
            data(SESSION_STREAM, b"", true),
            data(SESSION_STREAM, b"x", false),
        ]
        .concat(),
        empty,
        NO_CREDIT.to_vec(),
        long,
        control(SESSION_STREAM, &started),
    ] {
        let sandbox = Sandbox::new();
        let agent = move |mut stream: StdUnixStream| {
            stream.write_all(&frames).unwrap();
            // Until the supervisor hangs up.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        };
        sandbox.run_alone(agent).await;
        sandbox.expect_broken();
    }
}

#[tokio::test]
async fn a_session_that_is_started_again_and_again_ends_the_sandbox() {
    let sandbox = Sandbox::new();
    let agent = |mut stream: StdUnixStream| {
        let session = wait_for(&mut stream, |message| {
            matches!(message, HostMessage::Exec { .. })
        });
        flood(stream, &control(session, &AgentMessage::Started { pid: 2 }))
    };
    let client = async |socket: &Path| {
        let process = ProcessSpec::default();
        let options = cofferdam_proto::ExecOptions::default();
        let exec = Request::Exec { process, options };
        // The supervisor listens before it waits for anything.
        let mut connection = Connection::open(socket, exec).await.unwrap();
        while let Ok(SupervisorMessage::Heard | SupervisorMessage::Started { .. }) =
            connection.answer().await
        {}
    };
    let grown = sandbox.run(agent, client).await;
    assert!(grown < MAX_GROWTH_BYTES, "it grew by {grown} bytes");
    sandbox.expect_broken();
}

#[tokio::test]
async fn output_before_the_handshake_is_kept_within_its_window_and_no_other_is() {
    let ready = control(
        CONTROL_STREAM,
        &AgentMessage::Ready {
            generation: cofferdam_proto::GENERATION,
            uptime_ns: 1,
        },
    );
    let window = data(
        SESSION_STREAM,
        &vec![0; INITIAL_WINDOW_BYTES as usize],
        false,
    );
    let others = data(9, &[0; 60_000], false).repeat(100);
    for (sent, fits) in [
        ([window.clone(), others, ready.clone()].concat(), true),
        (
            [window, data(SESSION_STREAM, b"x", false), ready].concat(),
            false,
        ),
    ] {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        let agent = thread::spawn(move || theirs.write_all(&sent).map(|()| theirs));
        let mut link = AgentLink::new(ours).unwrap();
        let result = link.ready(Duration::from_secs(20)).await;
        assert_eq!(result.is_ok(), fits, "{result:?}");
        if fits {
            let (_outgoing, early) = link.split::<Event>(queue().0);
            let bytes: usize = early.iter().map(|frame| frame.payload.len()).sum();
            assert_eq!(bytes, INITIAL_WINDOW_BYTES as usize);
        } else {
            drop(link);
        }
        let _ = agent.join().unwrap();
    }
}
