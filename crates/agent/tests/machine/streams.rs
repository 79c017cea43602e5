//! Bytes in, bytes out, terminals: nothing lost, nobody held up.

use cofferdam_proto::{Channel, HostMessage, INITIAL_WINDOW_BYTES, ProcessSpec, TerminalSize};
use cofferdam_types::ExitStatus;

use crate::guest::{Guest, process, shell};

fn reading(spec: ProcessSpec) -> ProcessSpec {
    ProcessSpec {
        stdin: true,
        ..spec
    }
}

fn on_terminal(spec: ProcessSpec) -> ProcessSpec {
    ProcessSpec {
        terminal: Some(TerminalSize {
            rows: 24,
            columns: 80,
        }),
        stdin: true,
        ..spec
    }
}

/// Bytes in which a lost, doubled or moved one shows.
fn pattern(count: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(count)
        .collect()
}

#[test]
fn ten_mebibytes_come_back_byte_for_byte() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    // Credit in crumbs: the agent may never send more than it has.
    host.credit_step = 1000;
    let bytes = pattern(10 << 20);
    let number = host.exec(reading(process(&["cat"])));
    let mut sent = 0;
    while sent < bytes.len() {
        let credit = usize::try_from(host.sessions[&number].stdin_credit).unwrap();
        let allowed = credit + INITIAL_WINDOW_BYTES as usize - sent;
        let count = allowed.min(bytes.len() - sent);
        let last = sent + count == bytes.len();
        if count == 0 {
            host.receive();
            continue;
        }
        host.send_data(number, &bytes[sent..sent + count], last);
        sent += count;
    }
    let outcome = host.finish(number);
    assert_eq!(outcome.status, Some(ExitStatus::Code(0)));
    assert!(
        outcome.stdout == bytes,
        "{} bytes came back",
        outcome.stdout.len()
    );
    assert_eq!(outcome.stdin_credit, 10 << 20);
}

#[test]
fn a_stalled_session_holds_up_only_itself() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let stalled = host.exec(shell("head -c 1000000 /dev/zero; echo done >&2"));
    host.stalled.push(stalled);
    let window = INITIAL_WINDOW_BYTES as usize;
    host.until(stalled, |outcome| outcome.stdout.len() == window);
    // A process that never reads its input, with a full window of it.
    let deaf = host.exec(reading(process(&["sleep", "1000"])));
    host.send_data(deaf, &vec![0; window], false);
    for _ in 0..5 {
        assert_eq!(host.run(shell("echo fine")).text(), "fine\n");
    }
    assert_eq!(host.sessions[&stalled].stdout.len(), window);
    assert!(
        host.sessions[&deaf].stdin_credit <= 64 << 10,
        "{}",
        host.sessions[&deaf].stdin_credit
    );
    host.stalled.clear();
    host.credit(stalled, Channel::Stdout, INITIAL_WINDOW_BYTES);
    let outcome = host.finish(stalled);
    assert_eq!(
        (outcome.stdout.len(), outcome.stderr.as_slice()),
        (1_000_000, b"done\n".as_slice())
    );
}

#[test]
fn a_session_waits_a_while_for_children_that_outlive_its_process() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let quiet = host.run(shell("(sleep 1000; echo late) & echo early"));
    assert_eq!(
        (quiet.text().as_str(), quiet.status),
        ("early\n", Some(ExitStatus::Code(0)))
    );
    // What they write meanwhile is not lost, and a session that is to waits for all of it.
    let late = host.run(shell("(usleep 300000; echo late) & echo early"));
    assert_eq!(late.text(), "early\nlate\n");
    let number = host.number();
    let process = shell("(sleep 3; echo last >&2) & echo first");
    let wait_all = true;
    host.send(number, &HostMessage::Exec { process, wait_all });
    let all = host.finish(number);
    assert_eq!(
        (all.text().as_str(), all.stderr.as_slice()),
        ("first\n", &b"last\n"[..])
    );
    // Its children are in its POSIX session, and hear a signal for all, also after its end.
    let number = host.number();
    let process = shell("(sleep 2000 & sleep 2010) & echo first");
    host.send(number, &HostMessage::Exec { process, wait_all });
    host.until(number, |outcome| outcome.text() == "first\n");
    host.run(shell(
        "until [ $(ps -o args | grep -c '^sleep 20[01]0$') = 2 ]; do usleep 1000; done",
    ));
    host.send(number, &HostMessage::SignalSession { signal: 9 });
    assert_eq!(host.finish(number).status, Some(ExitStatus::Code(0)));
    // One that goes on writing neither blocks nor gets SIGPIPE: it gets to make its mark.
    let script = "(head -c 300000 /dev/zero; echo lived > /tmp/mark) & echo early";
    let loud = host.run(shell(script));
    assert!(
        loud.text().contains("early\n") && loud.eofs.len() == 2,
        "{} bytes",
        loud.stdout.len()
    );
    let mark = host.run(shell(
        "until [ -s /tmp/mark ]; do usleep 1000; done; cat /tmp/mark",
    ));
    assert_eq!(mark.text(), "lived\n");
    // What a process leaves in its pipe is sent in windows after its end.
    let much = host.run(shell("head -c 700000 /dev/zero | cat; printf end"));
    assert!(much.stdout.len() == 700_003 && much.stdout.ends_with(b"end"));
    // Input that nobody takes costs nothing.
    let script = "exec <&-; echo closed; until [ -e /tmp/sent ]; do usleep 1000; done";
    let closed = host.exec(reading(shell(script)));
    host.until(closed, |outcome| !outcome.stdout.is_empty());
    host.send_data(closed, &[0; 1000], true);
    host.run(shell("touch /tmp/sent"));
    assert_eq!(host.finish(closed).stdin_credit, 1000);
}

#[test]
fn terminals_have_a_size_signals_and_an_end() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let size = host.run(on_terminal(shell(
        "stty size; tty; echo $TERM; test -t 2 && echo yes",
    )));
    assert_eq!(size.text(), "24 80\r\n/dev/pts/0\r\nxterm\r\nyes\r\n");
    assert_eq!(size.eofs, [Channel::Stdout]);
    let number = host.exec(on_terminal(shell(
        "trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 1000 & wait; done",
    )));
    host.until(number, |outcome| outcome.text().contains("ready"));
    host.send(
        number,
        &HostMessage::Resize(TerminalSize {
            rows: 50,
            columns: 132,
        }),
    );
    let resized = host.finish(number);
    assert_eq!(
        (resized.text().as_str(), resized.status),
        ("ready\r\n50 132\r\n", Some(ExitStatus::Code(5)))
    );
    let number = host.exec(on_terminal(process(&["cat"])));
    host.send_data(number, b"typed\n", false);
    host.until(number, |outcome| outcome.text() == "typed\r\ntyped\r\n");
    host.send_data(number, b"\x03", false);
    assert_eq!(host.finish(number).status, Some(ExitStatus::Signal(2)));
    // All that was written before the end arrives, whatever still has the terminal open.
    let much = host.run(on_terminal(shell(
        "(trap '' HUP; sleep 1000) & seq 1 20000",
    )));
    assert!(
        much.text().ends_with("\r\n19999\r\n20000\r\n"),
        "{} bytes",
        much.stdout.len()
    );
    let user = ProcessSpec {
        user: "web".to_owned(),
        ..on_terminal(shell("stat -c %u:%g $(tty)"))
    };
    assert_eq!(host.run(user).text(), "33:5\r\n");
}

#[test]
fn many_sessions_run_beside_each_other() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let numbers: Vec<u32> = (0..40)
        .map(|number| {
            host.exec(shell(&format!(
                "head -c 20000 /dev/zero; echo {number}; exit {number}"
            )))
        })
        .collect();
    for (number, session) in (0_u8..).zip(numbers) {
        let outcome = host.finish(session);
        assert_eq!(outcome.status, Some(ExitStatus::Code(number)));
        assert_eq!(outcome.stdout[20_000..], *format!("{number}\n").as_bytes());
    }
}

#[test]
fn a_detached_session_lives_on_unread() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let number = host.exec(reading(shell(
        "cat; head -c 1000000 /dev/zero; echo over > /tmp/mark",
    )));
    host.send(number, &HostMessage::Detach);
    let outcome = host.finish(number);
    assert_eq!(outcome.status, Some(ExitStatus::Code(0)));
    assert!(outcome.stdout.is_empty() && outcome.eofs.is_empty());
    assert_eq!(host.run(shell("cat /tmp/mark")).text(), "over\n");
}
