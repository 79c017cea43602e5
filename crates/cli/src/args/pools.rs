//! Verbs about pools.

use super::SandboxArgs;

/// What to do with pools.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PoolVerb {
    /// Keep standby machines of an image, which `run` claims
    Create(Box<PoolCreateArgs>),
    /// List pools
    #[command(visible_alias = "ls")]
    List(PoolListArgs),
    /// End the standbys of pools and remove these
    Rm(PoolRmArgs),
}

/// Make a pool.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "coffer pool create [OPTIONS] IMAGE"
)]
pub(crate) struct PoolCreateArgs {
    /// How many standbys
    #[arg(long, default_value_t = 2, value_name = "NUMBER")]
    pub(crate) size: u32,
    /// Run a shell command in each to its end first
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
}

/// List pools.
#[derive(Debug, clap::Args)]
pub(crate) struct PoolListArgs {
    /// Only names
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Remove pools.
#[derive(Debug, clap::Args)]
pub(crate) struct PoolRmArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[arg(required = true)]
    pub(crate) pools: Vec<String>,
}
