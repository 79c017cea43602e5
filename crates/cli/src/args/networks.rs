//! Verbs about named networks.

use std::net::Ipv4Addr;

use cofferdam::Subnet;

/// What to do with networks.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NetworkVerb {
    /// Make a network on which sandboxes reach each other by name
    Create(NetworkCreateArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(NetworkListArgs),
    /// Print all about networks as JSON
    Inspect(NetworkInspectArgs),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(NetworkRmArgs),
    /// Remove the networks that no sandbox is on
    Prune(NetworkPruneArgs),
    /// Put a sandbox on a network, also while it runs
    Connect(NetworkConnectArgs),
    /// Take a sandbox off a network, also while it runs
    Disconnect(NetworkDisconnectArgs),
}

/// Make a network.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkCreateArgs {
    /// IPv4 subnet, such as 10.77.0.0/24; one of 198.19.0.0/16 by default
    #[arg(long, value_name = "SUBNET")]
    pub(crate) subnet: Option<Subnet>,
    /// Let its members reach each other alone
    #[arg(long)]
    pub(crate) internal: bool,
    /// Label
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Name of the network
    pub(crate) name: String,
}

/// List networks.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkListArgs {
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only those that fit: name, id, label, dangling
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Form: table, json or a Go template
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Inspect networks.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkInspectArgs {
    /// Form: json or a Go template
    #[arg(short, long, value_name = "FORM")]
    pub(crate) format: Option<String>,
    /// Names or ids of networks
    #[arg(required = true)]
    pub(crate) networks: Vec<String>,
}

/// Remove networks.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkRmArgs {
    /// Succeed where there is no such network
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names or ids of networks
    #[arg(required = true)]
    pub(crate) networks: Vec<String>,
}

/// Remove networks that nobody uses.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkPruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// Put a sandbox on a network.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkConnectArgs {
    /// Another name of the sandbox on the network
    #[arg(long, value_name = "NAME")]
    pub(crate) alias: Vec<String>,
    /// IPv4 address; the lowest that is free by default
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<Ipv4Addr>,
    /// Name or id of the network
    pub(crate) network: String,
    /// Name or id of the sandbox
    pub(crate) sandbox: String,
}

/// Take a sandbox off a network.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkDisconnectArgs {
    /// Name or id of the network
    pub(crate) network: String,
    /// Name or id of the sandbox
    pub(crate) sandbox: String,
}
