//! `run`, `create` and `exec`.

use std::path::PathBuf;

use cofferdam::{ByteSize, CpuCount, Platform, PullPolicy, Signal};

/// A process of a sandbox.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ProcessArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Set a variable; without a value, take the caller's
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Set the variables in a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, by name or number, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
}

/// A sandbox to make.
#[derive(Debug, clap::Args)]
pub(crate) struct SandboxArgs {
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// Name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Host name in the guest
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Replace the image's entrypoint; empty clears it
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Processors, whole or fractional
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<CpuCount>,
    /// Memory, such as 512m or 2g
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// Size of the disk for the sandbox's writes
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<ByteSize>,
    /// Make the root read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Mount a tmpfs; options size=, mode=, ro, exec
    #[arg(long, value_name = "DIR[:OPTIONS]")]
    pub(crate) tmpfs: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<ByteSize>,
    /// Signal that asks the command to end
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<Signal>,
    /// Seconds from that signal to SIGKILL
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stop_timeout: Option<u32>,
    /// Platform of the image
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<Platform>,
    /// When to ask the registry: always, missing or never
    #[arg(long, value_name = "WHEN")]
    pub(crate) pull: Option<PullPolicy>,
    /// Boot this kernel
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<String>,
    /// Run on this backend; see `coffer doctor`
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    #[command(flatten)]
    pub(crate) later: LaterArgs,
    /// Image
    image: String,
    /// Command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Docker's flags for what this version does not have: asked for, they are refused by name.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct LaterArgs {
    /// Network; only `none` in this version
    #[arg(long, visible_alias = "net", value_name = "NAME")]
    network: Option<String>,
    #[arg(short, long, hide = true)]
    publish: Vec<String>,
    #[arg(short = 'P', long, hide = true)]
    publish_all: bool,
    // Docker's `-v` is this; ours says where the time goes, for every verb.
    #[arg(long, hide = true)]
    volume: Vec<String>,
    #[arg(long, hide = true)]
    mount: Vec<String>,
    #[arg(long, hide = true)]
    link: Vec<String>,
    #[arg(long, hide = true)]
    dns: Vec<String>,
    #[arg(long, hide = true)]
    add_host: Vec<String>,
    #[arg(long, hide = true)]
    device: Vec<String>,
    #[arg(long, hide = true)]
    gpus: Option<String>,
    #[arg(long, hide = true)]
    cap_add: Vec<String>,
    #[arg(long, hide = true)]
    cap_drop: Vec<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    #[arg(long, hide = true)]
    privileged: bool,
    #[arg(long, hide = true)]
    restart: Option<String>,
    #[arg(long, hide = true)]
    health_cmd: Option<String>,
}

impl LaterArgs {
    /// The first flag that asks for what is not there, and what to do without it.
    pub(crate) fn refused(&self) -> Option<(&'static str, &'static str)> {
        let network = self.network.as_deref().is_some_and(|name| name != "none");
        let no_network = "Sandboxes have no network in this version: `--network none`";
        let no_volumes = "Put files into the image, or send them to a command's standard input";
        let is_vm = "A sandbox is a virtual machine: root in it has every capability of the guest";
        [
            (network, "--network", no_network),
            (!self.publish.is_empty(), "--publish", no_network),
            (self.publish_all, "--publish-all", no_network),
            (!self.link.is_empty(), "--link", no_network),
            (!self.dns.is_empty(), "--dns", no_network),
            (!self.add_host.is_empty(), "--add-host", no_network),
            (!self.volume.is_empty(), "--volume", no_volumes),
            (!self.mount.is_empty(), "--mount", no_volumes),
            (
                !self.device.is_empty(),
                "--device",
                "Host devices cannot be given to a sandbox",
            ),
            (
                self.gpus.is_some(),
                "--gpus",
                "Host devices cannot be given to a sandbox",
            ),
            (!self.cap_add.is_empty(), "--cap-add", is_vm),
            (!self.cap_drop.is_empty(), "--cap-drop", is_vm),
            (!self.security_opt.is_empty(), "--security-opt", is_vm),
            (self.privileged, "--privileged", is_vm),
            (
                self.restart.is_some(),
                "--restart",
                "Start it again with `coffer restart`",
            ),
            (
                self.health_cmd.is_some(),
                "--health-cmd",
                "Check it with `coffer exec`",
            ),
        ]
        .into_iter()
        .find_map(|(asked, flag, hint)| asked.then_some((flag, hint)))
    }
}

/// Create a sandbox and run a command in it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coffer run --rm debian:12 uname -a\n  coffer run --rm -it debian:12 bash\n  coffer run -d --name web debian:12 sleep 1h"
)]
pub(crate) struct RunArgs {
    /// Remove the sandbox when its command ends
    #[arg(long)]
    pub(crate) rm: bool,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
}

/// Create a sandbox.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Remove the sandbox when its command ends
    #[arg(long)]
    pub(crate) rm: bool,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
}

/// Run one more command.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coffer exec web ps\n  coffer exec -it web bash\n  tar c . | coffer exec -i web tar x -C /srv"
)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// Sandbox
    pub(crate) sandbox: String,
    /// Command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<String>,
}

impl SandboxArgs {
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    pub(crate) fn command(&self) -> &[String] {
        without_dashes(&self.words)
    }
}

impl ExecArgs {
    pub(crate) fn command(&self) -> &[String] {
        without_dashes(&self.words)
    }
}

/// `IMAGE -- CMD` means the same as `IMAGE CMD`; only the first two dashes are ours.
fn without_dashes(words: &[String]) -> &[String] {
    match words {
        [first, rest @ ..] if first == "--" => rest,
        all => all,
    }
}
