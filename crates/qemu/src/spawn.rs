//! From arguments to a process with its channels.

use std::{
    ffi::OsString,
    fs::File,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::Instant,
};

use cofferdam_backend::{Error, ErrorKind, MachineSpec, Result};
use cofferdam_base::fs::create_private_dir;
use cofferdam_jail::{Holes, Launch};

use crate::{
    accel::Accel,
    argv::{argv, fd},
    logs::Outputs,
    map::{Memory, Plan},
    probe::Program,
    process::Process,
    qmp::Qmp,
    record::{ProcessStat, Record},
};

/// A QEMU that was executed; whether it likes its arguments is not known yet.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) process: Process,
    pub(crate) qmp: Qmp,
    pub(crate) agent: UnixStream,
    /// The host's end of the network interface, if there is one.
    pub(crate) network: Option<UnixStream>,
    /// The host's end of the file channel, if there is one.
    pub(crate) files: Option<UnixStream>,
    pub(crate) started: Instant,
    /// Whether holes that it punches into its disks are made.
    pub(crate) makes_holes: bool,
}

/// Starts QEMU. `state` is a captured state to begin from.
pub(crate) async fn spawn(
    program: &Program,
    plan: &Plan,
    spec: &MachineSpec,
    backend: &str,
    state: Option<OwnedFd>,
) -> Result<Spawned> {
    let io = |what: &'static str| move |error| Error::new(ErrorKind::Io, what).because(error);
    create_private_dir(&spec.run_dir).map_err(io("The machine's directory cannot be made"))?;
    let pair = || UnixStream::pair().map_err(io("A channel to the machine cannot be made"));
    let (agent, agent_child) = pair()?;
    let (control, control_child) = pair()?;
    let (console, console_child) = pair()?;
    let (output, output_child) = pair()?;
    let mut fds = vec![
        (agent_child.into(), fd::AGENT),
        (control_child.into(), fd::CONTROL),
        (console_child.into(), fd::CONSOLE),
    ];
    fds.extend(state.map(|state| (state, fd::STATE)));
    let network = plan.network.as_ref().map(|_| pair()).transpose()?;
    let (network, network_child) = network.unzip();
    fds.extend(network_child.map(|child| (child.into(), fd::NETWORK)));
    let files = plan.file_channel.then(pair).transpose()?;
    let (files, files_child) = files.unzip();
    fds.extend(files_child.map(|child| (child.into(), fd::FILES)));
    let launch = Launch {
        program: program.path.clone(),
        args: args(program, plan)?,
        fds,
        output: output_child.into(),
        holes: holes(plan)?,
        // QEMU asks for huge pages for translated code, of which an idle guest has little: 5 MiB
        // of each fork's 31 were the rest of such pages. Speed is the same without them; hardware's
        // guests keep theirs.
        small_pages: plan.accel == Accel::Tcg,
    };
    let outputs = vec![
        (console.into(), spec.console_log.clone()),
        (output.into(), spec.vmm_log.clone()),
    ];
    let outputs = Outputs::keep(outputs).map_err(io("The machine's logs cannot be kept"))?;
    let started = Instant::now();
    // Forking blocks for about a millisecond.
    let child = tokio::task::spawn_blocking(move || cofferdam_jail::spawn(launch))
        .await
        .map_err(|error| {
            Error::new(ErrorKind::StartFailed, "Starting QEMU was cut off").because(error)
        })?
        .map_err(|error| {
            Error::new(ErrorKind::StartFailed, "QEMU cannot be executed").because(error)
        })?;
    // Read before anyone can reap it: an unreaped child has its entry even if it has ended already.
    let stat = ProcessStat::read(child.pid);
    let makes_holes = child.makes_holes;
    let process = Process::child(child.pid, child.pidfd, outputs)
        .map_err(io("The machine's process cannot be watched"))?;
    let stat = stat.map_err(io("The machine's start time cannot be read"))?;
    record(spec, backend, child.pid, stat)?;
    let qmp = Qmp::new(control).map_err(io("The machine's control channel cannot be used"))?;
    Ok(Spawned {
        process,
        qmp,
        agent,
        network,
        files,
        started,
        makes_holes,
    })
}

/// What a machine may punch whose memory is a file that others map too. Other machines' memory is
/// their own, and QEMU punches it as it likes.
fn holes(plan: &Plan) -> Result<Option<Holes>> {
    let Memory::CopyOnWrite(memory) = &plan.memory else {
        return Ok(None);
    };
    let opened = |path: &Path, write: bool| {
        File::options()
            .read(true)
            .write(write)
            .open(path)
            .map_err(|error| {
                let what = format!("The file `{}` cannot be opened", path.display());
                Error::new(ErrorKind::InvalidSpec, what).because(error)
            })
    };
    let writable = plan.disks.iter().filter(|disk| !disk.read_only);
    let disks: Result<_> = writable.map(|disk| opened(&disk.path, true)).collect();
    Ok(Some(Holes {
        memory: opened(memory, false)?,
        disks: disks?,
    }))
}

fn args(program: &Program, plan: &Plan) -> Result<Vec<OsString>> {
    let mut args = argv(plan)?;
    if let Some(firmware) = &program.firmware {
        args.extend(["-L".into(), firmware.into()]);
    }
    Ok(args)
}

fn record(spec: &MachineSpec, backend: &str, pid: u32, stat: ProcessStat) -> Result<()> {
    Record {
        id: spec.id,
        backend: backend.to_owned(),
        pid,
        start_ticks: stat.start_ticks,
        console_log: spec.console_log.clone(),
        vmm_log: spec.vmm_log.clone(),
    }
    .publish(&spec.run_dir)
}
