//! One standby: a supervisor without a sandbox yet.

use std::{ffi::OsString, path::Path, time::Duration};

use cofferdam_base::{fs, time::unix_time_ns};
use cofferdam_proto::{Request, SupervisorMessage};
use cofferdam_types::SandboxId;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

use super::{
    ForLaterStarts, Pool, StandbyPaths,
    fill::spawn_fill,
    handover::may_replace,
    prepare::{Standby, prepare_or_retry},
};
use crate::{
    base::{
        error::{Error, ErrorKind, Result, io, to_remote},
        task::{block_on, log_line},
    },
    link::{Clock, start_workload},
    start::{ForTemplates, guest_setup, network},
    store::layout::Layout,
    supervisor::{self, AfterStart, Client, Duty, Event, FIRST_CLIENT, Live, Starting},
};

/// How long a claimed standby's machine may take to answer. It is longer than any client waits:
/// a machine that does not answer even then is lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

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
