//! The command line: Docker's names and letters wherever the thing is the same.

mod boolean;
mod config;
mod container;
mod elsewhere;
mod events;
mod fork;
mod forward;
mod images;
mod lease;
mod lifecycle;
mod net;
mod network;
mod networks;
mod pools;
mod privileges;
mod run;
mod snapshots;
mod system;
mod templates;
mod unsupported;

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub(crate) use self::config::ConfigVerb;
pub(crate) use self::container::ContainerVerb;
pub(crate) use self::elsewhere::{hint as hint_for_verb, is_noun};
pub(crate) use self::events::{EventsArgs, SessionsArgs, StatsArgs, TopArgs};
pub(crate) use self::fork::ForkArgs;
pub(crate) use self::forward::{Forward, ForwardArgs, Guest};
pub(crate) use self::images::{
    HistoryArgs, ImageInspectArgs, ImageVerb, ImagesArgs, LoadArgs, PruneArgs, PullArgs, RmiArgs,
    SaveArgs, TagArgs,
};
pub(crate) use self::lease::{LeaseArgs, TimeoutArgs};
pub(crate) use self::lifecycle::{
    AttachArgs, InspectArgs, InspectKind, KillArgs, LogsArgs, PsArgs, RestartArgs, RmArgs,
    StartArgs, StopArgs, WaitArgs,
};
pub(crate) use self::net::NetArgs;
pub(crate) use self::network::{NetworkArgs, PortArgs};
pub(crate) use self::networks::{
    NetworkConnectArgs, NetworkCreateArgs, NetworkDisconnectArgs, NetworkInspectArgs,
    NetworkListArgs, NetworkPruneArgs, NetworkRmArgs, NetworkVerb,
};
pub(crate) use self::pools::{PoolCreateArgs, PoolListArgs, PoolRmArgs, PoolVerb};
pub(crate) use self::run::{
    Cpus, CreateArgs, EnvArgs, ExecArgs, Memory, RunArgs, SandboxArgs, Stream,
};
pub(crate) use self::snapshots::{
    PauseArgs, RestoreArgs, SnapshotCreateArgs, SnapshotExportArgs, SnapshotImportArgs,
    SnapshotListArgs, SnapshotNamesArgs, SnapshotPruneArgs, SnapshotVerb,
};
pub(crate) use self::unsupported::UnsupportedArgs;

pub(crate) use self::system::{DfArgs, SystemVerb};
pub(crate) use self::templates::{
    TemplateBuildArgs, TemplateListArgs, TemplateRmArgs, TemplateVerb,
};

/// Run code that you did not write in microVMs.
#[derive(Debug, Parser)]
#[command(
    name = "coffer",
    version,
    // As in Docker, the last of a repeated flag counts.
    args_override_self = true
)]
pub(crate) struct Cli {
    /// Print where the time of a start went
    #[arg(long, global = true)]
    pub(crate) timings: bool,
    /// Print what is done on the way
    #[arg(long, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Cli {
    /// Reads a command line, in which flags may have a truth value.
    ///
    /// # Errors
    /// A usage error, or a text that was asked for.
    pub(crate) fn read(argv: &[OsString]) -> Result<Self, clap::Error> {
        let mut command = boolean::with_values(Self::command());
        let read = command
            .try_get_matches_from_mut(argv)
            .and_then(|matches| Self::from_arg_matches(&matches));
        match read {
            // Help shows the flags as people write them.
            Err(error) if boolean::is_help(&error) => match Self::try_parse_from(argv) {
                Err(plain) if boolean::is_help(&plain) => Err(plain),
                _ => Err(error),
            },
            other => other,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a sandbox and run a command in it
    Run(Box<RunArgs>),
    /// Create a sandbox without starting it
    Create(Box<CreateArgs>),
    /// Start stopped sandboxes
    Start(StartArgs),
    /// Stop running sandboxes
    Stop(StopArgs),
    /// Stop sandboxes and start them again
    Restart(RestartArgs),
    /// Send a signal to running sandboxes
    Kill(KillArgs),
    /// Stop running sandboxes where they are
    Pause(PauseArgs),
    /// Let paused sandboxes go on
    Unpause(PauseArgs),
    /// Change when a running sandbox's time is over
    Timeout(TimeoutArgs),
    /// Remove sandboxes
    Rm(RmArgs),
    /// List sandboxes
    Ps(PsArgs),
    /// Run one more command in a running sandbox
    Exec(Box<ExecArgs>),
    /// Follow a running sandbox's input and output
    Attach(AttachArgs),
    /// Print a sandbox's output
    Logs(LogsArgs),
    /// Print what happens to sandboxes, as it happens
    Events(EventsArgs),
    /// Print what running sandboxes use, once a second
    Stats(StatsArgs),
    /// List the processes of a running sandbox
    Top(TopArgs),
    /// List the commands that run beside a sandbox's workload, and kept ones that ended
    Sessions(SessionsArgs),
    /// Print all about sandboxes or images as JSON
    Inspect(InspectArgs),
    /// Wait until sandboxes have stopped and print their exit codes
    Wait(WaitArgs),
    /// List the published ports of a sandbox
    Port(PortArgs),
    /// Show or change the network of a sandbox: policy, ports, flows, denials
    Net(Box<NetArgs>),
    /// Lead ports of the host to servers in a sandbox, also without a network
    Forward(ForwardArgs),
    /// Make new sandboxes from a sandbox as it is now, or from a snapshot
    Fork(ForkArgs),
    /// Take, list, check, move and remove snapshots
    #[command(subcommand)]
    Snapshot(SnapshotVerb),
    /// Make, list and remove the templates from which sandboxes start
    #[command(subcommand)]
    Template(TemplateVerb),
    /// Keep standby machines that `run` claims
    #[command(subcommand)]
    Pool(PoolVerb),
    /// Make, list, change and remove networks of sandboxes
    #[command(subcommand)]
    Network(NetworkVerb),
    /// Read and change the settings of the store
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Bring the sandbox of a snapshot back
    Restore(RestoreArgs),
    /// List images
    Images(ImagesArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Load images from a docker archive or an OCI layout
    Load(LoadArgs),
    /// Save images to an archive
    Save(SaveArgs),
    /// Give an image one more name
    Tag(TagArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Show how an image was made
    History(HistoryArgs),
    /// Remove stopped sandboxes and images without a name
    Prune(PruneArgs),
    /// Manage images
    #[command(subcommand, hide = true)]
    Image(ImageVerb),
    /// Manage sandboxes
    #[command(subcommand, hide = true)]
    Container(ContainerVerb),
    /// Show and clean the store
    #[command(subcommand)]
    System(SystemVerb),
    /// Say what this host can do, and what mends the rest
    Doctor(DataArgs),
    /// Show the store, the counts and the backend
    Info(DataArgs),
    /// Print the version
    Version(DataArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
}

/// A verb that prints data.
#[derive(Debug, clap::Args)]
pub(crate) struct DataArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which shell.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Cli {
        try_parse(words).unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    fn try_parse(words: &str) -> Result<Cli, clap::Error> {
        let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        Cli::read(&words)
    }

    #[test]
    fn a_flag_may_have_a_truth_value_and_takes_no_word_for_one() {
        for (words, rm, interactive, tty, command) in [
            ("coffer run --rm=true x false", true, false, false, "false"),
            ("coffer run --rm -it x true", true, true, true, "true"),
            (
                "coffer run --rm --rm=false -i=1 x y",
                false,
                true,
                false,
                "y",
            ),
            ("coffer run -ti=false --tty=T x y", false, false, true, "y"),
            (
                "coffer run -i -t=0 x --rm=true",
                false,
                true,
                false,
                "--rm=true",
            ),
        ] {
            let Verb::Run(args) = parse(words).verb else {
                panic!("{words}")
            };
            let process = &args.sandbox.process;
            assert_eq!(
                (args.sandbox.rm, process.interactive, process.tty),
                (rm, interactive, tty),
                "{words}"
            );
            assert_eq!(args.sandbox.command(), [command], "{words}");
        }
        assert!(parse("coffer --verbose=true run x").verbose && !parse("coffer run x").verbose);
        assert!(parse("coffer run --timings x").timings);
        // Docker's `-v` is a volume, and takes a value.
        assert!(try_parse("coffer run -v x").is_err());
        assert!(try_parse("coffer ps -v").is_err());
        let Verb::Ps(args) = parse("coffer ps -aq=true --no-trunc=false").verb else {
            panic!()
        };
        assert!(args.all && args.quiet && !args.no_trunc);
        assert!(try_parse("coffer run --rm=maybe x").is_err());
    }

    #[test]
    fn help_shows_flags_without_values() {
        let help = try_parse("coffer run --help").unwrap_err().to_string();
        assert!(
            help.contains("--rm ") && !help.contains("--rm[") && !help.contains("--rm ["),
            "{help}"
        );
    }

    #[test]
    fn dockers_longer_names_are_the_same_verbs() {
        for (words, name) in [
            ("coffer container ls -a", "Ps"),
            ("coffer container rm -f a", "Rm"),
            ("coffer container exec a b -c", "Exec"),
            ("coffer container run --rm x", "Run"),
            ("coffer system info", "Info"),
            ("coffer system prune -f", "Prune"),
        ] {
            let verb = format!("{:?}", parse(words).verb.short());
            assert!(verb.starts_with(name), "{words}: {verb}");
        }
    }

    #[test]
    fn a_verb_that_docker_has_gets_a_hint() {
        for words in [
            "coffer build .",
            "coffer cp a b",
            "coffer image push x",
            "coffer container rename a b",
        ] {
            let error = try_parse(words).unwrap_err();
            assert!(hint_for_verb(&error).is_some(), "{words}: {error}");
        }
        for words in ["coffer bulid .", "coffer run --nope x"] {
            assert!(
                hint_for_verb(&try_parse(words).unwrap_err()).is_none(),
                "{words}"
            );
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_may_have_flags_and_dashes_of_its_own() {
        for (words, command) in [
            ("coffer run x ls -la --color", &["ls", "-la", "--color"][..]),
            ("coffer run x -- ls -la", &["--", "ls", "-la"]),
            ("coffer run x", &[]),
        ] {
            let Verb::Run(args) = parse(words).verb else {
                panic!("{words}")
            };
            assert_eq!(args.sandbox.command(), command, "{words}");
        }
        let Verb::Exec(args) = parse("coffer exec x -- echo -- -n").verb else {
            panic!()
        };
        assert_eq!(args.command(), ["echo", "--", "-n"]);
    }

    #[test]
    fn short_flags_combine_and_come_before_the_image() {
        let Verb::Run(args) = parse("coffer run -it --rm -e A=1 -w /w -u 1:2 x sh -i").verb else {
            panic!()
        };
        assert!(args.sandbox.process.interactive && args.sandbox.process.tty && args.sandbox.rm);
        assert_eq!(args.sandbox.command(), ["sh", "-i"]);
    }

    #[test]
    fn what_follows_the_image_is_the_commands_even_if_it_is_a_flag_of_ours() {
        for (words, command) in [
            ("coffer run x --rm -d", ["--rm", "-d"]),
            ("coffer run x -h --pull=never", ["-h", "--pull=never"]),
        ] {
            let Verb::Run(args) = parse(words).verb else {
                panic!("{words}")
            };
            assert_eq!(args.sandbox.command(), command);
            assert!(!args.sandbox.rm && !args.detach && args.sandbox.hostname.is_none());
        }
        let Verb::Exec(args) = parse("coffer exec -i x sh -t -v").verb else {
            panic!()
        };
        assert_eq!((args.sandbox(), args.process.tty), ("x", false));
        assert_eq!(args.command(), ["sh", "-t", "-v"]);
    }

    #[test]
    fn a_command_that_lacks_what_it_needs_is_refused() {
        for words in [
            "run",
            "run --rm",
            "run --nope x",
            "exec",
            "exec x",
            "create",
            "stop",
        ] {
            let words = std::iter::once("coffer").chain(words.split(' '));
            assert!(Cli::try_parse_from(words.clone()).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_last_of_a_repeated_flag_counts_and_lists_grow() {
        let Verb::Run(args) = parse("coffer run --name a --name b -e A=1 -e B=2 x").verb else {
            panic!()
        };
        assert_eq!(args.sandbox.name.as_deref(), Some("b"));
        assert_eq!(args.sandbox.process.variables.env, ["A=1", "B=2"]);
    }

    #[test]
    fn every_flag_has_one_short_line_of_help() {
        fn check(command: &clap::Command) {
            for flag in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(
                    (!help.is_empty() || flag.is_positional()) && help.len() <= 80,
                    "{} {}: {help:?}",
                    command.get_name(),
                    flag.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn help_is_a_verb_too() {
        for (words, part) in [
            ("coffer help", "Usage: coffer"),
            ("coffer help run", "Usage: coffer run"),
            (
                "coffer help snapshot export",
                "Usage: coffer snapshot export",
            ),
        ] {
            let error = Cli::try_parse_from(words.split(' ')).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{words}");
            assert!(error.to_string().contains(part), "{words}: {error}");
        }
    }

    #[test]
    fn dockers_spellings_are_understood() {
        for words in [
            "coffer run -itd -eA=1 -w/x -u=me -m512m -h box -lk=v -c 512 --pids-limit -1 x",
            "coffer run --ulimit nofile=1:2 --cpuset-cpus 0-1 --memory-reservation 1m -q x",
            "coffer run -d --name n --hostname h --label a=b -m 1g --cpus 1.5 x",
            "coffer run --read-only --tmpfs /t:size=1m --shm-size 1m --stop-signal INT x",
            "coffer run --stop-timeout 3 --platform linux/amd64 --pull never --entrypoint e x",
            "coffer ps -aq --no-trunc --filter status=running",
            "coffer stop -t 3 a b",
            "coffer kill -s KILL a",
            "coffer logs -f --tail 3 --since 10m -t a",
            "coffer rm -f a b",
            "coffer load -i file",
            "coffer save -o file a b",
            "coffer rmi -f a",
            "coffer run --cap-drop ALL --cap-add CHOWN --group-add 5 --security-opt label=disable x",
            "coffer run --privileged --init --memory-swap -1 --log-driver json-file x",
            "coffer run -a stdout -a STDERR --sig-proxy=false --cidfile f x",
            "coffer run --cpus 0 -m 0 -w= --no-healthcheck --restart no --cgroupns private x",
            "coffer exec --privileged a b",
            "coffer attach --sig-proxy=false a",
            "coffer start -a --sig-proxy=false a",
            "coffer logs --tail -1 a",
            "coffer fork -n a -c 2 -e A=1 -l b=c --cpus 0.5 -m 1g -w /x --hostname h --rm=false s",
            "coffer restore -n a s",
            "coffer template build --exec x --timeout 5 i",
            "coffer logs -n=-1 a",
            "coffer inspect -f {{.Id}} a",
        ] {
            parse(words);
        }
    }
}
