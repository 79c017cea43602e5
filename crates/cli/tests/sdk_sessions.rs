//! Sessions of the SDK, from a program: streams, pipes, limits, and what a drop does.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::time::Duration;

use cofferdam::{
    ByteSize, Channel, Coffer, CofferOptions, ExecSpec, ExitStatus, NoProgress, Sandbox,
    SandboxSpec, SessionEvent, Signal,
};
use cofferdam_testkit::coffer::{self, BUSYBOX};
use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Runs `work` with a sandbox that sleeps.
fn with_sandbox(work: impl AsyncFnOnce(&Sandbox)) {
    let store = coffer::Coffer::shared();
    let program = store.command(["version"]).get_program().to_owned();
    let options = CofferOptions::new()
        .home(store.home())
        .program(program)
        .standby_auto(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let coffer = Coffer::open_with(&options).unwrap();
        let spec = SandboxSpec {
            image: BUSYBOX.to_owned(),
            command: ["sleep", "1000"].map(str::to_owned).to_vec(),
            ..SandboxSpec::default()
        };
        let sandbox = coffer.create(spec, &NoProgress).await.unwrap();
        sandbox.start().await.unwrap();
        work(&sandbox).await;
        sandbox.remove(true).await.unwrap();
    });
}

fn sh(script: &str) -> ExecSpec {
    ExecSpec::new(["sh", "-c", script])
}

#[test]
fn a_session_is_a_stream_that_ends_behind_the_exit() {
    with_sandbox(async |sandbox| {
        let session = sandbox
            .exec(sh("echo out; echo err >&2; exit 3"))
            .await
            .unwrap();
        let (mut out, mut err, mut exit) = (Vec::new(), Vec::new(), None);
        let events: Vec<_> = session.collect().await;
        for event in events {
            assert_eq!(exit, None, "nothing comes behind the exit");
            match event.unwrap() {
                SessionEvent::Output {
                    channel: Channel::Stderr,
                    bytes,
                } => err.extend(bytes),
                SessionEvent::Output { bytes, .. } => out.extend(bytes),
                SessionEvent::Exited(status) => exit = Some(status),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            (out.as_slice(), err.as_slice()),
            (&b"out\n"[..], &b"err\n"[..])
        );
        assert_eq!(exit, Some(ExitStatus::Code(3)));
    });
}

#[test]
fn the_halves_are_used_from_two_tasks() {
    with_sandbox(async |sandbox| {
        let mut spec = sh("cat; exit 5");
        spec.stdin = true;
        let (mut reader, mut writer) = sandbox.exec(spec).await.unwrap().split();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let sent = bytes.clone();
        let writing = tokio::spawn(async move {
            writer.write(&sent).await.unwrap();
            writer.close().await.unwrap();
        });
        let mut got = Vec::new();
        let status = loop {
            match reader.next().await.unwrap().unwrap() {
                SessionEvent::Output { bytes, .. } => got.extend(bytes),
                SessionEvent::Exited(status) => break status,
                other => panic!("{other:?}"),
            }
        };
        writing.await.unwrap();
        assert!(reader.next().await.is_none());
        assert_eq!(status, ExitStatus::Code(5));
        assert!(got == bytes, "{} bytes", got.len());
    });
}

#[test]
fn pipes_carry_every_byte_and_an_unread_one_stops_no_other() {
    with_sandbox(async |sandbox| {
        // More than a window of output that nobody reads yet, beside a dialogue.
        let mut spec = sh("yes | head -c 200000 >&2; cat; exit 4");
        spec.stdin = true;
        let pipes = sandbox.exec(spec).await.unwrap().into_pipes().unwrap();
        let (mut stdin, mut stdout, mut stderr) = (pipes.stdin, pipes.stdout, pipes.stderr);
        let bytes = vec![7; 700_000];
        let sent = bytes.clone();
        let writing = tokio::spawn(async move {
            stdin.write_all(&sent).await.unwrap();
            stdin.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        stdout.read_to_end(&mut got).await.unwrap();
        writing.await.unwrap();
        assert!(got == bytes, "{} bytes", got.len());
        let mut errors = Vec::new();
        stderr.read_to_end(&mut errors).await.unwrap();
        assert_eq!(errors.len(), 200_000);
        assert_eq!(pipes.exit.wait().await.unwrap(), ExitStatus::Code(4));
    });
}

#[test]
fn a_dropped_pipe_throws_its_output_away() {
    with_sandbox(async |sandbox| {
        let session = sandbox
            .exec(sh("yes | head -c 3000000; echo done >&2"))
            .await
            .unwrap();
        let mut pipes = session.into_pipes().unwrap();
        drop(pipes.stdout);
        let mut text = String::new();
        pipes.stderr.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "done\n");
        assert_eq!(pipes.exit.wait().await.unwrap(), ExitStatus::Code(0));
    });
}

#[test]
fn output_keeps_no_more_than_its_limit_and_ends_at_its_time() {
    with_sandbox(async |sandbox| {
        let mut spec = sh("yes | head -c 3000000; echo e >&2");
        spec.output_limit = ByteSize::from_bytes(1000);
        let output = sandbox.output(spec).await.unwrap();
        assert!(output.truncated && output.status == ExitStatus::Code(0));
        assert_eq!(
            (output.stdout.len(), output.stderr.as_slice()),
            (1000, &b"e\n"[..])
        );
        let mut spec = sh("echo begun; sleep 1000");
        spec.timeout = Some(Duration::from_secs(1));
        let output = sandbox.output(spec).await.unwrap();
        assert!(output.timed_out && !output.truncated);
        assert_eq!(output.stdout, b"begun\n");
    });
}

#[test]
fn a_call_that_is_given_up_loses_nothing() {
    with_sandbox(async |sandbox| {
        let mut spec = sh("read line; echo got $line");
        spec.stdin = true;
        let mut session = sandbox.exec(spec).await.unwrap();
        let short = Duration::from_millis(50);
        assert!(tokio::time::timeout(short, session.next()).await.is_err());
        let mut writer = session.writer();
        writer.write(b"it\n").await.unwrap();
        let event = session.next().await.unwrap().unwrap();
        let expected = SessionEvent::Output {
            channel: Channel::Stdout,
            bytes: b"got it\n".to_vec(),
        };
        assert_eq!(event, expected);
        // Where a call was given up there are no pipes, and the error says so.
        let mut other = sandbox.exec(sh("sleep 1000")).await.unwrap();
        assert!(tokio::time::timeout(short, other.next()).await.is_err());
        other.writer().signal(Signal::KILL).await.unwrap();
        assert!(other.into_pipes().is_err());
    });
}
