//! `net`: the network of one sandbox.

use std::path::PathBuf;

use super::network::{RateArgs, RuleArgs};

/// Show or change the network of a sandbox.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coffer net web\n  coffer net --deny example.com web\n  coffer net --policy FILE --network-profile none web\n  coffer net -p 8080:80 --unpublish 443 web"
)]
pub(crate) struct NetArgs {
    #[command(flatten)]
    pub(crate) rules: RuleArgs,
    /// File (`-`: standard input) whose rules and profile replace those there are
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    pub(crate) policy: Option<PathBuf>,
    /// What may be reached where no rule matches: `public`, `none` or `all`
    #[arg(long, value_name = "PROFILE", help_heading = "Network")]
    pub(crate) network_profile: Option<String>,
    /// Publish one more port
    #[arg(
        short,
        long,
        value_name = "[[IP:]HOST:]PORT[/udp]",
        help_heading = "Network"
    )]
    pub(crate) publish: Vec<String>,
    /// Stop publishing a port; its connections go on
    #[arg(long, value_name = "[[IP:]HOST:]PORT[/udp]", help_heading = "Network")]
    pub(crate) unpublish: Vec<String>,
    #[command(flatten)]
    pub(crate) rate: RateArgs,
    /// Leave flows alone that the changed policy does not allow
    #[arg(long, help_heading = "Network")]
    pub(crate) keep_flows: bool,
    /// End the flows that the policy does not allow; each change does so by default
    #[arg(long, help_heading = "Network", conflicts_with = "keep_flows")]
    pub(crate) reset: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox
    pub(crate) sandbox: String,
}
