//! The host check on the host that the tests run on, whatever that is, and on made-up ones.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use cofferdam_kvm_probe::{HostView, KvmFinding, KvmProbe, KvmVerdict, probe_in_process};

fn view(root: &Path) -> HostView {
    HostView {
        sys: root.join("sys"),
        proc: root.join("proc"),
        dev: root.join("dev"),
        etc: root.join("etc"),
    }
}

fn put(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// What must be true of every finding, on every host.
fn assert_consistent(finding: &KvmFinding) {
    let evidence = &finding.evidence;
    let all = evidence.entered_long_mode
        && evidence.page_fault
        && evidence.cpuid
        && evidence.pio
        && evidence.mmio
        && evidence.ring3
        && evidence.interrupt
        && evidence.instructions == evidence.instructions_wanted
        && evidence.instructions > 0;
    assert_eq!(finding.is_usable(), all, "{finding:?}");
    assert!(evidence.instructions <= evidence.instructions_wanted);
    // Later stages are reached through the earlier ones.
    assert!(!evidence.ring3 || evidence.entered_long_mode);
    match finding.verdict {
        KvmVerdict::Usable => assert!(finding.fixes.is_empty()),
        KvmVerdict::CannotRunKernel => {
            assert!(!finding.fixes.is_empty());
            assert!(!evidence.end.is_empty());
        }
        KvmVerdict::NoPermission | KvmVerdict::Absent => {
            assert!(!finding.fixes.is_empty());
            assert_eq!(evidence.exits, 0);
        }
        KvmVerdict::Broken | KvmVerdict::Unsupported => {}
    }
    assert!(!finding.detail.ends_with('.') && !finding.detail.contains('\n'));
    assert!(finding.elapsed_us > 0);
}

#[test]
fn the_verdict_on_this_host_follows_from_the_evidence_in_bounded_time() {
    let started = Instant::now();
    let finding = probe_in_process();
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_consistent(&finding);
    let missing = !Path::new("/dev/kvm").exists();
    assert_eq!(missing, finding.verdict == KvmVerdict::Absent);
}

#[test]
fn checks_at_the_same_time_do_not_disturb_each_other() {
    let checks: Vec<_> = (0..4).map(|_| thread::spawn(probe_in_process)).collect();
    for check in checks {
        assert_consistent(&check.join().unwrap());
    }
}

#[test]
fn a_check_leaves_the_process_as_it_was() {
    // A process of its own would be needed to count what other tests open; this thread's signal
    // mask, and the handlers of all, nobody else touches.
    let signals = || -> Vec<String> {
        fs::read_to_string("/proc/thread-self/status")
            .unwrap()
            .lines()
            .filter(|line| line.starts_with("Sig"))
            .filter(|line| !line.starts_with("SigQ"))
            .map(str::to_owned)
            .collect()
    };
    let before = signals();
    assert_eq!(before.len(), 4);
    let _ = probe_in_process();
    assert_eq!(signals(), before);
}

#[test]
fn a_host_without_the_device_is_told_which_module_to_load() {
    let root = tempfile::tempdir().unwrap();
    put(
        root.path(),
        "proc/cpuinfo",
        "vendor_id : AuthenticAMD\nflags : fpu svm\n",
    );
    let finding = KvmProbe::new(view(root.path())).startup_check();
    assert_eq!(finding.verdict, KvmVerdict::Absent);
    assert_eq!(finding.detail, "KVM is absent: there is no `/dev/kvm`");
    assert_eq!(
        finding.fixes[0].command.as_deref(),
        Some("sudo modprobe kvm_amd")
    );
    assert_consistent(&finding);
}

#[test]
fn a_container_without_the_device_is_told_to_pass_it_on() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "sys/class/misc/kvm/dev", "10:232\n");
    put(root.path(), "sys/module/kvm_intel/refcnt", "0\n");
    put(root.path(), "proc/self/cgroup", "0::/docker/0123456789\n");
    let finding = KvmProbe::new(view(root.path())).startup_check();
    assert_eq!(finding.verdict, KvmVerdict::Absent);
    assert_eq!(finding.flavour.as_deref(), Some("kvm_intel"));
    assert!(finding.fixes[0].what.contains("--device /dev/kvm"));
}

/// Takes the calling thread's power to open what the mode forbids, if it is root's.
fn become_nobody() {
    const NOBODY: libc::uid_t = 65_534;
    // SAFETY: takes no pointers. The raw call, unlike libc's, changes the calling thread alone, and
    // that thread ends with its test.
    #[allow(unsafe_code, reason = "the test's thread gives up root")]
    let code = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    // A thread that is not root's cannot open the file either.
    let _ = code;
}

/// What nobody finds on a host whose device is root's alone.
fn check_as_nobody(root: &Path) -> KvmFinding {
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    put(root, "dev/kvm", "");
    fs::set_permissions(root.join("dev/kvm"), fs::Permissions::from_mode(0o000)).unwrap();
    put(root, "etc/group", "kvm:x:104:\n");
    let probe = KvmProbe::new(view(root));
    let check = thread::spawn(move || {
        become_nobody();
        probe.startup_check()
    });
    check.join().unwrap()
}

#[test]
fn a_device_that_would_run_no_stock_kernel_is_not_worth_opening() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "sys/class/misc/kvm/dev", "10:232\n");
    put(root.path(), "sys/module/kvm_pvm/refcnt", "0\n");
    let finding = check_as_nobody(root.path());
    assert_eq!(finding.verdict, KvmVerdict::NoPermission);
    assert!(
        finding
            .detail
            .contains("could not run a stock 64-bit kernel"),
        "{}",
        finding.detail
    );
    let commands = finding.fixes.iter().filter_map(|fix| fix.command.as_ref());
    assert_eq!(commands.count(), 0, "{:?}", finding.fixes);
    assert!(finding.fixes[0].what.contains("KVM-PVM"));
    assert_consistent(&finding);
}

#[test]
fn a_device_that_is_closed_to_the_user_names_the_group_to_join() {
    let root = tempfile::tempdir().unwrap();
    let finding = check_as_nobody(root.path());
    assert_eq!(finding.verdict, KvmVerdict::NoPermission);
    assert!(
        finding.detail.contains("Permission denied"),
        "{}",
        finding.detail
    );
    let command = finding.fixes[0].command.as_deref().unwrap();
    assert!(command.contains("usermod -aG kvm $USER"), "{command}");
    assert_consistent(&finding);
}

#[test]
fn the_check_without_root_does_not_panic_on_this_host() {
    let finding = thread::spawn(|| {
        become_nobody();
        probe_in_process()
    })
    .join()
    .unwrap();
    assert_consistent(&finding);
}
