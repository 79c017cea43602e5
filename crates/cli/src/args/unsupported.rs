//! Docker flags that this version does not have. They are known, so that asking for one is
//! answered by its name and not taken for a typing error.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

/// What a flag belongs to; decides what to do without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topic {
    Network,
    Volume,
    Device,
    Privilege,
    Health,
    Log,
    Other,
}

/// A flag: its long and its short name, whether it takes a value, and what it belongs to.
type Flag = (&'static str, Option<char>, bool, Topic);

/// Sorted. Docker's `-v` is not here: ours says where the time goes, for every verb.
/// Source: docker-run(1) of Docker 27.
#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    ("annotation", None, true, Topic::Other),
    ("blkio-weight", None, true, Topic::Other),
    ("blkio-weight-device", None, true, Topic::Other),
    ("cgroup-parent", None, true, Topic::Other),
    ("cgroupns", None, true, Topic::Other),
    ("cpu-period", None, true, Topic::Other),
    ("cpu-quota", None, true, Topic::Other),
    ("cpu-rt-period", None, true, Topic::Other),
    ("cpu-rt-runtime", None, true, Topic::Other),
    ("cpuset-mems", None, true, Topic::Other),
    ("device", None, true, Topic::Device),
    ("device-cgroup-rule", None, true, Topic::Device),
    ("device-read-bps", None, true, Topic::Device),
    ("device-read-iops", None, true, Topic::Device),
    ("device-write-bps", None, true, Topic::Device),
    ("device-write-iops", None, true, Topic::Device),
    ("domainname", None, true, Topic::Network),
    ("expose", None, true, Topic::Network),
    ("gpus", None, true, Topic::Device),
    ("health-cmd", None, true, Topic::Health),
    ("health-interval", None, true, Topic::Health),
    ("health-retries", None, true, Topic::Health),
    ("health-start-period", None, true, Topic::Health),
    ("health-timeout", None, true, Topic::Health),
    ("ip6", None, true, Topic::Network),
    ("ipc", None, true, Topic::Other),
    ("isolation", None, true, Topic::Other),
    ("label-file", None, true, Topic::Other),
    ("link", None, true, Topic::Network),
    ("link-local-ip", None, true, Topic::Network),
    ("log-driver", None, true, Topic::Log),
    ("log-opt", None, true, Topic::Log),
    ("memory-swappiness", None, true, Topic::Other),
    ("mount", None, true, Topic::Volume),
    ("no-healthcheck", None, false, Topic::Health),
    ("oom-kill-disable", None, false, Topic::Other),
    ("oom-score-adj", None, true, Topic::Other),
    ("pid", None, true, Topic::Other),
    ("restart", None, true, Topic::Other),
    ("runtime", None, true, Topic::Other),
    ("storage-opt", None, true, Topic::Other),
    ("sysctl", None, true, Topic::Other),
    ("userns", None, true, Topic::Privilege),
    ("uts", None, true, Topic::Other),
    ("volume", Some('v'), true, Topic::Volume),
    ("volume-driver", None, true, Topic::Volume),
    ("volumes-from", None, true, Topic::Volume),
];

/// Values of flags that are so already.
const SO_ALREADY: &[(&str, &[&str])] = &[
    ("cgroupns", &["private", ""]),
    ("ipc", &["private", ""]),
    ("isolation", &["default", ""]),
    ("log-driver", &["json-file", ""]),
    ("no-healthcheck", &["true", "false"]),
    ("oom-kill-disable", &["false"]),
    ("pid", &[""]),
    ("restart", &["no", ""]),
    ("userns", &[""]),
    ("uts", &[""]),
];

/// The first flag that asks for what is not there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UnsupportedArgs(Option<(&'static str, Topic)>);

impl UnsupportedArgs {
    /// Its long name without dashes, and what to do without it.
    pub(crate) const fn refused(self) -> Option<(&'static str, &'static str)> {
        match self.0 {
            Some((name, topic)) => Some((name, topic.hint())),
            None => None,
        }
    }
}

impl Topic {
    const fn hint(self) -> &'static str {
        match self {
            Self::Network => {
                "A sandbox has one interface, on a network of its own: see docs/network.md"
            }
            Self::Volume => "Put files into the image, or send them to a command's standard input",
            Self::Device => "Host devices cannot be given to a sandbox",
            Self::Privilege => {
                "A sandbox is a virtual machine: root in it has every capability of the guest"
            }
            Self::Health => "Check it with `coffer exec`",
            Self::Log => {
                "Output is kept as by `--log-driver json-file`; read it with `coffer logs`"
            }
            Self::Other => "See `coffer run --help` for what there is",
        }
    }
}

impl Args for UnsupportedArgs {
    fn augment_args(command: Command) -> Command {
        let unsupported = FLAGS.iter().map(|(name, short, has_value, _)| {
            let action = if *has_value {
                ArgAction::Append
            } else {
                ArgAction::SetTrue
            };
            let flag = Arg::new(*name).long(*name).hide(true).action(action);
            match short {
                Some(short) => flag.short(*short),
                None => flag,
            }
        });
        command.args(unsupported)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for UnsupportedArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let asked = |flag: &&Flag| {
            let is_given = matches.value_source(flag.0) == Some(ValueSource::CommandLine);
            is_given && !is_so_already(matches, flag)
        };
        let first = FLAGS.iter().find(asked);
        Ok(Self(first.map(|(name, _, _, topic)| (*name, *topic))))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Whether all that a flag was given is so without it.
fn is_so_already(matches: &ArgMatches, (name, _, has_value, _): &Flag) -> bool {
    let Some((_, values)) = SO_ALREADY.iter().find(|(known, _)| known == name) else {
        return false;
    };
    if *has_value {
        let mut given = matches.get_many::<String>(name).into_iter().flatten();
        return given.all(|value| values.contains(&value.as_str()));
    }
    let given = matches.get_flag(name).to_string();
    values.contains(&given.as_str())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Cli, Verb},
        *,
    };

    fn unsupported(line: &[&str]) -> Option<&'static str> {
        let line = ["coffer", "run"].iter().chain(line).chain(&["image"]);
        let line: Vec<std::ffi::OsString> = line.map(Into::into).collect();
        match Cli::read(&line).map(|cli| cli.verb) {
            Ok(Verb::Run(args)) => {
                assert_eq!(args.sandbox.image(), "image");
                args.sandbox.unsupported.refused().map(|(name, _)| name)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_so_already_is_no_reason_to_refuse() {
        for line in [
            &["--log-driver", "json-file"][..],
            &["--log-driver=json-file", "--restart=no"],
            &["--no-healthcheck"],
            &["--oom-kill-disable=false", "-P=false"],
            &["--cgroupns", "private", "--ipc", "private"],
        ] {
            assert_eq!(unsupported(line), None, "{line:?}");
        }
        for (line, name) in [
            (&["--log-driver", "none"][..], "log-driver"),
            (&["--restart", "always"], "restart"),
            (&["--oom-kill-disable"], "oom-kill-disable"),
            (&["--ipc=host"], "ipc"),
        ] {
            assert_eq!(unsupported(line), Some(name), "{line:?}");
        }
    }

    #[test]
    fn every_flag_is_refused_by_its_own_name_in_every_spelling() {
        let refused = |flag: &&Flag| flag.0 != "no-healthcheck";
        for (name, short, has_value, _) in FLAGS.iter().filter(refused) {
            let long = format!("--{name}");
            let short = short.map(|short| format!("-{short}"));
            for flag in [Some(long), short].into_iter().flatten() {
                let line = [flag.as_str(), "value"];
                let line = if *has_value { &line[..] } else { &line[..1] };
                assert_eq!(unsupported(line), Some(*name), "{flag}");
            }
        }
    }
}
