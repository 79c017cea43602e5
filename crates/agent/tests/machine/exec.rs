//! What a process gets and how it ends.

use cofferdam_proto::{FailureKind, ProcessSpec};
use cofferdam_types::{ByteSize, ExitStatus, ResourceLimits, Rlimit};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::guest::{Guest, process, shell};

fn with_user(user: &str, spec: ProcessSpec) -> ProcessSpec {
    ProcessSpec {
        user: user.to_owned(),
        ..spec
    }
}

fn with_env(env: &[&str], spec: ProcessSpec) -> ProcessSpec {
    let env = env.iter().map(|&entry| entry.to_owned()).collect();
    ProcessSpec { env, ..spec }
}

fn in_directory(workdir: &str, spec: ProcessSpec) -> ProcessSpec {
    ProcessSpec {
        workdir: workdir.to_owned(),
        ..spec
    }
}

fn furnish(root: &Path) {
    fs::create_dir_all(root.join("opt/bin")).unwrap();
    let put = |name: &str, content: &[u8], mode: u32| {
        let path = root.join("opt/bin").join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    put("orphan", b"#!/no/such/interpreter\n", 0o755);
    put("plain", b"no program", 0o755);
    put("locked", b"#!/bin/sh\n", 0o644);
    put("hello", b"#!/bin/sh\necho hello from $0\n", 0o755);
    fs::write(
        root.join("etc/nsswitch.conf"),
        "passwd: evil\ngroup: evil\nhosts: evil\n",
    )
    .unwrap();
}

#[test]
fn processes_end_as_they_should() {
    let Some(mut guest) = Guest::boot(furnish) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    for (spec, status) in [
        (process(&["/bin/true"]), ExitStatus::Code(0)),
        (process(&["false"]), ExitStatus::Code(1)),
        (shell("exit 255"), ExitStatus::Code(255)),
        (shell("kill -TERM $$"), ExitStatus::Signal(15)),
        (shell("kill -KILL $$"), ExitStatus::Signal(9)),
        // The image's own shell says these, not the agent.
        (shell("no-such-command"), ExitStatus::Code(127)),
    ] {
        let outcome = host.run(spec.clone());
        assert_eq!(outcome.status, Some(status), "{spec:?}: {outcome:?}");
        assert_eq!(outcome.eofs.len(), 2, "{spec:?}");
    }
    use FailureKind::{BadWorkdir, ProgramNotExecutable, ProgramNotFound, UnknownUser};
    for (spec, kind, part) in [
        (
            process(&["no-such-program"]),
            ProgramNotFound,
            "not found in $PATH",
        ),
        (
            process(&["/no/such/program"]),
            ProgramNotFound,
            "no such file",
        ),
        (
            process(&["/opt/bin/orphan"]),
            ProgramNotFound,
            "/no/such/interpreter",
        ),
        (process(&[]), ProgramNotFound, "No program"),
        (
            process(&["/opt/bin/plain"]),
            ProgramNotExecutable,
            "exec format error",
        ),
        (
            process(&["/opt/bin/locked"]),
            ProgramNotExecutable,
            "permission denied",
        ),
        (process(&["/opt"]), ProgramNotExecutable, "is a directory"),
        (
            with_user("nobody", process(&["true"])),
            UnknownUser,
            "`nobody`",
        ),
        (
            with_user("web:nogroup", process(&["true"])),
            UnknownUser,
            "`nogroup`",
        ),
        (
            in_directory("relative", process(&["true"])),
            BadWorkdir,
            "absolute",
        ),
        (
            in_directory("/etc/passwd", process(&["true"])),
            BadWorkdir,
            "/etc/passwd",
        ),
        (
            // Only the workload's is made.
            in_directory("/made/for/this", process(&["true"])),
            BadWorkdir,
            "/made/for/this",
        ),
    ] {
        let failure = host
            .run(spec.clone())
            .failure
            .unwrap_or_else(|| panic!("{spec:?} ran"));
        assert_eq!(failure.kind, kind, "{spec:?}: {failure}");
        assert!(failure.message.contains(part), "{spec:?}: {failure}");
    }
}

#[test]
fn processes_see_what_was_asked_for() {
    let Some(mut guest) = Guest::boot(furnish) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let limit = Rlimit {
        resource: 7,
        soft: 77,
        hard: 88,
    };
    for (spec, output) in [
        (shell("id -u; id -g; id -G; echo $HOME"), "0\n0\n0\n/root\n"),
        (
            with_user("web", shell("id -u; id -g; id -G; echo $HOME")),
            "33\n34\n34 4\n/var/www\n",
        ),
        (
            with_user("web:log", shell("id -u; id -g; id -G")),
            "33\n4\n4\n",
        ),
        (
            with_user("4242:17", shell("id -u; id -g; id -G; echo $HOME")),
            "4242\n17\n17\n/\n",
        ),
        (
            with_user("web", shell("echo through > /dev/stdout")),
            "through\n",
        ),
        (
            with_user("web", shell("grep CapEff /proc/self/status")),
            "CapEff:\t0000000000000000\n",
        ),
        (
            shell("pwd; umask; echo $0 $HOSTNAME; hostname"),
            "/\n0022\n/bin/sh box\nbox\n",
        ),
        (
            shell("grep -e SigIgn -e SigBlk /proc/self/status | tr -d 0"),
            "SigBlk:\t\nSigIgn:\t\n",
        ),
        (
            in_directory("/opt/bin/", shell("pwd; ls -d /made || echo unmade")),
            "/opt/bin\nunmade\n",
        ),
        (
            with_env(&["PATH=/nowhere:/opt/bin:/bin"], process(&["hello"])),
            "hello from /opt/bin/hello\n",
        ),
        (
            with_env(&["A=1", "HOME=/h"], process(&["env"])),
            "A=1\nHOME=/h\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOSTNAME=box\n",
        ),
        (process(&["tr", "-d", "x"]), ""),
        (shell("ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3 "),
        (shell("ulimit -Sn; ulimit -Hn"), "1024\n524288\n"),
        (
            ProcessSpec {
                rlimits: vec![limit],
                ..shell("ulimit -Sn; ulimit -Hn")
            },
            "77\n88\n",
        ),
        (
            shell("cat /proc/self/cgroup; cat /proc/1/comm; ps | grep -c '[i]nit'"),
            "0::/\nsh\n0\n",
        ),
        (
            shell(
                "nslookup localhost >/dev/null 2>&1; ping -c1 -W20 127.0.0.1 >/dev/null && echo up",
            ),
            "up\n",
        ),
        (shell("cat /proc/self/oom_score_adj"), "0\n"),
    ] {
        let outcome = host.run(spec.clone());
        assert_eq!(outcome.text(), output, "{spec:?}: {outcome:?}");
    }
    let console = guest.console();
    assert!(!console.contains("cofferdam-agent:"), "{console}");
}

#[test]
fn the_workload_keeps_within_its_limits() {
    let Some(mut guest) = Guest::boot(furnish) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&crate::guest::Host::root(
        cofferdam_proto::UpperDevice::Disk,
    ));
    let limits = ResourceLimits {
        pids: Some(8),
        cpu_shares: Some(512),
        cpu_quota_millis: Some(1500),
        cpuset: Some("0".to_owned()),
        memory_reservation: Some(ByteSize::from_mib(16)),
        memory: Some(ByteSize::from_mib(64)),
        rlimits: vec![Rlimit {
            resource: 4,
            soft: 0,
            hard: 0,
        }],
    };
    host.start_limited(shell("sleep 1000"), limits);
    let script = "cd /sys/fs/cgroup; cat pids.max cpu.weight cpu.max cpuset.cpus memory.low memory.max; ulimit -c";
    assert_eq!(
        host.run(shell(script)).text(),
        "8\n20\n150000 100000\n0\n16777216\n67108864\n0\n"
    );
    let lifted = host.run(shell("echo 1000 > /sys/fs/cgroup/pids.max"));
    assert_eq!(lifted.status, Some(ExitStatus::Code(1)), "{lifted:?}");
    let sleepers: Vec<u32> = (0..8)
        .map(|_| host.exec(process(&["sleep", "1000"])))
        .collect();
    let refused = host.finish(*sleepers.last().unwrap()).failure.unwrap();
    assert_eq!(refused.kind, FailureKind::Limits, "{refused}");
}

/// An emulator translates a program anew wherever it has not been before.
#[test]
fn an_emulated_machine_puts_programs_at_the_same_addresses() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let [first, second] = [(); 2].map(|()| host.run(process(&["cat", "/proc/self/maps"])).text());
    assert!(
        first.contains("[stack]") && first == second,
        "{first}{second}"
    );
}
