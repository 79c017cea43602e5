//! Verbs about sandboxes that exist.

use clap::ValueEnum;
use cofferdam::{SessionId, Signal};

use crate::detach_keys::DetachKeys;

/// How a session is left.
#[derive(Debug, clap::Args)]
pub(crate) struct DetachArgs {
    /// Keys that leave a terminal's session
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT)]
    detach_keys: String,
}

impl DetachArgs {
    /// The keys.
    ///
    /// # Errors
    /// When they are none.
    pub(crate) fn keys(&self) -> cofferdam::Result<DetachKeys> {
        DetachKeys::parse(&self.detach_keys)
    }
}

/// What becomes of signals to this program.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyArgs {
    /// Hand signals on to the command; with false they end only this program
    #[arg(long, value_name = "BOOL", default_value_t = true)]
    #[arg(action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub(crate) sig_proxy: bool,
}

/// Start stopped sandboxes.
#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    /// Follow its output and exit with its code
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Send standard input to it
    #[arg(short, long)]
    pub(crate) interactive: bool,
    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,
    #[command(flatten)]
    pub(crate) detaching: DetachArgs,
    /// Value of a secret for this start: from the variable NAME, a text or a file
    #[arg(long, value_name = "NAME[=VALUE|=@FILE]")]
    pub(crate) secret: Vec<String>,
    #[arg(required = true)]
    pub(crate) sandboxes: Vec<String>,
}

/// Stop running sandboxes.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Seconds from the stop signal to SIGKILL
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS")]
    pub(crate) time: Option<u64>,
    #[arg(required = true)]
    pub(crate) sandboxes: Vec<String>,
}

/// Stop sandboxes and start them again.
#[derive(Debug, clap::Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub(crate) stop: StopArgs,
}

/// Send a signal.
#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// Signal, by name or number
    #[arg(short, long, default_value = "KILL")]
    pub(crate) signal: Signal,
    #[arg(required = true)]
    pub(crate) sandboxes: Vec<String>,
}

/// Remove sandboxes.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Kill those that run, and remove damaged ones
    #[arg(short, long)]
    pub(crate) force: bool,
    #[arg(required = true)]
    pub(crate) sandboxes: Vec<String>,
}

/// List sandboxes.
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only those with name=, id=, status=, exited=, label=, image=, before= or since=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// The newest ones, whatever their status
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub(crate) last: Option<usize>,
    /// The newest one, whatever its status
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Form: table, json or a Go template
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Follow a running sandbox.
#[derive(Debug, clap::Args)]
pub(crate) struct AttachArgs {
    /// Do not send standard input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Follow this command in place of the workload; see `coffer sessions`
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<SessionId>,
    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,
    #[command(flatten)]
    pub(crate) detaching: DetachArgs,
    pub(crate) sandbox: String,
}

/// Print a sandbox's output.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Go on while it runs
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines; `all` or -1 for all
    #[arg(short = 'n', long, value_name = "LINES", allow_negative_numbers = true)]
    pub(crate) tail: Option<String>,
    /// Only since a time: RFC 3339, Unix seconds, or a duration such as 10m
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only before a time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Put the time before each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Print the messages of the guest's kernel instead
    #[arg(long, conflicts_with_all = ["follow", "since", "until", "timestamps"])]
    pub(crate) kernel: bool,
    pub(crate) sandbox: String,
}

/// Print all about something.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Only sandboxes, or only images
    #[arg(long, value_name = "KIND")]
    pub(crate) r#type: Option<InspectKind>,
    /// Form: json or a Go template
    #[arg(short, long, value_name = "FORM")]
    pub(crate) format: Option<String>,
    /// Print JSON, as it does anyway
    #[arg(long)]
    json: bool,
    /// Sandboxes or images
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

/// What a name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectKind {
    /// A sandbox
    #[value(alias = "container")]
    Sandbox,
    /// An image
    Image,
}

/// Wait for the end.
#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    #[arg(required = true)]
    pub(crate) sandboxes: Vec<String>,
}
