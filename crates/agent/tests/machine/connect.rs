//! Byte streams to servers in the guest.

use cofferdam_proto::{Channel, FailureKind, HostMessage, INITIAL_WINDOW_BYTES, StreamTarget};
use cofferdam_types::ExitStatus;

use crate::guest::{Guest, Host, shell};

/// As the agent has it.
const MAX_STREAMS: usize = 256;

/// Asks for a byte stream and waits for the answer.
fn connect(host: &mut Host, port: u16) -> u32 {
    let number = host.number();
    host.send(number, &HostMessage::Connect(StreamTarget::Port(port)));
    host.until(number, |outcome| outcome.pid.is_some() || outcome.is_over());
    number
}

/// Starts a server that echoes, and waits until it listens.
fn echo_server(host: &mut Host) {
    host.exec(shell("exec nc -ll -p 7 -e cat"));
    loop {
        let number = connect(host, 7);
        if host.sessions[&number].failure.is_none() {
            host.send_data(number, b"", true);
            host.finish(number);
            return;
        }
    }
}

#[test]
fn a_byte_stream_ends_in_each_direction_by_itself_and_a_refusal_is_told_at_once() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let refused = connect(host, 9);
    let failure = host.finish(refused).failure.unwrap();
    assert_eq!(failure.kind, FailureKind::ConnectionRefused, "{failure:?}");
    echo_server(host);
    let number = connect(host, 7);
    let window = vec![5; INITIAL_WINDOW_BYTES as usize];
    host.send_data(number, &window, false);
    host.until(number, |outcome| outcome.stdout.len() == window.len());
    assert!(host.sessions[&number].eofs.is_empty());
    host.send_data(number, b"", true);
    let outcome = host.finish(number);
    assert_eq!(outcome.eofs, [Channel::Stdout]);
    assert_eq!(outcome.status, Some(ExitStatus::Code(0)));
    assert!(outcome.stdout == window);
}

#[test]
fn byte_streams_are_bounded_and_a_new_host_inherits_none() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    let workload = host.bring_up();
    echo_server(host);
    let numbers: Vec<u32> = (0..MAX_STREAMS).map(|_| connect(host, 7)).collect();
    let failed = |number: &&u32| host.sessions[number].failure.is_some();
    assert_eq!(numbers.iter().filter(failed).count(), 0);
    let refused = connect(host, 7);
    let failure = host.finish(refused).failure.unwrap();
    assert_eq!(failure.kind, FailureKind::Limits, "{failure:?}");
    // Commands go on, and the place of a stream is free once it is closed.
    assert_eq!(host.run(shell("echo fine")).text(), "fine\n");
    host.send(numbers[0], &HostMessage::Detach);
    let free = connect(host, 7);
    assert!(host.sessions[&free].failure.is_none());
    // Another host takes the frozen machine over.
    host.freeze(false);
    host.take_over(workload, Host::other_identity(7));
    let count = "until [ $(grep -c ' 01 ' /proc/net/tcp) = 0 ]; do usleep 20000; done; echo none";
    assert_eq!(host.run(shell(count)).text(), "none\n");
    let number = connect(host, 7);
    assert!(host.sessions[&number].failure.is_none());
}
