//! Verbs about moments: pauses, snapshots, forks.

use std::path::PathBuf;

/// Stop sandboxes where they are, or let them go on.
#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    #[arg(required = true)]
    pub(crate) sandboxes: Vec<String>,
}

/// Bring a sandbox back.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// Name of the sandbox, if it is gone; else it keeps its own
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// Take only the disk of a full snapshot; the sandbox is there to be started
    #[arg(long)]
    pub(crate) disk_only: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    pub(crate) snapshot: String,
}

/// What to do with snapshots.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SnapshotVerb {
    /// Take a snapshot of a sandbox
    Create(SnapshotCreateArgs),
    /// List snapshots
    #[command(visible_alias = "ls")]
    List(SnapshotListArgs),
    /// Print all about snapshots as JSON
    Inspect(SnapshotNamesArgs),
    /// Read snapshots and compare them with what was written
    Verify(SnapshotNamesArgs),
    /// Remove snapshots
    Rm(SnapshotNamesArgs),
    /// Remove all snapshots without a name
    Prune(SnapshotPruneArgs),
    /// Write a snapshot as one file
    Export(SnapshotExportArgs),
    /// Read a snapshot from one file
    Import(SnapshotImportArgs),
}

/// Take a snapshot.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotCreateArgs {
    /// Memory, devices and disk; the default for a live sandbox
    #[arg(long, conflicts_with = "disk")]
    pub(crate) full: bool,
    /// The disk alone; the default for a stopped sandbox
    #[arg(long)]
    pub(crate) disk: bool,
    /// Name
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    pub(crate) sandbox: String,
}

/// List snapshots.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotListArgs {
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which snapshots.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotNamesArgs {
    #[arg(required = true)]
    pub(crate) snapshots: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Remove snapshots that nobody named.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotPruneArgs {
    /// Also those with a name
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Write a snapshot as one file.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotExportArgs {
    /// File to write; standard output by default and for `-`
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Take only the disk of a full snapshot
    #[arg(long)]
    pub(crate) disk_only: bool,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    pub(crate) snapshot: String,
}

/// Read a snapshot from one file.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotImportArgs {
    /// Name; the one in the file by default
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// File to read; standard input by default
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) input: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// File to read; `-` for standard input
    pub(crate) file: Option<PathBuf>,
}
