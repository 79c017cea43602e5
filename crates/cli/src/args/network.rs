//! Flags about a sandbox's network. Names are Docker's where the thing is the same.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use cofferdam::{ByteSize, HostEntry, MacAddress};

/// The network of a sandbox.
#[derive(Debug, Default, Args)]
pub(crate) struct NetworkArgs {
    /// `default` (if not given) reaches public addresses; `none`; or a named network
    #[arg(long, visible_alias = "net", value_name = "NAME")]
    pub(crate) network: Vec<String>,
    /// Another name of the sandbox on its named networks
    #[arg(
        long,
        visible_alias = "net-alias",
        value_name = "NAME",
        help_heading = "Network"
    )]
    pub(crate) network_alias: Vec<String>,
    /// IPv4 address on the named network; the lowest that is free by default
    #[arg(long, value_name = "IP", help_heading = "Network")]
    pub(crate) ip: Option<Ipv4Addr>,
    /// Publish a port of the sandbox on 127.0.0.1, or on the address that is given
    #[arg(
        short,
        long,
        value_name = "[[IP:]HOST:]PORT[/udp]",
        help_heading = "Network"
    )]
    pub(crate) publish: Vec<String>,
    /// Publish the ports that the image exposes, on free ports of 127.0.0.1
    #[arg(short = 'P', long, help_heading = "Network")]
    pub(crate) publish_all: bool,
    #[command(flatten)]
    pub(crate) rules: RuleArgs,
    /// File (`-`: standard input) with a profile and rules, after --allow and --deny
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    pub(crate) policy: Option<PathBuf>,
    /// What may be reached where no rule matches: `public`, `none` or `all`
    #[arg(long, value_name = "PROFILE", help_heading = "Network")]
    pub(crate) network_profile: Option<String>,
    #[command(flatten)]
    pub(crate) rate: RateArgs,
    /// Write all frames into a file, in pcap format
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    pub(crate) net_capture: Option<PathBuf>,
    /// MAC address of the interface, such as 02:00:5e:10:00:01
    #[arg(long, value_name = "MAC", help_heading = "Network")]
    pub(crate) mac_address: Option<MacAddress>,
    /// Resolver that the sandbox's gateway asks; the host's by default
    #[arg(long, value_name = "IP", help_heading = "Network")]
    pub(crate) dns: Vec<IpAddr>,
    /// Domain that is searched for short names
    #[arg(long, value_name = "DOMAIN", help_heading = "Network")]
    pub(crate) dns_search: Vec<String>,
    /// Option of the resolver in the sandbox; see resolv.conf(5)
    #[arg(
        long,
        visible_alias = "dns-opt",
        value_name = "OPTION",
        help_heading = "Network"
    )]
    pub(crate) dns_option: Vec<String>,
    /// Secret for HTTPS requests to HOST; the sandbox has a placeholder in $NAME
    ///
    /// The value is that of the caller's variable NAME, the content of a file, or the text itself.
    /// The last `:` begins the hosts, such as `api.example.com` or `*.example.com`. It goes into
    /// headers, and with the words `query` and `body` among the hosts also there.
    #[arg(
        long,
        value_name = "NAME[=VALUE|=@FILE]:HOST[,HOST]",
        help_heading = "Network"
    )]
    pub(crate) secret: Vec<String>,
    /// Host whose TLS stays closed, as for programs with pinned certificates
    #[arg(long, value_name = "HOST", help_heading = "Network")]
    pub(crate) secret_bypass: Vec<String>,
    /// Name in the sandbox's /etc/hosts; the IP `host-gateway` is the host
    #[arg(long, value_name = "NAME:IP", help_heading = "Network")]
    pub(crate) add_host: Vec<HostEntry>,
}

/// Rate limits.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct RateArgs {
    /// Most bytes per second from the sandbox, such as 10m; 0 for no limit
    #[arg(long, value_name = "SIZE", help_heading = "Network")]
    pub(crate) rate_up: Option<ByteSize>,
    /// Most bytes per second to the sandbox, such as 10m; 0 for no limit
    #[arg(long, value_name = "SIZE", help_heading = "Network")]
    pub(crate) rate_down: Option<ByteSize>,
}

/// `port`.
#[derive(Debug, Args)]
pub(crate) struct PortArgs {
    /// Sandbox
    pub(crate) sandbox: String,
    /// Only this port of the sandbox
    #[arg(value_name = "PORT[/udp]")]
    pub(crate) port: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `--allow` and `--deny` in the order in which they were given, as rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleArgs(pub(crate) Vec<String>);

const ACTIONS: [(&str, &str); 2] = [
    (
        "allow",
        "Let it reach TARGET[:PORTS][/tcp|udp|icmp]; the first rule that matches decides",
    ),
    (
        "deny",
        "Keep it from reaching TARGET[:PORTS][/tcp|udp|icmp]",
    ),
];

impl Args for RuleArgs {
    fn augment_args(command: Command) -> Command {
        let flag = |(name, help): (&'static str, &'static str)| {
            Arg::new(name)
                .long(name)
                .value_name("RULE")
                .action(ArgAction::Append)
                .help_heading("Network")
                .help(help)
        };
        command.args(ACTIONS.map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RuleArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut all = Vec::new();
        for (action, _) in ACTIONS {
            let places = matches.indices_of(action).into_iter().flatten();
            let values = matches.get_many::<String>(action).into_iter().flatten();
            all.extend(places.zip(values.map(|rule| format!("{action} {rule}"))));
        }
        all.sort_by_key(|(place, _)| *place);
        Ok(Self(all.into_iter().map(|(_, rule)| rule).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::{Cli, Verb};

    #[test]
    fn rules_keep_the_order_of_the_command_line() {
        let line =
            "coffer run --deny a.example --allow 192.0.2.0/24:1-9 --deny any --allow host:80 x";
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let Verb::Run(args) = Cli::read(&line).unwrap().verb else {
            panic!("{line:?}")
        };
        assert_eq!(
            args.sandbox.network.rules.0,
            [
                "deny a.example",
                "allow 192.0.2.0/24:1-9",
                "deny any",
                "allow host:80"
            ]
        );
    }
}
