//! `events`, `stats`, `top` and `sessions`.

/// Print what happens to sandboxes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coffer events\n  coffer events --since 1h --until 0s --filter type=died\n  coffer events --filter sandbox=web --json"
)]
pub(crate) struct EventsArgs {
    /// Also those since a time: RFC 3339, Unix seconds, or a duration such as 10m
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only those before a time, and end then
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Only those with type=, sandbox= or image=; several of one key are alternatives
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Form: json or a Go template
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<String>,
    /// Print JSON, one event a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print what running sandboxes use.
#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// Print one sample of each and end
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Form: table, json or a Go template
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<String>,
    /// Print JSON, one sandbox a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandboxes; all that run if none is named
    pub(crate) sandboxes: Vec<String>,
}

/// List the processes of a sandbox.
#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox
    pub(crate) sandbox: String,
}

/// List the commands that run beside a sandbox's workload, and kept ones that ended.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coffer exec -d web ./job\n  coffer sessions web\n  coffer attach --session 2 web"
)]
pub(crate) struct SessionsArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Sandbox
    pub(crate) sandbox: String,
}
