//! Making templates.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use cofferdam_backend::{Backend, BlockDevice, Machine, MachineSpec, MemoryBacking};
use cofferdam_base::{LockFile, fs, time::unix_time_ns};
use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, HostMessage, ROOT_DISK_SERIAL, RootSpec, UPPER_DISK_SERIAL,
    UpperDevice,
};
use cofferdam_types::{Digest, SandboxId, Signal};
use serde::{Deserialize, Serialize};

use super::{
    FORMAT_VERSION, MachineShape, Manifest, RootShape, Template, base_key, files_in, image_key,
    state_digest,
};
use crate::{
    error::{Error, ErrorKind, Result, io, lift},
    guest::GuestFiles,
    layout::Layout,
    random,
    supervisor::{AgentLink, adopt},
};

/// How long a guest may take to boot. Emulated on a loaded host it takes seconds; a guest that
/// is silent this long is dead.
pub(crate) const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a guest may take for a mount or a sync.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that a template builder needs; JSON on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImageBuild {
    home: PathBuf,
    backend: String,
    kernel: PathBuf,
    shape: MachineShape,
    root: RootShape,
    rootfs: PathBuf,
}

/// The base template for a shape; made now if there is none.
pub(crate) async fn ensure_base(
    layout: &Layout,
    backend: &dyn Backend,
    guest: &GuestFiles,
    shape: &MachineShape,
) -> Result<Template> {
    let (key, about) = base_key(guest, &lift(backend.compatibility_key())?, shape);
    if let Some(template) = Template::find(layout, &key) {
        return Ok(template);
    }
    let _lock = lock(layout, &key).await?;
    // Somebody else may have made it while we waited.
    if let Some(template) = Template::find(layout, &key) {
        return Ok(template);
    }
    let staging = Staging::new(layout, &key)?;
    for (name, bytes) in [
        ("root.blank", shape.root_bytes),
        ("upper.blank", shape.upper_bytes),
    ] {
        lift(cofferdam_disk::create_sparse(
            &staging.dir.join(name),
            bytes,
        ))?;
    }
    let memory = files_in(&staging.dir).memory;
    let spec = staging.spec(
        guest,
        shape,
        &staging.dir.join("root.blank"),
        "upper.blank",
        memory,
    )?;
    let machine = lift(backend.start(&spec).await)?;
    let mut agent = AgentLink::new(lift(machine.agent_channel())?)?;
    watch(machine.as_ref(), &spec, agent.ready(BOOT_TIMEOUT)).await?;
    capture(machine.as_ref(), &spec, &mut agent, &staging.dir).await?;
    for name in ["root.blank", "upper.blank"] {
        // Placeholders; a leftover would do no harm.
        let _ = fs::remove_file_if_present(&staging.dir.join(name));
    }
    staging.publish(about, shape, None)
}

/// Makes an image's template unless there is one or somebody is making it.
async fn build_image(
    layout: &Layout,
    backend: &dyn Backend,
    guest: &GuestFiles,
    build: &ImageBuild,
) -> Result<()> {
    let compatibility = lift(backend.compatibility_key())?;
    let (key, about) = image_key(guest, &compatibility, &build.shape, &build.root);
    let lock_path = layout.templates().join(format!("{key}.lock"));
    let lock = LockFile::try_exclusive(&lock_path)
        .map_err(|error| io("Could not lock a template", error))?;
    if lock.is_none() || Template::find(layout, &key).is_some() {
        return Ok(());
    }
    let base = ensure_base(layout, backend, guest, &build.shape).await?;
    let staging = Staging::new(layout, &key)?;
    let memory = files_in(&staging.dir).memory;
    lift(cofferdam_disk::copy_sparse(&base.files().memory, &memory))?;
    crate::uppers::make(
        layout,
        build.shape.upper_bytes,
        build.root.read_only,
        &staging.upper(),
    )?;
    let spec = staging.spec(guest, &build.shape, &build.rootfs, "upper.ext4", memory)?;
    let machine = lift(backend.restore(&base.files(), &spec).await)?;
    let mut agent = AgentLink::new(lift(machine.agent_channel())?)?;
    watch(machine.as_ref(), &spec, agent.ready(STEP_TIMEOUT)).await?;
    let mount = async {
        let identity = adopt("template")?;
        agent
            .send(&[
                (CONTROL_STREAM, HostMessage::Adopt(identity)),
                (
                    CONTROL_STREAM,
                    HostMessage::MountRoot(root_spec(&build.root)),
                ),
            ])
            .await?;
        agent
            .expect(CONTROL_STREAM, |message| {
                matches!(message, AgentMessage::RootMounted).then_some(())
            })
            .await
    };
    watch(machine.as_ref(), &spec, mount).await?;
    capture(machine.as_ref(), &spec, &mut agent, &staging.dir).await?;
    staging.publish(about, &build.shape, Some(build.root.manifest))?;
    Ok(())
}

/// The root that a template mounts, and that a start without one mounts in the same way.
pub(crate) fn root_spec(root: &RootShape) -> RootSpec {
    RootSpec {
        upper: if root.read_only {
            UpperDevice::ReadOnly
        } else {
            UpperDevice::Disk
        },
        shm_bytes: root.shm_bytes,
        tmpfs: Vec::new(),
    }
}

/// Runs a step of a guest, and reports the machine's death instead of the step's silence.
async fn watch<T>(
    machine: &dyn Machine,
    spec: &MachineSpec,
    step: impl Future<Output = Result<T>>,
) -> Result<T> {
    let step = async {
        tokio::time::timeout(BOOT_TIMEOUT, step)
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::GuestFailed,
                    "The guest stopped answering",
                ))
            })
    };
    let result = step.await;
    match result {
        Ok(value) => Ok(value),
        Err(error) => Err(crate::diagnosis::explain(machine, spec, error)),
    }
}

/// Brings the guest to rest and captures it; the machine is gone afterwards.
async fn capture(
    machine: &dyn Machine,
    spec: &MachineSpec,
    agent: &mut AgentLink,
    dir: &Path,
) -> Result<()> {
    let quiesce = async {
        agent
            .send(&[(CONTROL_STREAM, HostMessage::Quiesce)])
            .await?;
        agent
            .expect(CONTROL_STREAM, |message| {
                matches!(message, AgentMessage::Quiesced).then_some(())
            })
            .await
    };
    watch(machine, spec, quiesce).await?;
    lift(machine.pause().await)?;
    lift(machine.snapshot(files_in(dir)).await)?;
    lift(machine.stop(Signal::KILL, STEP_TIMEOUT).await)?;
    Ok(())
}

/// A template that is being made: a directory that goes away unless it is published.
struct Staging {
    dir: PathBuf,
    target: PathBuf,
}

impl Staging {
    fn new(layout: &Layout, key: &str) -> Result<Self> {
        let target = layout.templates().join(key);
        let dir = fs::staging_path(&target);
        fs::create_private_dir(&dir)
            .map_err(|error| io(format!("Could not make `{}`", dir.display()), error))?;
        Ok(Self { dir, target })
    }

    fn upper(&self) -> PathBuf {
        self.dir.join("upper.ext4")
    }

    fn spec(
        &self,
        guest: &GuestFiles,
        shape: &MachineShape,
        root: &Path,
        upper: &str,
        memory: PathBuf,
    ) -> Result<MachineSpec> {
        Ok(MachineSpec {
            memory: MemoryBacking::SharedFile(memory),
            console_log: self.dir.join("console.log"),
            vmm_log: self.dir.join("vmm.log"),
            run_dir: self.dir.clone(),
            ..machine_spec(
                SandboxId::from_random(random::bytes()?),
                guest,
                shape,
                root.to_owned(),
                self.dir.join(upper),
            )
        })
    }

    fn publish(
        self,
        about: Vec<String>,
        shape: &MachineShape,
        image: Option<Digest>,
    ) -> Result<Template> {
        let failed = |error| io("Could not publish a template", error);
        for name in [
            "machine.json",
            "console.log",
            "vmm.log",
            "console.log.1",
            "vmm.log.1",
        ] {
            fs::remove_file_if_present(&self.dir.join(name)).map_err(failed)?;
        }
        let manifest = Manifest {
            format: FORMAT_VERSION,
            about,
            created_ns: unix_time_ns(),
            memory_bytes: u64::from(shape.memory_mib) << 20,
            state_digest: state_digest(&files_in(&self.dir).state)?,
            image,
        };
        fs::publish_json(&self.dir.join("manifest.json"), &manifest, false).map_err(failed)?;
        std::fs::rename(&self.dir, &self.target).map_err(failed)?;
        Ok(Template {
            dir: self.target.clone(),
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After publishing there is nothing there; else the sweep finds what this leaves.
        let _ = fs::remove_dir_if_present(&self.dir);
    }
}

/// The machine that every sandbox and template has, less its own files.
pub(crate) fn machine_spec(
    id: SandboxId,
    guest: &GuestFiles,
    shape: &MachineShape,
    root: PathBuf,
    upper: PathBuf,
) -> MachineSpec {
    let disk = |id: &str, path, read_only| BlockDevice {
        id: id.to_owned(),
        path,
        read_only,
    };
    MachineSpec {
        id,
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        memory: MemoryBacking::Private,
        kernel: guest.kernel.clone(),
        initrd: Some(guest.initrd.clone()),
        cmdline: String::new(),
        block_devices: vec![
            disk(ROOT_DISK_SERIAL, root, true),
            disk(UPPER_DISK_SERIAL, upper, false),
        ],
        shares: Vec::new(),
        network: None,
        ports: Vec::new(),
        console_log: PathBuf::new(),
        vmm_log: PathBuf::new(),
        run_dir: PathBuf::new(),
        entrypoint: None,
        workdir: "/".to_owned(),
        user: None,
        limits: cofferdam_types::ResourceLimits::default(),
        confidential: None,
        labels: std::collections::BTreeMap::new(),
    }
}

async fn lock(layout: &Layout, key: &str) -> Result<LockFile> {
    let path = layout.templates().join(format!("{key}.lock"));
    let lock = tokio::task::spawn_blocking(move || LockFile::exclusive(&path)).await;
    lock.map_err(|error| Error::new(ErrorKind::Bug, "A task was lost").because(error))?
        .map_err(|error| io("Could not lock a template", error))
}

/// Starts a process that makes an image's template while the sandbox goes on.
pub(crate) fn spawn_image_build(
    layout: &Layout,
    backend: &str,
    guest: &GuestFiles,
    shape: &MachineShape,
    root: &RootShape,
    rootfs: &Path,
) -> Result<()> {
    let build = ImageBuild {
        home: layout.home().to_owned(),
        backend: backend.to_owned(),
        kernel: guest.kernel.clone(),
        shape: shape.clone(),
        root: root.clone(),
        rootfs: rootfs.to_owned(),
    };
    let input = serde_json::to_vec(&build).map_err(|error| {
        Error::new(ErrorKind::Bug, "Could not describe a template").because(error)
    })?;
    let log = std::fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .open(layout.templates().join("build.log"))
        .map_err(|error| io("Could not open the template builder's log", error))?;
    let mut child = Command::new(crate::program::path()?)
        .arg(crate::program::BUILD_TEMPLATE)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| io("Could not start the template builder", error))?;
    if let Some(mut stdin) = child.stdin.take() {
        use std::io::Write as _;
        // The description is smaller than a pipe, so this never waits.
        stdin
            .write_all(&input)
            .map_err(|error| io("Could not talk to the template builder", error))?;
    }
    Ok(())
}

/// `main` of a template builder; returns the exit code.
pub(crate) fn build_main() -> u8 {
    // A builder works in the background of everything else, and on its own.
    let _ = rustix::process::setsid();
    let _ = rustix::process::nice(10);
    let run = || -> Result<()> {
        let build: ImageBuild =
            serde_json::from_reader(std::io::stdin().lock()).map_err(|error| {
                Error::new(ErrorKind::Bug, "Could not read the template's description")
                    .because(error)
            })?;
        let layout = Layout::at(&build.home)?;
        let guest = crate::guest::find(&layout, build.kernel.to_str())?;
        let backend = crate::host::backend(&layout, Some(&build.backend))?;
        crate::supervisor::block_on(build_image(&layout, backend.as_ref(), &guest, &build))?
    };
    match run() {
        Ok(()) => 0,
        Err(error) => {
            crate::supervisor::log_line(&error.chain());
            1
        }
    }
}
