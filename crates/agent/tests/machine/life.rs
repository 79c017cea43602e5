//! The workload's life and the conversation with the host.

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, FailureKind, GENERATION, HostMessage, UpperDevice, encode_control,
};
use cofferdam_types::ExitStatus;

use crate::guest::{Guest, Host, process, shell};

#[test]
fn a_workload_that_ends_at_once_delivers_everything() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(UpperDevice::Disk));
    let number = host.start(shell("echo $$; echo oops >&2; exit 42"));
    let outcome = host.finish(number);
    assert_eq!(outcome.pid, Some(1));
    assert_eq!(
        (outcome.text().as_str(), outcome.stderr.as_slice()),
        ("1\n", b"oops\n".as_slice())
    );
    assert_eq!(
        (outcome.status, outcome.eofs.len()),
        (Some(ExitStatus::Code(42)), 2)
    );
    let late = host.run(process(&["true"])).failure.unwrap();
    assert_eq!(late.kind, FailureKind::OutOfOrder, "{late}");
}

#[test]
fn signals_reach_the_workload_and_its_end_is_everybodys() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    let workload = host.bring_up();
    let sleeper = host.exec(shell("echo up; sleep 1000"));
    host.until(sleeper, |outcome| !outcome.stdout.is_empty());
    let signalled = host.exec(process(&["sleep", "1000"]));
    host.until(signalled, |outcome| outcome.pid.is_some());
    host.send(signalled, &HostMessage::Signal { signal: 40 });
    assert_eq!(host.finish(signalled).status, Some(ExitStatus::Signal(40)));
    host.send(workload, &HostMessage::Signal { signal: 15 });
    assert_eq!(host.finish(workload).status, Some(ExitStatus::Code(7)));
    assert_eq!(host.finish(sleeper).status, Some(ExitStatus::Signal(9)));
}

#[test]
fn messages_out_of_order_are_refused() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.expect("Ready", |message| {
        matches!(message, AgentMessage::Ready { .. })
    });
    host.send(
        CONTROL_STREAM,
        &HostMessage::Hello {
            generation: GENERATION + 1,
        },
    );
    let failure = host.next_failure();
    assert_eq!(failure.kind, FailureKind::OutOfOrder);
    let early = host.run(process(&["true"])).failure.unwrap();
    assert_eq!(early.kind, FailureKind::OutOfOrder);
    host.bring_up();
    let number = host.exec(process(&["sleep", "1000"]));
    host.until(number, |outcome| outcome.pid.is_some());
    host.send(
        number,
        &HostMessage::Exec {
            process: process(&["true"]),
            wait_all: false,
        },
    );
    let taken = host.finish(number).failure.unwrap();
    assert_eq!(taken.kind, FailureKind::OutOfOrder, "{taken}");
    host.send(
        CONTROL_STREAM,
        &HostMessage::Exec {
            process: process(&["true"]),
            wait_all: false,
        },
    );
    let zero = host.next_failure();
    assert_eq!(zero.kind, FailureKind::OutOfOrder);
    host.send(CONTROL_STREAM, &HostMessage::Quiesce);
    host.expect("Quiesced", |message| {
        matches!(message, AgentMessage::Quiesced)
    });
}

#[test]
fn a_new_host_starts_with_a_clean_stream() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    guest.host.bring_up();
    assert_eq!(guest.host.run(shell("echo first")).text(), "first\n");
    // Half a frame, and a session that has used up its window.
    let stalled = guest.host.exec(shell("head -c 1000000 /dev/zero"));
    guest.host.stalled.push(stalled);
    guest
        .host
        .until(stalled, |outcome| outcome.stdout.len() >= 256 << 10);
    // In one piece with a message, whose answer shows that the agent has both.
    let half_frame = [200, 0, 0, 0, 1, 0, 0, 0, 2, 0];
    let mut wire = Vec::new();
    encode_control(CONTROL_STREAM, &HostMessage::Quiesce, &mut wire).unwrap();
    wire.extend(half_frame);
    guest.host.send_raw(&wire);
    guest.host.expect("Quiesced", |message| {
        matches!(message, AgentMessage::Quiesced)
    });
    guest.reconnect();
    let host = &mut guest.host;
    host.take_number(stalled);
    host.sessions.entry(stalled).or_default().pid = Some(0);
    host.send(
        CONTROL_STREAM,
        &HostMessage::Hello {
            generation: GENERATION,
        },
    );
    host.expect("Ready", |message| {
        matches!(message, AgentMessage::Ready { .. })
    });
    assert_eq!(host.run(shell("echo second")).text(), "second\n");
    // The old session goes on with a fresh window.
    assert_eq!(host.finish(stalled).status, Some(ExitStatus::Code(0)));
}

#[test]
fn a_host_that_breaks_the_protocol_is_told_and_not_listened_to() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    guest.host.bring_up();
    guest.host.send_raw(&[0xff; 64]);
    let failure = guest.host.next_failure();
    assert!(failure.message.contains("protocol"), "{failure}");
    guest.reconnect();
    guest.host.send(
        CONTROL_STREAM,
        &HostMessage::Hello {
            generation: GENERATION,
        },
    );
    guest.host.expect("Ready", |message| {
        matches!(message, AgentMessage::Ready { .. })
    });
}
