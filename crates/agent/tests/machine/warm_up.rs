//! Processes that run before the workload and leave only their effects.

use cofferdam_proto::{FailureKind, HostMessage, UpperDevice};
use cofferdam_types::ExitStatus;

use crate::guest::{Guest, Host, Outcome, process, shell};

fn warm_up(host: &mut Host, script: &str) -> u32 {
    let number = host.number();
    host.send(number, &HostMessage::WarmUp(shell(script)));
    number
}

fn run(host: &mut Host, script: &str) -> Outcome {
    let number = warm_up(host, script);
    host.finish(number)
}

#[test]
fn a_warm_up_leaves_files_and_nothing_else() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(UpperDevice::Disk));
    let script = "echo $$; echo warm > /kept; mount -t tmpfs none /tmp && echo x > /tmp/gone; \
        sleep 2222 > /dev/null 2>&1 & ps | grep -c sleep; exit 3";
    let first = run(host, script);
    assert_eq!(
        (first.pid, first.status),
        (Some(1), Some(ExitStatus::Code(3)))
    );
    assert!(first.text().starts_with("1\n"), "{}", first.text());
    // Each is alone.
    assert_eq!(run(host, "ps -o args | grep -c [s]leep").text(), "0\n");
    let missing = run(host, "exec /no/such/program");
    assert_eq!(missing.status, Some(ExitStatus::Code(127)));
    let number = host.number();
    host.send(number, &HostMessage::WarmUp(process(&["no-such-program"])));
    let failure = host.finish(number).failure.unwrap();
    assert_eq!(failure.kind, FailureKind::ProgramNotFound);
    let workload = host.start(shell("echo $$; cat /kept; ls /tmp; sleep 1000"));
    host.until(workload, |outcome| outcome.text() == "1\nwarm\n");
    let processes = host.run(shell("ls /proc/1/fd > /dev/null; ps -o args"));
    assert!(
        !processes.text().contains("sleep 2222") && processes.stderr.is_empty(),
        "{processes:?}"
    );
}

#[test]
fn a_warm_up_comes_after_the_root_and_before_the_workload() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    let early = run(host, "true").failure.unwrap();
    assert_eq!(early.kind, FailureKind::OutOfOrder);
    host.mount(&Host::root(UpperDevice::Disk));
    let running = warm_up(host, "echo up; sleep 1000");
    host.until(running, |outcome| !outcome.stdout.is_empty());
    let exec = host.run(process(&["true"])).failure.unwrap();
    assert_eq!(exec.kind, FailureKind::OutOfOrder);
    host.send(running, &HostMessage::Signal { signal: 9 });
    assert_eq!(host.finish(running).status, Some(ExitStatus::Signal(9)));
    host.start(shell("sleep 1000"));
    let late = run(host, "true").failure.unwrap();
    assert_eq!(late.kind, FailureKind::OutOfOrder);
}

#[test]
fn neither_a_workload_nor_a_capture_comes_beside_a_warm_up() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(UpperDevice::Disk));
    let running = warm_up(host, "echo up; sleep 1000");
    host.until(running, |outcome| !outcome.stdout.is_empty());
    for message in [HostMessage::Quiesce, HostMessage::Freeze { sync: false }] {
        let failure = host.ask_in_vain(&message);
        assert_eq!(failure.kind, FailureKind::OutOfOrder, "{message:?}");
    }
    let workload = host.start(shell("true"));
    let failure = host.finish(workload).failure.unwrap();
    assert_eq!(failure.kind, FailureKind::OutOfOrder);
}
