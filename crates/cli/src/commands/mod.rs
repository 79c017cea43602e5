//! One file a group of verbs; each verb one function from its arguments to an exit status.

mod cidfile;
mod config;
mod docker_names;
mod doctor;
mod env;
mod events;
mod exec;
mod forks;
mod forward;
mod images;
mod inspect;
mod lifecycle;
mod logs;
mod net;
mod network;
mod network_filter;
mod networks;
mod pools;
mod port;
mod prune;
mod ps;
mod ps_filter;
mod run;
mod sessions;
mod side_by_side;
mod snapshots;
mod spec;
mod stats;
mod system;
mod templates;
mod warm_up;

use clap::CommandFactory as _;
use cofferdam::Coffer;

use crate::{
    args::{Cli, ContainerVerb, DataArgs, ImageVerb, Verb},
    exit_status::ExitStatus,
    output,
};

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> ExitStatus {
    let verb = cli.verb.short();
    let runs = matches!(verb, Verb::Run(_) | Verb::Create(_) | Verb::Exec(_));
    match verb {
        Verb::Version(args) => return version(&args),
        Verb::Completion(args) => {
            // Into memory first: the generator panics when its writer fails.
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "coffer", &mut script);
            output::bytes(&script);
            return ExitStatus::Success;
        }
        Verb::Doctor(args) => return doctor::doctor(&args),
        _ => {}
    }
    let coffer = match Coffer::open() {
        Ok(coffer) => coffer,
        Err(error) if runs => return ExitStatus::RunError(error),
        Err(error) => return ExitStatus::Error(error),
    };
    let detail = run::Detail {
        timings: cli.timings,
        verbose: cli.verbose,
    };
    match verb {
        Verb::Run(args) => run::run(&coffer, &args, detail).await,
        Verb::Create(args) => run::create(&coffer, &args, cli.verbose).await,
        Verb::Exec(args) => exec::exec(&coffer, &args).await,
        Verb::Attach(args) => exec::attach(&coffer, &args).await,
        Verb::Start(args) => lifecycle::start(&coffer, &args, cli.timings).await,
        Verb::Stop(args) => lifecycle::stop(&coffer, &args).await,
        Verb::Restart(args) => lifecycle::restart(&coffer, &args).await,
        Verb::Kill(args) => lifecycle::kill(&coffer, &args).await,
        Verb::Pause(args) => snapshots::pause(&coffer, &args).await,
        Verb::Unpause(args) => snapshots::unpause(&coffer, &args).await,
        Verb::Timeout(args) => lifecycle::timeout(&coffer, &args).await.into(),
        Verb::Fork(args) => forks::fork(&coffer, &args, cli.verbose).await,
        Verb::Snapshot(verb) => snapshots::snapshot(&coffer, &verb, cli.verbose).await,
        Verb::Template(verb) => templates::template(&coffer, &verb, cli.verbose).await,
        Verb::Pool(verb) => pools::pool(&coffer, &verb, cli.verbose).await,
        Verb::Network(verb) => networks::network(&coffer, &verb).await,
        Verb::Config(verb) => config::config(&coffer, &verb),
        Verb::Restore(args) => snapshots::restore(&coffer, &args).await,
        Verb::Rm(args) => lifecycle::rm(&coffer, &args).await,
        Verb::Wait(args) => lifecycle::wait(&coffer, &args).await,
        Verb::Forward(args) => forward::forward(&coffer, &args).await,
        Verb::Port(args) => port::port(&coffer, &args),
        Verb::Net(args) => net::net(&coffer, &args).await,
        Verb::Ps(args) => ps::ps(&coffer, &args),
        Verb::Logs(args) => logs::logs(&coffer, &args).await,
        Verb::Events(args) => events::events(&coffer, &args).await,
        Verb::Top(args) => sessions::top(&coffer, &args).await.into(),
        Verb::Sessions(args) => sessions::sessions(&coffer, &args).await.into(),
        Verb::Stats(args) => stats::stats(&coffer, &args).await,
        Verb::Inspect(args) => inspect::inspect(&coffer, &args),
        Verb::Images(args) => images::images(&coffer, &args),
        Verb::Pull(args) => images::pull(&coffer, &args, cli.verbose).await,
        Verb::Load(args) => images::load(&coffer, args, cli.verbose),
        Verb::Save(args) => images::save(&coffer, &args),
        Verb::Tag(args) => images::tag(&coffer, &args),
        Verb::Rmi(args) => images::rmi(&coffer, &args),
        Verb::History(args) => images::history(&coffer, &args),
        Verb::Prune(args) => prune::everything(&coffer, &args).await,
        Verb::Image(verb) => image(&coffer, verb, cli.verbose).await,
        Verb::System(verb) => system::system(&coffer, &verb, cli.verbose),
        Verb::Container(ContainerVerb::Prune(args)) => prune::sandboxes(&coffer, &args).await,
        Verb::Info(args) => doctor::info(&coffer, &args),
        // Done above, or by another name.
        Verb::Version(_) | Verb::Completion(_) | Verb::Doctor(_) | Verb::Container(_) => {
            ExitStatus::Success
        }
    }
}

/// Docker's other names.
async fn image(coffer: &Coffer, verb: ImageVerb, verbose: bool) -> ExitStatus {
    match verb {
        ImageVerb::Ls(args) => images::images(coffer, &args),
        ImageVerb::Pull(args) => images::pull(coffer, &args, verbose).await,
        ImageVerb::Load(args) => images::load(coffer, args, verbose),
        ImageVerb::Save(args) => images::save(coffer, &args),
        ImageVerb::Tag(args) => images::tag(coffer, &args),
        ImageVerb::Rm(args) => images::rmi(coffer, &args),
        ImageVerb::History(args) => images::history(coffer, &args),
        ImageVerb::Inspect(args) => inspect::images(coffer, &args),
        ImageVerb::Prune(args) => prune::images(coffer, &args).await,
    }
}

fn version(args: &DataArgs) -> ExitStatus {
    let version = env!("CARGO_PKG_VERSION");
    if args.json {
        output::json(&serde_json::json!({"name": "coffer", "version": version}));
    } else {
        output::line(format_args!("coffer {version}"));
    }
    ExitStatus::Success
}

/// Does one thing to each of many; goes on after an error and fails at the end.
async fn for_each(
    names: &[String],
    mut action: impl AsyncFnMut(&str) -> cofferdam::Result<()>,
) -> ExitStatus {
    let mut failed = false;
    for name in names {
        if let Err(error) = action(name).await {
            output::error(&error);
            failed = true;
        }
    }
    if failed {
        ExitStatus::Failure
    } else {
        ExitStatus::Success
    }
}
