//! The command line: Docker's names and letters wherever the thing is the same.

mod images;
mod later;
mod lifecycle;
mod pools;
mod run;
mod snapshots;
mod system;
mod templates;

use clap::{Parser, Subcommand};

pub(crate) use self::images::{
    HistoryArgs, ImageVerb, ImagesArgs, LoadArgs, PruneArgs, PullArgs, RmiArgs, SaveArgs, TagArgs,
};
pub(crate) use self::later::LaterArgs;
pub(crate) use self::lifecycle::{
    AttachArgs, InspectArgs, InspectKind, KillArgs, LogsArgs, PsArgs, RestartArgs, RmArgs,
    StartArgs, StopArgs, WaitArgs,
};
pub(crate) use self::pools::{PoolCreateArgs, PoolListArgs, PoolRmArgs, PoolVerb};
pub(crate) use self::run::{CreateArgs, ExecArgs, RunArgs, SandboxArgs};
pub(crate) use self::snapshots::{
    ForkArgs, PauseArgs, RestoreArgs, SnapshotCreateArgs, SnapshotExportArgs, SnapshotImportArgs,
    SnapshotListArgs, SnapshotNamesArgs, SnapshotPruneArgs, SnapshotVerb,
};

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
    /// Say where the time of a start goes.
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
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
    /// Print all about sandboxes or images as JSON
    Inspect(InspectArgs),
    /// Wait until sandboxes have stopped and print their exit codes
    Wait(WaitArgs),
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
    /// Show what takes room on the disk
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
    use clap::CommandFactory as _;

    use super::*;

    fn parse(words: &str) -> Cli {
        Cli::try_parse_from(words.split(' ')).unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_may_have_flags_and_dashes_of_its_own() {
        for words in [
            "coffer run x ls -la --color",
            "coffer run x -- ls -la --color",
        ] {
            let Verb::Run(args) = parse(words).verb else {
                panic!("{words}")
            };
            assert_eq!(args.sandbox.command(), ["ls", "-la", "--color"], "{words}");
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
        assert_eq!(args.sandbox.process.env, ["A=1", "B=2"]);
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
        ] {
            parse(words);
        }
    }
}
