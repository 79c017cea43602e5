//! `run`, `create` and `exec`.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::ArgAction;
use cofferdam::{ByteSize, CpuCount, Platform, PullPolicy, Signal};

use super::{
    LeaseArgs, NetworkArgs, UnsupportedArgs,
    lifecycle::{DetachArgs, ProxyArgs},
    privileges::PrivilegeArgs,
};

/// The environment of processes, in every verb that sets one.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct EnvArgs {
    /// Set a variable; without a value, take the caller's
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Set the variables in a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
}

/// A process of a sandbox.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ProcessArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    #[command(flatten)]
    pub(crate) variables: EnvArgs,
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
    /// Remove the sandbox when its command ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// Run a shell command in each fork and restore before its processes go on
    #[arg(long, value_name = "COMMAND")]
    pub(crate) on_fork: Option<String>,
    /// Name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Host name in the guest
    // Docker's letter; `--help` has no short form here.
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Replace the image's entrypoint; empty clears it
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Processors, whole or fractional
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<Cpus>,
    /// Memory, such as 512m or 2g
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// Memory and swap together; a guest has no swap. -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<Memory>,
    /// Memory kept for the command under pressure
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_reservation: Option<ByteSize>,
    /// Most processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Relative processor weight, 2 to 262144
    #[arg(short, long, value_name = "WEIGHT")]
    pub(crate) cpu_shares: Option<u32>,
    /// Processors the command may use, such as 0-1
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Set a limit, such as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// Size of the disk for the sandbox's writes
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<ByteSize>,
    /// Make the root read-only
    #[arg(long, conflicts_with = "disk")]
    pub(crate) read_only: bool,
    /// Mount a tmpfs; options size=, mode=, uid=, gid=, ro, exec
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
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Warm no interpreter of the image ahead, in its template and standbys
    #[arg(long)]
    pub(crate) no_warm: bool,
    /// Boot this kernel
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<String>,
    /// Run on this backend; see `coffer doctor`
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    #[command(flatten)]
    pub(crate) privileges: PrivilegeArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) unsupported: UnsupportedArgs,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Image, then the command and its arguments
    // One list, so that all that follows the image is the command's, whatever it looks like.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "IMAGE",
        hide = true
    )]
    words: Vec<String>,
}

/// Create a sandbox and run a command in it.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "coffer run [OPTIONS] IMAGE [COMMAND] [ARG]...",
    after_help = "Examples:\n  coffer run --rm debian:12 uname -a\n  coffer run --rm -it debian:12 bash\n  coffer run -d --name web debian:12 sleep 1h"
)]
pub(crate) struct RunArgs {
    /// Run in the background and print the id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// End it when this command dies, unless it was left by the detach keys
    #[arg(long, conflicts_with = "detach")]
    pub(crate) kill_with_client: bool,
    /// Attach only to stdin, stdout or stderr
    #[arg(short, long, value_name = "STREAM", ignore_case = true)]
    #[arg(conflicts_with = "detach")]
    pub(crate) attach: Vec<Stream>,
    /// Write the id into this new file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) lease: LeaseArgs,
    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,
    #[command(flatten)]
    pub(crate) detaching: DetachArgs,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
}

/// A stream that can be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Stream {
    /// Standard input
    Stdin,
    /// Standard output
    Stdout,
    /// Standard error
    Stderr,
}

/// Processors as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cpus {
    /// 0: the default.
    Default,
    /// So many.
    Count(CpuCount),
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_zero = text.starts_with('0') && text.parse() == Ok(0.0_f64);
        match is_zero {
            true => Ok(Self::Default),
            false => text.parse().map(Self::Count),
        }
    }
}

/// An amount of memory, or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// -1: no limit.
    Unlimited,
    /// So much; 0 is the default.
    Size(ByteSize),
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "-1" => Ok(Self::Unlimited),
            size => size
                .parse()
                .map(Self::Size)
                .map_err(|error: cofferdam::ParseSizeError| error.to_string()),
        }
    }
}

/// Create a sandbox.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "coffer create [OPTIONS] IMAGE [COMMAND] [ARG]..."
)]
pub(crate) struct CreateArgs {
    /// Streams, as in Docker; `start --attach` is what follows them
    #[arg(short, long, value_name = "STREAM", ignore_case = true)]
    attach: Vec<Stream>,
    /// Write the id into this new file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) lease: LeaseArgs,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
}

/// Run one more command.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "coffer exec [OPTIONS] SANDBOX COMMAND [ARG]...",
    after_help = "Examples:\n  coffer exec web ps\n  coffer exec -it web bash\n  tar c . | coffer exec -i web tar x -C /srv"
)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Kill it with its children when this command dies
    #[arg(long, conflicts_with = "detach")]
    pub(crate) kill_with_client: bool,
    /// End it after a time, such as 90, 10s or 5m, with exit code 124
    #[arg(long, value_name = "TIME", value_parser = crate::time::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Wait until all that write to its output have ended, not only for 2 seconds
    #[arg(long, conflicts_with = "detach")]
    pub(crate) wait_all: bool,
    /// Give it every capability of the guest
    #[arg(long)]
    pub(crate) privileged: bool,
    #[command(flatten)]
    pub(crate) detaching: DetachArgs,
    /// Sandbox, then the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true)]
    #[arg(value_names = ["SANDBOX", "COMMAND"])]
    words: Vec<String>,
}

impl SandboxArgs {
    pub(crate) fn image(&self) -> &str {
        // Required, so there.
        self.words.first().map_or("", String::as_str)
    }

    /// All behind the image. Two dashes there are an argument of an entrypoint; without one the
    /// runtime passes over them.
    pub(crate) fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

impl ExecArgs {
    pub(crate) fn sandbox(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// `SANDBOX -- CMD` means the same as `SANDBOX CMD`; only the first two dashes are ours.
    pub(crate) fn command(&self) -> &[String] {
        match self.words.as_slice() {
            [_, dashes, rest @ ..] if dashes == "--" => rest,
            [_, rest @ ..] => rest,
            [] => &[],
        }
    }
}
