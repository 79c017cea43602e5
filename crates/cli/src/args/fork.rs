//! `fork`, with the flags of `run` as far as a fork can differ from its source.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use cofferdam::ByteSize;

use super::{Cpus, EnvArgs, LeaseArgs, boolean};

/// Make new sandboxes from one.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coffer fork web\n  coffer fork -c 4 -n try -l round=2 web\n  coffer fork -e SEED=7 -m 256m SNAPSHOT"
)]
pub(crate) struct ForkArgs {
    /// Name of the fork; of several, the start of their names
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// How many
    #[arg(short, long, default_value_t = 1, value_name = "NUMBER")]
    pub(crate) count: u32,
    /// Take only the disk; the forks are started like any other sandbox
    #[arg(long)]
    pub(crate) disk_only: bool,
    #[command(flatten)]
    pub(crate) variables: EnvArgs,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Processors; of a live source at most as many as it has
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<Cpus>,
    /// Memory; of a live source at most as much as it has
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// Host name; of several, the start of their host names
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Working directory of later processes
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Remove the fork when its command ends; as its source by default
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_parser = boolean::parse)]
    pub(crate) rm: Option<bool>,
    #[command(flatten)]
    pub(crate) lease: LeaseArgs,
    /// Publish a port of the fork; those of the source stay the source's
    #[arg(short, long, value_name = "[[IP:]HOST:]PORT[/udp]")]
    pub(crate) publish: Vec<String>,
    /// Another name of the forks on the source's networks, whose own names stay
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub(crate) network_alias: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) fixed: FixedArgs,
    /// Sandbox or snapshot
    pub(crate) source: String,
}

/// Flags of `run` about what a fork has from its source: its processes, mounts and machine. Long
/// name, short name, whether it takes a value. Sorted.
#[rustfmt::skip]
const FIXED: &[(&str, Option<char>, bool)] = &[
    ("backend", None, true),
    ("cap-add", None, true),
    ("cap-drop", None, true),
    ("cpu-shares", None, true),
    ("cpuset-cpus", None, true),
    ("detach", Some('d'), false),
    ("disk", None, true),
    ("entrypoint", None, true),
    ("group-add", None, true),
    ("init", None, false),
    ("interactive", Some('i'), false),
    ("kernel", None, true),
    ("memory-reservation", None, true),
    ("memory-swap", None, true),
    ("network", None, true),
    ("pids-limit", None, true),
    ("platform", None, true),
    ("privileged", None, false),
    ("pull", None, true),
    ("read-only", None, false),
    ("security-opt", None, true),
    ("shm-size", None, true),
    ("stop-signal", None, true),
    ("stop-timeout", None, true),
    ("tmpfs", None, true),
    ("tty", Some('t'), false),
    ("ulimit", None, true),
    ("user", Some('u'), true),
    ("volume", Some('v'), true),
];

/// The first flag that asks for what cannot differ.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FixedArgs(Option<&'static str>);

impl FixedArgs {
    /// Its long name without dashes.
    pub(crate) const fn refused(self) -> Option<&'static str> {
        self.0
    }
}

impl Args for FixedArgs {
    fn augment_args(command: Command) -> Command {
        let fixed = FIXED.iter().map(|(name, short, has_value)| {
            let action = match has_value {
                true => ArgAction::Append,
                false => ArgAction::SetTrue,
            };
            let flag = Arg::new(*name).long(*name).hide(true).action(action);
            match short {
                Some(short) => flag.short(*short),
                None => flag,
            }
        });
        command.args(fixed)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FixedArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let mut names = FIXED.iter().map(|(name, ..)| *name);
        Ok(Self(names.find(|name| is_given(name))))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{
        super::{Cli, Verb},
        *,
    };

    fn parsed(line: &[&str]) -> ForkArgs {
        let line = ["coffer", "fork"].iter().chain(line).chain(&["source"]);
        let line: Vec<OsString> = line.map(OsString::from).collect();
        match Cli::read(&line).map(|cli| cli.verb) {
            Ok(Verb::Fork(args)) => args,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn what_a_fork_has_from_its_source_is_refused_by_name() {
        for (name, short, has_value) in FIXED {
            let long = format!("--{name}");
            let short = short.map(|short| format!("-{short}"));
            for flag in [Some(long), short].into_iter().flatten() {
                let line = [flag.as_str(), "value"];
                let args = parsed(if *has_value { &line[..] } else { &line[..1] });
                assert_eq!(args.fixed.refused(), Some(*name), "{flag}");
            }
        }
        assert_eq!(parsed(&["-e", "A=1"]).fixed.refused(), None);
    }

    #[test]
    fn whether_a_fork_is_removed_may_be_left_open() {
        assert_eq!(parsed(&[]).rm, None);
        assert_eq!(parsed(&["--rm"]).rm, Some(true));
        assert_eq!(parsed(&["--rm=false"]).rm, Some(false));
    }
}
