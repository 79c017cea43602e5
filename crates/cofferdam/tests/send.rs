//! Every future of the library can be given to a task of another thread. The compiler checks that;
//! nothing here is run.

use cofferdam::{
    AttachOptions, Coffer, Events, ExecSpec, ForkOptions, Logs, NoProgress, Platform, PoolOptions,
    Reference, Sandbox, SandboxSpec, Session, SessionWriter, Signal, Snapshot, SnapshotOptions,
    WarmUp,
};

fn is_send<T: Send>(_: T) {}

fn of_a_coffer(coffer: &Coffer, spec: SandboxSpec, reference: &Reference, platform: &Platform) {
    is_send(coffer.create(spec.clone(), &NoProgress));
    is_send(coffer.remove("name", true));
    is_send(coffer.fork_stream("name", ForkOptions::default()));
    is_send(coffer.prune_sandboxes());
    is_send(coffer.fork("name", &ForkOptions::default(), |_| {}));
    is_send(coffer.images().pull(reference, platform, &NoProgress));
    let options = PoolOptions {
        name: None,
        size: 1,
        warm_ups: Vec::new(),
    };
    is_send(coffer.pools().create(spec.clone(), &options, &NoProgress));
    is_send(coffer.pools().remove("name"));
    let warm_up = WarmUp::default();
    is_send(coffer.templates().build(spec, &warm_up, &NoProgress));
}

fn of_events(events: &mut Events) {
    is_send(events.next());
}

fn of_a_sandbox(sandbox: &Sandbox, exec: &ExecSpec, options: AttachOptions) {
    is_send(sandbox.start());
    is_send(sandbox.start_attached(true));
    is_send(sandbox.start_attached_with(options));
    is_send(sandbox.wait_until_started());
    is_send(sandbox.attach(true));
    is_send(sandbox.stop(None));
    is_send(sandbox.restart(None));
    is_send(sandbox.kill(Signal::KILL));
    is_send(sandbox.wait());
    is_send(sandbox.remove(false));
    is_send(sandbox.sessions());
    is_send(sandbox.processes());
    is_send(sandbox.stats());
    is_send(sandbox.stats_stream(std::time::Duration::from_secs(1)));
    is_send(sandbox.exec(exec.clone()));
    is_send(sandbox.exec_detached(exec.clone()));
    is_send(sandbox.output(exec.clone()));
    is_send(sandbox.set_timeout(None));
    is_send(sandbox.extend_timeout(std::time::Duration::from_secs(1)));
    is_send(sandbox.pause());
    is_send(sandbox.unpause());
    is_send(sandbox.snapshot(SnapshotOptions::default()));
    is_send(sandbox.fork(&ForkOptions::default(), |_| {}));
}

fn of_a_snapshot(snapshot: &Snapshot) {
    is_send(snapshot.restore());
    is_send(snapshot.restore_as("name"));
    is_send(snapshot.fork(&ForkOptions::default(), |_| {}));
}

fn of_a_session(session: &mut Session, input: &mut SessionWriter, logs: &mut Logs) {
    is_send(session.next());
    is_send(input.write(b"bytes"));
    is_send(input.close());
    is_send(input.signal(Signal::TERM));
    is_send(input.leave());
    is_send(input.resize(24, 80));
    is_send(logs.next());
}

#[test]
fn every_future_is_send() {
    // That these exist is the test.
    let _ = (
        of_a_coffer,
        of_events,
        of_a_sandbox,
        of_a_snapshot,
        of_a_session,
    );
}
