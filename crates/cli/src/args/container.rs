//! Docker's other names: `container VERB`, and `system VERB` where there is a shorter one.

use super::{
    AttachArgs, CreateArgs, ExecArgs, InspectArgs, KillArgs, LogsArgs, PauseArgs, PortArgs,
    PruneArgs, PsArgs, RestartArgs, RmArgs, RunArgs, StartArgs, StatsArgs, StopArgs, SystemVerb,
    TopArgs, Verb, WaitArgs,
};

/// Verbs about sandboxes by Docker's longer names.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ContainerVerb {
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
    #[command(alias = "remove")]
    Rm(RmArgs),
    /// List sandboxes
    #[command(aliases = ["list", "ps"])]
    Ls(PsArgs),
    /// Run one more command in a running sandbox
    Exec(Box<ExecArgs>),
    /// Follow a running sandbox's input and output
    Attach(AttachArgs),
    /// Print a sandbox's output
    Logs(LogsArgs),
    /// Print what running sandboxes use, once a second
    Stats(StatsArgs),
    /// List the processes of a running sandbox
    Top(TopArgs),
    /// Print all about sandboxes as JSON
    Inspect(InspectArgs),
    /// Wait until sandboxes have stopped and print their exit codes
    Wait(WaitArgs),
    /// List the published ports of a sandbox
    Port(PortArgs),
    /// Remove all stopped sandboxes
    Prune(PruneArgs),
}

impl Verb {
    /// The verb by its short name, if it has one.
    pub(crate) fn short(self) -> Self {
        match self {
            Self::Container(verb) => match verb {
                ContainerVerb::Run(args) => Self::Run(args),
                ContainerVerb::Create(args) => Self::Create(args),
                ContainerVerb::Start(args) => Self::Start(args),
                ContainerVerb::Stop(args) => Self::Stop(args),
                ContainerVerb::Restart(args) => Self::Restart(args),
                ContainerVerb::Kill(args) => Self::Kill(args),
                ContainerVerb::Pause(args) => Self::Pause(args),
                ContainerVerb::Unpause(args) => Self::Unpause(args),
                ContainerVerb::Rm(args) => Self::Rm(args),
                ContainerVerb::Ls(args) => Self::Ps(args),
                ContainerVerb::Exec(args) => Self::Exec(args),
                ContainerVerb::Attach(args) => Self::Attach(args),
                ContainerVerb::Logs(args) => Self::Logs(args),
                ContainerVerb::Stats(args) => Self::Stats(args),
                ContainerVerb::Top(args) => Self::Top(args),
                ContainerVerb::Inspect(args) => Self::Inspect(args),
                ContainerVerb::Wait(args) => Self::Wait(args),
                ContainerVerb::Port(args) => Self::Port(args),
                prune @ ContainerVerb::Prune(_) => Self::Container(prune),
            },
            Self::System(SystemVerb::Events(args)) => Self::Events(args),
            Self::System(SystemVerb::Info(args)) => Self::Info(args),
            Self::System(SystemVerb::Prune(args)) => Self::Prune(args),
            other => other,
        }
    }
}
