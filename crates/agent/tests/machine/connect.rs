//! Byte streams to servers in the guest.

use cofferdam_proto::{Channel, FailureKind, HostMessage, INITIAL_WINDOW_BYTES, StreamTarget};
use cofferdam_types::ExitStatus;

use crate::guest::{Guest, Host, shell};

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
