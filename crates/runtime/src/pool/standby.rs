//! One standby: a supervisor without a sandbox yet.

use std::{
    ffi::OsString,
    io::ErrorKind as IoErrorKind,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use cofferdam_backend::{Machine, MachineSpec};
use cofferdam_base::{LockFile, fs, time::unix_time_ns};
use cofferdam_proto::{CLIENT_GENERATION, Request, SupervisorMessage};
use cofferdam_types::SandboxId;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

use super::{
    ForLaterStarts, Pool, READY, Ready, StandbyPaths,
    fill::spawn_fill,
    handover::{self, may_replace},
};
use crate::{
    base::{
        error::{Error, ErrorKind, Result, io, lift, to_remote},
        socket,
        task::{block_on, log_line},
    },
    host::{compatibility::machine_key, guest},
    link::{AgentLink, Clock, start_workload},
    spec::interpreters::AutoWarmUps,
    start::{ForTemplates, guest_setup, network},
    store::{
        layout::{Layout, SandboxPaths},
        staging::StagingDir,
    },
    supervisor::{self, AfterStart, Client, Duty, Event, FIRST_CLIENT, Live, Starting},
    template::{self, BOOT_TIMEOUT, Template},
};

/// How long a claimed standby's machine may take to answer. It is longer than any client waits:
/// a machine that does not answer even then is lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A machine at the point before the workload.
#[derive(Debug)]
struct Standby {
    place: StandbyPaths,
    layout: Layout,
    pool: String,
    machine: Arc<dyn Machine>,
    agent: AgentLink,
    backend: &'static str,
    /// What a machine must have in common with this one to go on from a capture of it.
    machine_key: String,
    /// See [`Live::disk_made`].
    disk_made: Option<SystemTime>,
    // Held for as long as the standby has files of its own.
    _lock: LockFile,
}

impl Standby {
    /// Gives its files to the sandbox that claimed it; returns the name of its pool.
    fn hand_over(&self, paths: &SandboxPaths) -> Result<String> {
        let failed = |error| io("Could not take over a standby's files", error);
        std::fs::rename(self.place.upper(), paths.upper()).map_err(failed)?;
        let logs = [("console.log", paths.console()), ("vmm.log", paths.vmm())];
        let logs = logs.map(|(name, to)| (self.place.dir.join(name), to));
        lift(self.machine.move_to(&paths.run))?;
        for (from, to) in logs {
            match std::fs::rename(from, to) {
                // A log that nothing was written to.
                Err(error) if error.kind() == IoErrorKind::NotFound => {}
                result => result.map_err(failed)?,
            }
        }
        let _ = fs::remove_dir_if_present(&self.place.run);
        let _ = fs::remove_dir_if_present(&self.place.dir);
        Ok(self.pool.clone())
    }
}

/// `main` of a standby: home, pool and id; returns the exit code.
pub(crate) fn standby_main(args: &[OsString]) -> u8 {
    let _ = rustix::process::setsid();
    let run = || -> Result<()> {
        let bad = || Error::new(ErrorKind::Bug, "A standby wants a home, a pool and an id");
        let [home, pool, id] = args else {
            return Err(bad());
        };
        let layout = Layout::at(Path::new(home))?;
        let id = id.to_str().and_then(|id| id.parse().ok()).ok_or_else(bad)?;
        block_on(stand_by(layout, pool.to_string_lossy().into_owned(), id))?
    };
    match run() {
        Ok(()) => 0,
        Err(error) => {
            log_line(&error.chain());
            1
        }
    }
}

async fn stand_by(layout: Layout, pool: String, id: SandboxId) -> Result<()> {
    let (events, queue) = supervisor::queue();
    let starter = supervisor::accept_first(&events)?;
    stand_by_for(layout, pool, id, starter, events, queue).await
}

/// Makes a standby, answers `starter`, and waits for its claim or its end.
pub(crate) async fn stand_by_for(
    layout: Layout,
    pool: String,
    id: SandboxId,
    starter: Client,
    events: mpsc::Sender<Event>,
    mut queue: mpsc::Receiver<Event>,
) -> Result<()> {
    let Some(Event::Client(..)) = queue.recv().await else {
        return Ok(());
    };
    let pool = Pool::load(&layout, &pool)?;
    let place = StandbyPaths::of(&layout, &pool, id);
    let ready = prepare_or_retry(&layout, &pool, &place, id).await;
    let (standby, listener) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            place.remove(&layout);
            starter.answer(&SupervisorMessage::Failed(to_remote(&error)));
            starter.close().await;
            return Err(error);
        }
    };
    starter.answer(&SupervisorMessage::Done);
    starter.close().await;
    supervisor::forward_signals(&events);
    let ends_after = pool.manifest.ends_after_s.map(Duration::from_secs);
    let result = match wait(&standby, listener, queue, ends_after).await {
        Ok(Some(stream)) => serve(standby, stream).await,
        Ok(None) => {
            let _ = standby.machine.kill().await;
            drop(standby);
            place.remove(&layout);
            pool.remove_empty(&layout);
            return Ok(());
        }
        Err(error) => {
            place.remove(&layout);
            if may_replace(&pool)
                && let Err(error) = spawn_fill(&layout, &pool.manifest.name)
            {
                log_line(&error.chain());
            }
            Err(error)
        }
    };
    // Whatever a claim has not taken along.
    place.remove(&layout);
    pool.remove_ended(&layout);
    result
}

/// What came of the making of a standby.
enum Prepared {
    Ready(Box<Standby>, UnixListener),
    /// The machine was lost while it ran what the user had not asked for.
    Lost(Error),
}

/// Makes the standby, without what it would run by itself if its machine does not survive that.
async fn prepare_or_retry(
    layout: &Layout,
    pool: &Pool,
    place: &StandbyPaths,
    id: SandboxId,
) -> Result<(Standby, UnixListener)> {
    let auto_warm_ups = pool.manifest.plan.auto_warm_ups.as_ref();
    let error = match prepare(layout, pool, place, id, auto_warm_ups).await? {
        Prepared::Ready(standby, listener) => return Ok((*standby, listener)),
        Prepared::Lost(error) => error,
    };
    let what = "The standby's machine was lost while it was warmed, and is made without that";
    place.remove(layout);
    match prepare(layout, pool, place, id, None).await? {
        Prepared::Ready(mut standby, listener) => {
            standby.agent.note(format!("{what}: {}", error.chain()));
            Ok((*standby, listener))
        }
        Prepared::Lost(error) => Err(error),
    }
}

/// Brings a machine up to the point before the workload, and makes the socket for its claim.
async fn prepare(
    layout: &Layout,
    pool: &Pool,
    place: &StandbyPaths,
    id: SandboxId,
    auto_warm_ups: Option<&AutoWarmUps>,
) -> Result<Prepared> {
    let failed = |error| io("Could not prepare a standby", error);
    // It appears with its lock held: a directory whose lock is free is a dead one's.
    let staging = StagingDir::new(place.dir.clone())?;
    let lock = LockFile::try_exclusive(&staging.path().join("lock")).map_err(failed)?;
    let taken = || Error::new(ErrorKind::WrongState, "The standby is there already");
    let lock = lock.ok_or_else(taken)?;
    handover::note_process(staging.path()).map_err(failed)?;
    staging.publish()?;
    layout.make_sockets(&layout.sandbox(id))?;
    let manifest = &pool.manifest;
    let backend = crate::host::backend(layout, Some(&manifest.backend))?;
    let guest = guest::find(layout, manifest.kernel.as_deref())?;
    let key = pool.template_key(backend.as_ref(), &guest)?;
    if Template::find(layout, &key).is_none() {
        let plan = &manifest.plan;
        let made = template::make_image(layout, backend.as_ref(), &guest, plan, false).await?;
        if made.is_none() {
            template::wait_for_maker(layout, &key).await?;
        }
    }
    let lost = || Error::new(ErrorKind::NotFound, "The pool's template is gone");
    let found = Template::find(layout, &key).ok_or_else(lost)?;
    lift(cofferdam_disk::copy_sparse(&found.upper(), &place.upper()))?;
    let made = std::fs::metadata(place.upper()).and_then(|meta| meta.modified());
    let (plan, rootfs) = (&manifest.plan, manifest.plan.rootfs.clone());
    let spec = MachineSpec {
        console_log: place.dir.join("console.log"),
        vmm_log: place.dir.join("vmm.log"),
        run_dir: place.run.clone(),
        ..template::machine_spec(id, &guest, &plan.shape, rootfs, place.upper())
    };
    let machine: Arc<dyn Machine> = lift(backend.restore(&found.files(), &spec).await)?.into();
    let mut agent = AgentLink::new(lift(machine.agent_channel())?)?;
    agent.ready(BOOT_TIMEOUT).await?;
    template::warm_up(
        &mut agent,
        &pool.manifest.warm_ups,
        template::DEFAULT_TIMEOUT,
    )
    .await?;
    for note in found.notes() {
        agent.note(note);
    }
    if let Err(error) = warm(&mut agent, auto_warm_ups, plan.shape.mtu.is_some()).await {
        return Ok(Prepared::Lost(error));
    }
    let ready = Ready {
        template: key,
        generation: CLIENT_GENERATION,
    };
    fs::publish_json(&place.dir.join(READY), &ready, false).map_err(failed)?;
    let listener = socket::bind(&place.socket()).map_err(failed)?;
    let standby = Standby {
        place: place.clone(),
        layout: layout.clone(),
        pool: manifest.name.clone(),
        machine,
        agent,
        backend: backend.name(),
        machine_key: machine_key(backend.as_ref(), &guest)?,
        disk_made: made.ok(),
        _lock: lock,
    };
    Ok(Prepared::Ready(Box::new(standby), listener))
}

/// Runs what makes a standby quicker than a fresh machine: under emulation code that has run
/// once is translated. Fails only when the machine is lost.
async fn warm(
    agent: &mut AgentLink,
    auto_warm_ups: Option<&AutoWarmUps>,
    has_network: bool,
) -> Result<()> {
    let interpreters = auto_warm_ups.map(AutoWarmUps::interpreters);
    template::run_warm_ups(agent, &interpreters.unwrap_or_default()).await?;
    template::quiesce(agent).await?;
    let claims = auto_warm_ups.map(AutoWarmUps::claims).unwrap_or_default();
    template::warm_up_claim(agent, &claims, has_network).await
}

/// Waits for a client, or for the end: of the machine, of this process, or of the time for which
/// an automatic standby waits.
async fn wait(
    standby: &Standby,
    listener: UnixListener,
    mut queue: mpsc::Receiver<Event>,
    ends_after: Option<Duration>,
) -> Result<Option<UnixStream>> {
    let end = async {
        match ends_after {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(|error| io("Could not be claimed", error))?;
                return Ok(Some(stream));
            }
            () = &mut end => return Ok(None),
            exit = standby.machine.wait() => {
                let what = format!("The standby's machine ended with {exit:?}");
                return Err(Error::new(ErrorKind::GuestFailed, what));
            }
            event = queue.recv() => if matches!(event, None | Some(Event::Terminated)) {
                return Ok(None);
            },
        }
    }
}

/// Accepts a claim, if the machine answers and the client still waits. Nothing has been done for
/// the sandbox when this fails, and its client looks for another way to start it.
async fn accept(standby: &mut Standby) -> Result<()> {
    let lost = |what| Error::new(ErrorKind::SupervisorLost, what);
    standby
        .agent
        .ready(ANSWER_TIMEOUT)
        .await
        .map_err(|error| lost("The standby's machine does not answer").because(error))?;
    if !standby.place.take() {
        return Err(lost("The client has given the standby up"));
    }
    Ok(())
}

/// Has a standby's machine become the sandbox's.
async fn claimed(of: Starting<'_>, standby: Standby) -> Result<(Live, Box<dyn AfterStart>)> {
    let mut clock = Clock::new();
    let pool = standby.hand_over(of.paths)?;
    of.record_machine(standby.machine.as_ref(), standby.backend)?;
    clock.lap("standby");
    let Standby {
        machine,
        mut agent,
        backend,
        machine_key,
        disk_made,
        ..
    } = standby;
    let (network, of_guest) = network(of, machine.as_ref())?;
    let setup = guest_setup(&of.entry.record, of_guest);
    start_workload(&mut agent, &setup, of.terminal, true, &mut clock).await?;
    let degraded = agent.take_notes();
    degraded.iter().for_each(|note| clock.lap_noted(note));
    let live = Live {
        machine,
        agent,
        backend,
        timeline: clock.stages,
        started_ns: unix_time_ns(),
        machine_key,
        degraded,
        disk_made,
        network,
        read_ahead: None,
    };
    let after = ForLaterStarts::new(of.entry, backend, ForTemplates::default(), Some(pool));
    Ok((live, Box::new(after)))
}

/// Does what the one client wants that gets it. Others find nobody, and look for another standby.
async fn serve(standby: Standby, stream: UnixStream) -> Result<()> {
    let _ = fs::remove_file_if_present(&standby.place.socket());
    let refused = || Error::new(ErrorKind::Permission, "The client is not the pool's owner");
    // A queue of its own: what is left in the other is about whoever started this process.
    let (events, mut queue) = supervisor::queue();
    let client = Client::accept(FIRST_CLIENT, stream, events.clone()).ok_or_else(refused)?;
    let Some(request) = supervisor::first_request(&mut queue).await else {
        return Ok(());
    };
    match request.request {
        Request::Retire => {
            // A machine that is gone already is what was asked for.
            let _ = standby.machine.kill().await;
            client.answer(&SupervisorMessage::Done);
            client.close().await;
            Ok(())
        }
        Request::Claim { sandbox, .. } => {
            let mut standby = standby;
            if let Err(error) = accept(&mut standby).await {
                client.answer(&SupervisorMessage::Failed(to_remote(&error)));
                client.close().await;
                return Err(error);
            }
            let duty = Duty {
                layout: standby.layout.clone(),
                id: sandbox,
                request,
            };
            let bring_up = async |of: Starting<'_>| claimed(of, standby).await;
            supervisor::serve(duty, client, events, queue, bring_up).await
        }
        _ => Err(Error::new(
            ErrorKind::Bug,
            "A standby is claimed or retired",
        )),
    }
}
