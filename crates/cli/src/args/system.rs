//! Verbs about the store as a whole.

use super::{DataArgs, EventsArgs, PruneArgs};

/// What to do with the store.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SystemVerb {
    /// Show what takes room on the disk, and what can be freed; with -v each thing
    Df(DfArgs),
    /// Print what happens to sandboxes, as it happens
    Events(EventsArgs),
    /// Show the store, the counts and the backend
    Info(DataArgs),
    /// Remove stopped sandboxes and images without a name
    Prune(PruneArgs),
}

/// Show what takes room on the disk; with `-v` or `--verbose` each thing in a row.
#[derive(Debug, clap::Args)]
pub(crate) struct DfArgs {
    /// Form: table, json or a Go template
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show each thing in a row, as `--verbose` does
    #[arg(short = 'v')]
    pub(crate) each: bool,
}
