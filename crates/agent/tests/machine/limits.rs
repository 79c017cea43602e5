//! What a workload cannot take from the agent: memory, processes, the place of an exec.

use std::process::Command;

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, HostMessage, ProcessSpec, TmpfsSpec, UpperDevice,
};
use cofferdam_types::{ExitStatus, ResourceLimits};

use crate::guest::{Guest, Host, process, shell};

/// More than the machine's 512 MiB.
const TMPFS_BYTES: u64 = 1 << 30;

/// Runs a process that is killed for its memory; returns what the agent said about it.
fn run_out_of_memory(host: &mut Host, spec: ProcessSpec) -> u64 {
    let outcome = host.run(spec);
    assert_eq!(outcome.status, Some(ExitStatus::Signal(9)), "{outcome:?}");
    // It is there already: it comes before the exit.
    let report = host.take_message(|message| matches!(message, AgentMessage::OutOfMemory { .. }));
    let Some(AgentMessage::OutOfMemory { killed }) = report else {
        panic!("nothing was said about memory");
    };
    killed
}

#[test]
fn a_workload_that_takes_all_memory_leaves_the_agent_some() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    let mut root = Host::root(UpperDevice::Disk);
    root.tmpfs.push(TmpfsSpec {
        target: "/big".to_owned(),
        size_bytes: Some(TMPFS_BYTES),
        mode: 0o777,
        read_only: false,
        exec: false,
        owner: (None, None),
    });
    host.mount(&root);
    host.start(shell("sleep 1000"));
    let pids = host.run(shell(
        "cat /sys/fs/cgroup/pids.max /proc/sys/kernel/threads-max",
    ));
    let pids: Vec<u32> = pids
        .text()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(pids[0], pids[1] / 2);
    let limit = host.run(shell("cat /sys/fs/cgroup/memory.max")).text();
    let limit: u64 = limit.trim().parse().unwrap();
    assert!((400 << 20..500 << 20).contains(&limit), "{limit}");
    // It keeps all that it reads, as one line.
    assert_eq!(run_out_of_memory(host, process(&["tail", "/dev/zero"])), 1);
    assert_eq!(host.run(shell("echo alive")).text(), "alive\n");
    // A child's end is reported too, though its parent goes on.
    let outcome = host.run(shell("tail /dev/zero; echo $?"));
    assert_eq!(outcome.text(), "137\n", "{outcome:?}");
    host.expect("OutOfMemory", |message| {
        matches!(message, AgentMessage::OutOfMemory { killed: 1 })
    });
    // What is in a tmpfs stays when its writer is killed, and whatever runs then is killed next.
    host.exec(shell("dd if=/dev/zero of=/big/file bs=1M count=600"));
    host.expect("OutOfMemory", |message| {
        matches!(message, AgentMessage::OutOfMemory { .. })
    });
    host.hello();
    let console = guest.console();
    assert!(console.contains("Memory cgroup out of memory"), "{console}");
    assert!(!console.contains("Kernel panic"), "{console}");
}

#[test]
fn an_exec_finds_room_beside_a_fork_bomb() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(UpperDevice::Disk));
    // Fewer than the kernel has by itself, or the bomb would take a minute.
    let number = host.number();
    let fewer = shell("echo 600 > /proc/sys/kernel/threads-max");
    host.send(number, &HostMessage::WarmUp(fewer));
    assert_eq!(host.finish(number).status, Some(ExitStatus::Code(0)));
    let unlimited = ResourceLimits {
        pids: Some(0),
        ..ResourceLimits::default()
    };
    // It reaps what its children leave.
    host.start_limited(shell("while :; do sleep 1000 & wait; done"), unlimited);
    let most = host.run(shell("cat /sys/fs/cgroup/pids.max")).text();
    let most: u32 = most.trim().parse().unwrap();
    assert!((300..600).contains(&most), "{most}");
    // A shell ends when it cannot fork.
    let bomb = host.run(shell("while :; do sleep 1000 & done"));
    assert_ne!(bomb.status, Some(ExitStatus::Code(0)), "{bomb:?}");
    let outcome = host.run(shell("cat /proc/self/cgroup; ls /proc | grep -c '^[0-9]'"));
    let (group, count) = outcome
        .text()
        .split_once('\n')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    assert_eq!(group, "0::/../reserve", "{outcome:?}");
    let count: u32 = count.trim().parse().unwrap();
    assert!(count + 40 >= most, "{count} of {most}");
    host.freeze(true);
    host.thaw();
    // From inside it can be ended.
    host.run(shell(
        "killall sleep; until [ $(cat /sys/fs/cgroup/pids.current) -lt 9 ]; do usleep 10000; done",
    ));
    assert_eq!(host.run(shell("cat /proc/self/cgroup")).text(), "0::/\n");
}

#[test]
fn an_exec_joins_a_workload_that_has_divided_its_cgroup() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(UpperDevice::Disk));
    // A warm-up may do the same; nothing of it is left to the workload.
    let divide = "cd /sys/fs/cgroup; mkdir init && echo $$ > init/cgroup.procs && \
        echo +pids +memory > cgroup.subtree_control";
    let number = host.number();
    host.send(number, &HostMessage::WarmUp(shell(divide)));
    let outcome = host.finish(number);
    assert_eq!(outcome.status, Some(ExitStatus::Code(0)), "{outcome:?}");
    let script = format!(
        "rmdir /sys/fs/cgroup/init; cat /proc/self/cgroup; {divide}; echo divided; sleep 1000"
    );
    let workload = host.start_limited(shell(&script), ResourceLimits::default());
    host.until(workload, |outcome| outcome.text().contains("divided"));
    assert_eq!(host.sessions[&workload].text(), "0::/\ndivided\n");
    assert_eq!(
        host.run(shell("cat /proc/self/cgroup")).text(),
        "0::/init\n"
    );
    host.freeze(true);
    let mut copy = guest.capture().restore();
    let host = &mut copy.host;
    host.take_over(workload, Host::other_identity(1));
    assert_eq!(
        host.run(shell("cat /proc/self/cgroup")).text(),
        "0::/init\n"
    );
}

#[test]
fn a_disk_without_inodes_or_blocks_can_be_mounted_again_and_cleaned() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let files = "mkdir /many; i=0; while true > /many/$i; do i=$((i + 1)); done; df -i / | awk 'END { print $4 }'";
    let blocks = "dd if=/dev/zero of=/big bs=64k; dd if=/dev/zero of=/rest bs=4k; df / | awk 'END { print $4 }'";
    guest.host.bring_up();
    // What is written reaches the disk soon, without a sync.
    let settings = "cat /proc/sys/vm/dirty_expire_centisecs /proc/sys/vm/dirty_writeback_centisecs";
    assert_eq!(guest.host.run(shell(settings)).text(), "200\n100\n");
    for (fill, clean) in [(files, "rm -r /many"), (blocks, "rm /big /rest")] {
        let outcome = guest
            .host
            .run(shell(&format!("{{ {fill}; }} 2> /dev/null; sync")));
        assert_eq!(outcome.text(), "0\n", "{outcome:?}");
        // Twice, since the first mount may leave less than it found.
        for _ in 0..2 {
            guest
                .host
                .send(CONTROL_STREAM, &HostMessage::Shutdown { trim: Vec::new() });
            guest.boot_again();
            guest.host.bring_up();
        }
        let outcome = guest
            .host
            .run(shell(&format!("{clean} && echo new > /new && cat /new")));
        assert_eq!(outcome.text(), "new\n", "{outcome:?}");
    }
    guest
        .host
        .send(CONTROL_STREAM, &HostMessage::Shutdown { trim: Vec::new() });
    guest.wait();
    let check = Command::new("e2fsck")
        .arg("-fn")
        .arg(guest.upper())
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
}
