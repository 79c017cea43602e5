//! The root that a workload sees, from images that mean well and images that do not.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, FailureKind, HostMessage, TmpfsSpec, UpperDevice,
};
use cofferdam_types::ExitStatus;

use crate::guest::{Guest, Host, process, shell};

#[test]
fn a_root_has_devices_mounts_and_names() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    let mut spec = Host::root(UpperDevice::Disk);
    let tmpfs = |target: &str, exec, read_only| TmpfsSpec {
        target: target.to_owned(),
        size_bytes: Some(1 << 20),
        mode: 0o1750,
        read_only,
        exec,
        owner: (Some(7), None),
    };
    spec.tmpfs = vec![
        tmpfs("/scratch/deep", true, false),
        tmpfs("/fixed", false, true),
    ];
    host.mount(&spec);
    host.start(shell("sleep 1000"));
    let id = "0123456789abcdef0123456789abcdef";
    for (script, output) in [
        (
            "for n in null zero full random urandom tty; do stat -c '%F %a' /dev/$n; done | uniq",
            "character special file 666\n",
        ),
        (
            "head -c 3 /dev/zero | wc -c; echo x > /dev/null; readlink /dev/fd; readlink /dev/ptmx",
            "3\n/proc/self/fd\npts/ptmx\n",
        ),
        (
            "stat -c %a /dev/shm; df -k /dev/shm | tail -1 | awk '{print $2}'",
            "1777\n1024\n",
        ),
        (
            "stat -c '%F' /dev/fuse /dev/net/tun",
            "character special file\ncharacter special file\n",
        ),
        (
            "cat /etc/hostname /etc/machine-id; grep -c box /etc/hosts; cat /etc/resolv.conf",
            &format!("box\n{id}\n1\n"),
        ),
        (
            "stat -c %a /scratch/deep; grep -c 'scratch/deep tmpfs rw,nosuid,nodev,relatime' /proc/mounts",
            "1750\n1\n",
        ),
        (
            "grep -c 'fixed tmpfs ro,nosuid,nodev,noexec' /proc/mounts",
            "1\n",
        ),
        (
            "echo new > /bin/new && cat /bin/new && mv /tmp /moved && rmdir /moved && echo ok",
            "new\nok\n",
        ),
        ("date -u +%Y; cat /proc/sys/kernel/hostname", "2027\nbox\n"),
        ("stat -c %d / /bin /bin/busybox /etc | uniq | wc -l", "1\n"),
    ] {
        let outcome = host.run(shell(script));
        assert_eq!(outcome.text(), output, "{script}: {outcome:?}");
    }
}

#[test]
fn a_read_only_root_cannot_be_written_and_has_its_mounts() {
    let Some(mut guest) = Guest::boot(|root| fs::remove_dir(root.join("sys")).unwrap()) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(UpperDevice::ReadOnly));
    host.start(shell("sleep 1000"));
    let refused = host.run(shell("touch /new"));
    assert_eq!(refused.status, Some(ExitStatus::Code(1)), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("Read-only"),
        "{refused:?}"
    );
    let rest = host.run(shell(
        "cat /etc/hostname; ls -d /sys/fs/cgroup; echo x > /dev/shm/x && echo shm",
    ));
    assert_eq!(rest.text(), "box\n/sys/fs/cgroup\nshm\n");
}

/// Links that lead out of the root, if anybody followed them there.
fn trap(root: &Path) {
    symlink("/run/somewhere/stub.conf", root.join("etc/resolv.conf")).unwrap();
    symlink("../../../../../../etc/target", root.join("etc/hosts")).unwrap();
    symlink("/lower", root.join("escape")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    fs::write(root.join("etc/machine-id"), "image\n").unwrap();
}

#[test]
fn links_of_an_image_stay_in_its_root() {
    let Some(mut guest) = Guest::boot(trap) else {
        return;
    };
    let host = &mut guest.host;
    let mut spec = Host::root(UpperDevice::Disk);
    spec.tmpfs = vec![TmpfsSpec {
        target: "/escape/in".to_owned(),
        size_bytes: None,
        mode: 0o755,
        read_only: false,
        exec: false,
        owner: (None, None),
    }];
    host.mount(&spec);
    host.start(shell("sleep 1000"));
    let seen = host.run(shell(
        "cat /etc/machine-id; ls /run/somewhere /lower; grep -c box /etc/target",
    ));
    assert_eq!(
        seen.text(),
        "0123456789abcdef0123456789abcdef\n/lower:\nin\n\n/run/somewhere:\nstub.conf\n1\n"
    );
    let mut looped = process(&["true"]);
    looped.workdir = "/loop/x".to_owned();
    assert_eq!(
        host.run(looped).failure.unwrap().kind,
        FailureKind::BadWorkdir
    );
}

#[test]
fn a_link_in_place_of_a_mount_point_is_refused() {
    let furnish = |root: &Path| {
        fs::remove_dir(root.join("dev")).unwrap();
        symlink("/etc", root.join("dev")).unwrap();
    };
    let Some(mut guest) = Guest::boot(furnish) else {
        return;
    };
    let host = &mut guest.host;
    host.send(CONTROL_STREAM, &HostMessage::Adopt(Host::identity("box")));
    host.send(
        CONTROL_STREAM,
        &HostMessage::MountRoot(Host::root(UpperDevice::Disk)),
    );
    host.expect("Adopted", |message| {
        matches!(message, AgentMessage::Adopted)
    });
    let failure = host.next_failure();
    assert_eq!(failure.kind, FailureKind::Mount);
    assert!(failure.message.contains("`/dev`"), "{failure}");
    // What follows a failed step is refused.
    let number = host.start(process(&["true"]));
    assert_eq!(
        host.finish(number).failure.unwrap().kind,
        FailureKind::OutOfOrder
    );
}

#[test]
fn an_identity_may_change_and_files_the_workload_changed_stay() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.send(
        CONTROL_STREAM,
        &HostMessage::MountRoot(Host::root(UpperDevice::Disk)),
    );
    host.expect("RootMounted", |message| {
        matches!(message, AgentMessage::RootMounted)
    });
    host.send(CONTROL_STREAM, &HostMessage::Adopt(Host::identity("first")));
    host.expect("Adopted", |message| {
        matches!(message, AgentMessage::Adopted)
    });
    host.start(shell("sleep 1000"));
    assert_eq!(
        host.run(shell("cat /etc/hostname; hostname")).text(),
        "first\nfirst\n"
    );
    host.run(shell(
        "echo mine > /etc/resolv.conf; echo 127.0.0.1 mine > /etc/hosts",
    ));
    host.send(
        CONTROL_STREAM,
        &HostMessage::Adopt(Host::identity("second")),
    );
    host.expect("Adopted", |message| {
        matches!(message, AgentMessage::Adopted)
    });
    let script = "cat /etc/hostname; hostname; echo $HOSTNAME; cat /etc/hosts /etc/resolv.conf";
    assert_eq!(
        host.run(shell(script)).text(),
        "second\nsecond\nsecond\n127.0.0.1 mine\nmine\n"
    );
}

#[test]
fn a_shutdown_leaves_the_upper_clean() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    guest.host.bring_up();
    // A writer that would keep the disk busy.
    let script = "echo kept > /kept; while :; do echo more; done > /busy";
    guest.host.exec(shell(script));
    guest
        .host
        .run(shell("until [ -s /busy ]; do usleep 1000; done"));
    guest
        .host
        .send(CONTROL_STREAM, &HostMessage::Shutdown { trim: Vec::new() });
    guest.wait();
    let check = Command::new("e2fsck")
        .arg("-fn")
        .arg(guest.upper())
        .output()
        .unwrap();
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
    let header = Command::new("dumpe2fs")
        .arg("-h")
        .arg(guest.upper())
        .output()
        .unwrap();
    let header = String::from_utf8_lossy(&header.stdout).into_owned();
    assert!(
        header.contains("has_journal") && !header.contains("needs_recovery"),
        "{header}"
    );
    let kept = Command::new("debugfs")
        .args(["-R", "cat /upper/kept"])
        .arg(guest.upper())
        .output()
        .unwrap();
    assert_eq!(kept.stdout, b"kept\n");
}
