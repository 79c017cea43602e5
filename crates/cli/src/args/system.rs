//! Verbs about the store as a whole.

/// What to do with the store.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SystemVerb {
    /// Show what takes room on the disk, and what can be freed
    Df(DfArgs),
}

/// Show what takes room on the disk.
#[derive(Debug, clap::Args)]
pub(crate) struct DfArgs {
    /// Each thing in a row of its own
    #[arg(short = 'v', long = "verbose", id = "df_verbose")]
    pub(crate) each: bool,
    /// Form: table or json
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
