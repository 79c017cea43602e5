//! Workloads whose process was made before a capture, and that must not know.

use cofferdam_proto::{
    AgentMessage, FailureKind, HostMessage, ProcessSpec, TerminalSize, UpperDevice,
};
use cofferdam_types::{ExitStatus, ResourceLimits, Rlimit};

use crate::guest::{Capture, Guest, Host, Outcome, process, shell};

/// All that a process inherits and can see of itself, without what is of a moment. `ps` has no
/// pipe behind it: a program that is between two images of itself has no arguments to be known by.
const SELF_PORTRAIT: &str = "\
    grep -vE '^(State|Vm|Rss|Huge|Mems|Cpus|nonvol|vol|SigQ|Threads|Ngid|x86|untag|CoreD|THP)' /proc/$$/status; \
    cat /proc/$$/limits /proc/$$/cgroup; cut -d' ' -f4- /proc/$$/mountinfo; \
    ls /proc/$$/fd; cut -d' ' -f5-7 /proc/$$/stat; pwd; env | sort; id; ps -o pid,args; \
    stat -c '%u %a' /proc/$$/fd/1/. /dev/stdout 2> /dev/null";

fn quiesce(host: &mut Host) {
    host.ask(&HostMessage::Quiesce, "Quiesced", |message| {
        matches!(message, AgentMessage::Quiesced)
    });
}

/// A machine whose root is mounted, as an image's template is.
fn template() -> Option<Capture> {
    let mut guest = Guest::boot(|_| {})?;
    guest.host.mount(&Host::root(UpperDevice::Disk));
    quiesce(&mut guest.host);
    Some(guest.capture())
}

/// Starts `spec` in a copy of `template`.
fn fork(template: &Capture, spec: ProcessSpec) -> (Guest, u32) {
    let mut guest = template.restore();
    guest.host.hello();
    guest.host.adopt(Host::identity("box"));
    let number = guest.host.start(spec);
    (guest, number)
}

fn run(template: &Capture, spec: ProcessSpec) -> Outcome {
    let (mut guest, number) = fork(template, spec);
    guest.host.finish(number)
}

#[test]
fn a_workload_made_ahead_is_like_any_other() {
    let Some(template) = template() else {
        return;
    };
    let plain = shell(SELF_PORTRAIT);
    let demanding = ProcessSpec {
        user: "web".to_owned(),
        workdir: "/made/for/it".to_owned(),
        env: vec!["A=b c".to_owned()],
        rlimits: vec![Rlimit {
            resource: 7,
            soft: 77,
            hard: 78,
        }],
        stdin: true,
        ..shell(SELF_PORTRAIT)
    };
    let interactive = ProcessSpec {
        terminal: Some(TerminalSize {
            rows: 5,
            columns: 7,
        }),
        ..shell(&format!("tty; stty size; {SELF_PORTRAIT}"))
    };
    for spec in [plain, demanding, interactive] {
        let ahead = run(&template, spec.clone());
        let mut fresh = Guest::boot(|_| {}).unwrap();
        fresh.host.mount(&Host::root(UpperDevice::Disk));
        let number = fresh.host.start(spec.clone());
        let fresh = fresh.host.finish(number);
        assert_eq!(ahead.pid, Some(1));
        assert!(ahead.text().contains("CapEff") && ahead.text().contains("/proc"));
        assert_eq!(ahead.text(), fresh.text(), "{spec:?}");
        assert_eq!(
            (ahead.stderr, ahead.status),
            (fresh.stderr, fresh.status),
            "{spec:?}"
        );
    }
}

#[test]
fn a_workload_made_ahead_can_fail_and_be_joined() {
    let Some(template) = template() else {
        return;
    };
    use FailureKind::{BadWorkdir, ProgramNotExecutable, ProgramNotFound, UnknownUser};
    let with_user = ProcessSpec {
        user: "nobody-here".to_owned(),
        ..process(&["true"])
    };
    let in_file = ProcessSpec {
        workdir: "/etc/passwd".to_owned(),
        ..process(&["true"])
    };
    for (spec, kind) in [
        (process(&["no-such-program"]), ProgramNotFound),
        (process(&["/etc/passwd"]), ProgramNotExecutable),
        (with_user, UnknownUser),
        (in_file, BadWorkdir),
    ] {
        let failure = run(&template, spec.clone()).failure.unwrap();
        assert_eq!(failure.kind, kind, "{spec:?}: {failure}");
    }
    let echo = ProcessSpec {
        stdin: true,
        ..shell("read line; echo $line; exit 4")
    };
    let mut guest = template.restore();
    let host = &mut guest.host;
    host.hello();
    host.adopt(Host::identity("box"));
    let limits = ResourceLimits {
        pids: Some(20),
        ..ResourceLimits::default()
    };
    let workload = host.start_limited(echo, limits);
    let beside = host.run(shell("ps -o pid,args; cat /sys/fs/cgroup/pids.max"));
    assert!(
        beside.text().contains("1 /bin/sh -c read line") && beside.text().ends_with("\n20\n"),
        "{}",
        beside.text()
    );
    host.send_data(workload, b"word\n", true);
    let outcome = host.finish(workload);
    assert_eq!(
        (outcome.text().as_str(), outcome.status),
        ("word\n", Some(ExitStatus::Code(4)))
    );
}

#[test]
fn a_workload_made_ahead_sleeps_through_a_freeze() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    guest.host.mount(&Host::root(UpperDevice::Disk));
    quiesce(&mut guest.host);
    guest.host.freeze(true);
    let mut copy = guest.capture().restore();
    for host in [&mut copy.host, &mut guest.host] {
        let number = host.number();
        host.take_over(number, Host::other_identity(1));
        host.sessions.remove(&number);
        let number = host.start(shell("hostname; echo $$"));
        assert_eq!(host.finish(number).text(), "other-1\n1\n");
    }
}

#[test]
fn a_warm_up_undoes_what_was_made_ahead() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(UpperDevice::Disk));
    quiesce(host);
    let number = host.number();
    let script =
        "echo late:x:77:78::/late:/bin/sh >> /etc/passwd; grep -c ' /proc ' /proc/self/mounts";
    host.send(number, &HostMessage::WarmUp(shell(script)));
    assert_eq!(host.finish(number).text(), "1\n");
    quiesce(host);
    quiesce(host);
    let number = host.start(ProcessSpec {
        user: "late".to_owned(),
        ..shell("id -u; echo $HOME; grep -c ' /proc ' /proc/self/mounts; echo $$")
    });
    assert_eq!(host.finish(number).text(), "77\n/late\n1\n1\n");
}

/// A rehearsal may be any program of the image; whatever it does, no file system has it.
#[test]
fn a_rehearsal_leaves_no_file_and_no_process() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(UpperDevice::Disk));
    let number = host.number();
    let script = "for file in /trace /tmp/trace /dev/shm/trace /etc/hostname; do \
        (echo x > $file) 2> /dev/null && echo wrote $file; done; \
        echo > /dev/null && sleep 1000 & echo $$";
    host.send(number, &HostMessage::Rehearse(shell(script)));
    assert_eq!(host.finish(number).text(), "1\n");
    quiesce(host);
    let workload = host.start(shell(
        "ls /trace /tmp/trace /dev/shm/trace 2> /dev/null; touch /new && echo writable; \
         set -- /proc/[0-9]*; echo $#",
    ));
    assert_eq!(host.finish(workload).text(), "writable\n1\n");
}

/// What goes before the workload opens files of the image, which may be anything, and is none of
/// the workload's processes. Its PID namespace goes with it, and those can be counted.
#[test]
fn an_image_cannot_hold_up_what_goes_before_its_workload() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(UpperDevice::Disk));
    let number = host.number();
    let poison =
        "mkdir -p /lib64 && mkfifo /etc/ld.so.cache && : > /lib64/ld-linux-x86-64.so.2 && echo set";
    host.send(number, &HostMessage::WarmUp(shell(poison)));
    assert_eq!(host.finish(number).text(), "set\n");
    quiesce(host);
    let mut copy = guest.capture().restore();
    let host = &mut copy.host;
    host.hello();
    host.adopt(Host::identity("box"));
    let one_more_namespace = "\
        read count < /sys/fs/cgroup/pids.current; echo $count; \
        echo 2 > /proc/sys/user/max_pid_namespaces; \
        tries=0; until unshare -p true 2> /dev/null; do \
            tries=$((tries + 1)); [ $tries -lt 1000 ] || exit 1; sleep 0.01; \
        done; echo reaped";
    let workload = host.start(shell(one_more_namespace));
    let outcome = host.finish(workload);
    assert_eq!(
        (outcome.text().as_str(), outcome.status),
        ("1\nreaped\n", Some(ExitStatus::Code(0)))
    );
}
