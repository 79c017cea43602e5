//! The SDK from end to end: what the commands do, from a program.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::sync::{Arc, Mutex};

use cofferdam::{
    Coffer, CofferOptions, ErrorKind, ExecSpec, ForkOptions, NoProgress, Phase, PoolOptions,
    Progress, ProgressEvent, Sandbox, SandboxSpec, SandboxStatus, SnapshotKind, SnapshotOptions,
    TemplateKind, WarmUp, Watcher,
};
use cofferdam_testkit::{
    coffer::{self, BUSYBOX},
    qemu,
};
use rustix::process::{Pid, Signal, kill_process};

/// Runs a test with a store of its own. No environment variable names the program.
fn with_program(work: impl AsyncFnOnce(Coffer)) {
    with_options(async |coffer, _| work(coffer).await);
}

/// The same with the options by which it was opened.
fn with_options(work: impl AsyncFnOnce(Coffer, CofferOptions)) {
    let store = coffer::Coffer::private();
    let program = store.command(["version"]).get_program().to_owned();
    let options = CofferOptions::new()
        .home(store.home())
        .program(program)
        .standby_auto(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let coffer = Coffer::open_with(&options).unwrap();
    runtime.block_on(work(coffer, options));
}

/// The phases that somebody was told of.
#[derive(Default)]
struct Phases(Mutex<Vec<Phase>>);

impl Progress for Phases {
    fn event(&self, event: ProgressEvent<'_>) {
        if let ProgressEvent::Phase { phase, .. } = event {
            self.0.lock().unwrap().push(phase);
        }
    }
}

fn spec(command: &[&str]) -> SandboxSpec {
    SandboxSpec {
        image: BUSYBOX.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..SandboxSpec::default()
    }
}

#[test]
fn a_program_that_opens_with_options_has_automatic_standbys_by_default() {
    with_program(async |plain| {
        let options = CofferOptions::new().home(plain.home());
        for (options, keeps) in [
            (Some(options.clone()), true),
            (Some(options.standby_auto(false)), false),
            (None, false),
        ] {
            let coffer = options.map_or_else(
                || plain.clone(),
                |options| Coffer::open_with(&options).unwrap(),
            );
            let sandbox = coffer.create(spec(&["true"]), &NoProgress).await.unwrap();
            assert_eq!(sandbox.info().unwrap().spec.keep_standby, keeps);
        }
    });
}

#[test]
fn a_store_that_is_opened_with_a_qemu_starts_its_machines_with_that_one() {
    with_options(async |_, options| {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let script = format!("echo started >> {}", mark.display());
        let options = options.qemu(qemu::wrapped(dir.path(), &script));
        let coffer = Coffer::open_with(&options).unwrap();
        let sandbox = started(&coffer).await;
        assert_eq!(sh(&sandbox, "echo yes").await, "yes");
        assert!(mark.exists());
        sandbox.remove(true).await.unwrap();
        let missing = dir.path().join("none");
        let coffer = Coffer::open_with(&options.qemu(&missing)).unwrap();
        let created = coffer.create(spec(&["true"]), &NoProgress).await;
        let error = match created {
            Ok(sandbox) => sandbox.start().await.unwrap_err(),
            Err(error) => error,
        };
        let path = missing.to_str().unwrap();
        assert!(error.chain().contains(path), "{}", error.chain());
    });
}

async fn started(coffer: &Coffer) -> Sandbox {
    let sandbox = coffer
        .create(spec(&["sleep", "1000"]), &NoProgress)
        .await
        .unwrap();
    sandbox.start().await.unwrap();
    sandbox
}

async fn sh(sandbox: &Sandbox, script: &str) -> String {
    let output = sandbox
        .output(ExecSpec::new(["sh", "-c", script]))
        .await
        .unwrap();
    assert_eq!(output.status.code(), 0, "{script}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_sandbox_is_paused_forked_and_goes_on() {
    with_program(async |coffer| {
        let sandbox = started(&coffer).await;
        sh(&sandbox, "echo mine > /dev/shm/x").await;
        sandbox.pause().await.unwrap();
        assert_eq!(sandbox.info().unwrap().status, SandboxStatus::Paused);
        let refused = sandbox.exec(ExecSpec::new(["true"])).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WrongState);
        sandbox.unpause().await.unwrap();
        let options = ForkOptions {
            name: Some("copy".to_owned()),
            count: 2,
            ..ForkOptions::default()
        };
        let mut told = Vec::new();
        let forks = sandbox
            .fork(&options, |fork| told.push(fork.id()))
            .await
            .unwrap();
        assert!(forks.failure.is_none() && forks.pause_us.is_some());
        let ids: Vec<_> = forks.sandboxes.iter().map(Sandbox::id).collect();
        assert_eq!(ids, told);
        for (fork, name) in forks.sandboxes.iter().zip(["copy-1", "copy-2"]) {
            assert_eq!(fork.name(), name);
            let seen = sh(fork, "cat /dev/shm/x; hostname").await;
            assert_eq!(seen, format!("mine\n{}", fork.id().short()));
            fork.remove(true).await.unwrap();
        }
        sandbox.remove(true).await.unwrap();
    });
}

#[test]
fn a_command_that_had_not_started_when_its_machine_was_lost_is_told_so() {
    with_program(async |coffer| {
        let sandbox = started(&coffer).await;
        let pid = sandbox.info().unwrap().machine_pid.unwrap();
        let machine = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        // A stopped machine gets no request, so the guest has more of them than it can answer
        // before it is killed.
        let execs: Vec<_> = (0..32)
            .map(|_| {
                let sandbox = sandbox.clone();
                tokio::spawn(async move {
                    let session = sandbox.exec(ExecSpec::new(["sleep", "1000"])).await;
                    session.err().map(|error| error.kind())
                })
            })
            .collect();
        while sandbox.stats().await.unwrap().sessions < 2 {
            tokio::task::yield_now().await;
        }
        kill_process(machine, Signal::KILL).unwrap();
        let mut refused = Vec::new();
        for exec in execs {
            refused.extend(exec.await.unwrap());
        }
        assert!(!refused.is_empty());
        assert!(
            refused.iter().all(|kind| *kind == ErrorKind::WrongState),
            "{refused:?}"
        );
        coffer
            .remove(&sandbox.id().to_string(), true)
            .await
            .unwrap();
    });
}

#[test]
fn a_snapshot_is_taken_moved_and_restored() {
    with_program(async |coffer| {
        let sandbox = started(&coffer).await;
        sh(&sandbox, "echo then > /file").await;
        let told = Arc::new(Phases::default());
        let options = SnapshotOptions {
            kind: Some(SnapshotKind::Full),
            name: Some("then".to_owned()),
            watcher: Watcher::new(told.clone()),
        };
        let taken = sandbox.snapshot(options).await.unwrap();
        assert_eq!(
            *told.0.lock().unwrap(),
            [Phase::Capturing, Phase::Syncing],
            "the watcher of a snapshot gets its progress"
        );
        taken.verify().unwrap();
        assert_eq!(taken.info().unwrap().kind, SnapshotKind::Full);
        assert_eq!(
            taken.restore().await.unwrap_err().kind(),
            ErrorKind::WrongState
        );
        let mut file = Vec::new();
        taken.export(&mut file, &NoProgress).unwrap();
        coffer.snapshots().remove("then").unwrap();
        assert!(coffer.snapshots().list().unwrap().is_empty());
        let half = &file[..file.len() / 2];
        let cut = coffer.snapshots().import(half, Some("cut"), &NoProgress);
        assert_eq!(cut.unwrap_err().kind(), ErrorKind::BadSnapshot);
        let imported = coffer
            .snapshots()
            .import(file.as_slice(), None, &NoProgress)
            .unwrap();
        assert_eq!(imported.id(), taken.id());
        sh(&sandbox, "echo now > /file").await;
        sandbox.remove(true).await.unwrap();
        let restored = coffer
            .snapshots()
            .get("then")
            .unwrap()
            .restore()
            .await
            .unwrap();
        assert_eq!(restored.id(), sandbox.id());
        assert_eq!(sh(&restored, "cat /file").await, "then");
        restored.remove(true).await.unwrap();
    });
}

#[test]
fn templates_and_pools_are_made_listed_and_removed() {
    with_program(async |coffer| {
        let warm_up = WarmUp {
            commands: vec![vec!["touch".to_owned(), "/warm".to_owned()]],
            wait_for: None,
            timeout: None,
        };
        let made = coffer
            .templates()
            .build(spec(&[]), &warm_up, &NoProgress)
            .await
            .unwrap();
        assert_eq!(made.kind, TemplateKind::Image);
        assert!(coffer.templates().list().unwrap().contains(&made));
        let options = PoolOptions {
            name: Some("standby".to_owned()),
            size: 1,
            warm_ups: Vec::new(),
        };
        let pool = coffer
            .pools()
            .create(spec(&[]), &options, &NoProgress)
            .await
            .unwrap();
        assert_eq!((pool.ready, pool.size), (1, 1));
        let sandbox = started(&coffer).await;
        assert_eq!(sh(&sandbox, "ls /warm").await, "/warm");
        sandbox.remove(true).await.unwrap();
        coffer.pools().remove("standby").await.unwrap();
        assert!(coffer.pools().list().is_empty());
        coffer.templates().remove(&made.key).unwrap();
        assert!(!coffer.templates().list().unwrap().contains(&made));
    });
}

#[test]
fn a_program_restarts_forks_by_name_and_prunes() {
    with_program(async |coffer| {
        let spec = SandboxSpec::builder(BUSYBOX)
            .name("base")
            .command(["sleep", "1000"])
            .env("COLOUR", "red")
            .build();
        let sandbox = coffer.create(spec, &NoProgress).await.unwrap();
        sandbox.start().await.unwrap();
        let before = sandbox.info().unwrap().started_ns.unwrap();
        sandbox
            .restart(Some(std::time::Duration::ZERO))
            .await
            .unwrap();
        assert!(sandbox.info().unwrap().started_ns.unwrap() > before);
        let options = ForkOptions::default();
        let forks = coffer.fork("base", &options, |_| {}).await.unwrap();
        let fork = &forks.sandboxes[0];
        assert_eq!(sh(fork, "echo $COLOUR").await, "red");
        let mut more = coffer.fork_stream(
            "base",
            ForkOptions {
                count: 2,
                ..options.clone()
            },
        );
        let mut ids = Vec::new();
        while let Some(fork) = more.next().await {
            let fork = fork.unwrap();
            assert_eq!(sh(&fork, "echo $COLOUR").await, "red");
            ids.push(fork.id());
            fork.remove(true).await.unwrap();
        }
        assert_eq!(ids.len(), 2);
        let mut none = coffer.fork_stream("nothing", options.clone());
        let error = none.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(none.next().await.is_none());
        let missing = coffer.fork("nothing", &options, |_| {}).await;
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
        fork.kill(cofferdam::Signal::KILL).await.unwrap();
        assert_eq!(coffer.prune_sandboxes().await.unwrap(), [fork.id()]);
        sandbox.remove(true).await.unwrap();
    });
}
