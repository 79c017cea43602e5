//! `template`.

use std::time::Duration;

use cofferdam::{Coffer, Error, ErrorKind, Result, TemplateInfo, WarmUp};
use serde_json::json;

use super::{for_each, spec, warm_up::WarmUpArgs};
use crate::{
    args::{TemplateBuildArgs, TemplateListArgs, TemplateRmArgs, TemplateVerb},
    exit_status::ExitStatus,
    output,
    progress::Bars,
    time,
};

/// How long a build is waited for without a word.
const NOTICE_AFTER: Duration = Duration::from_secs(15);

/// How much of a key and of a command a row shows, in characters.
const KEY_CHARS: usize = 12;
const COMMAND_CHARS: usize = 40;

/// What a user of `--wait-for` has to know; docs/fork-correctness.md has the details.
const HELD_WARNING: &str = "warning: each sandbox from this template goes on from the same \
    memory, so generators of random numbers inside its processes repeat\n\
    hint: Reseed them when `/run/cofferdam/generation` changes, or with `--on-fork COMMAND`";

/// Does what `template` is to do.
pub(crate) async fn template(coffer: &Coffer, verb: &TemplateVerb, verbose: bool) -> ExitStatus {
    let result = match verb {
        TemplateVerb::Build(args) => build(coffer, args, verbose).await,
        TemplateVerb::List(args) => list(coffer, args),
        TemplateVerb::Rm(args) => return rm(coffer, args).await,
    };
    result.into()
}

async fn build(coffer: &Coffer, args: &TemplateBuildArgs, verbose: bool) -> Result<()> {
    let mut spec = spec::spec(&args.sandbox)?;
    let asked = WarmUpArgs::new(&args.exec, args.wait_for.as_deref(), &spec.command)?;
    let mut commands = asked.warm_ups();
    spec.command = asked.command;
    if args.sandbox.rm || spec.stdin || spec.tty || spec.name.is_some() || spec.hostname.is_some() {
        let what = "A template has no name, host name, terminal or input, and is not removed";
        return Err(Error::new(ErrorKind::InvalidSpec, what)
            .hint("Leave `--rm`, `-i`, `-t`, `--name` and `--hostname` to `run`"));
    }
    // Without a text to wait for, the command is the last of those that run to their end.
    if asked.wait_for.is_none() && !spec.command.is_empty() {
        commands.push(std::mem::take(&mut spec.command));
    }
    let holds_unwarned = asked.wait_for.is_some() && spec.on_fork.is_none();
    let warm_up = WarmUp {
        commands,
        wait_for: asked.wait_for,
        timeout: args.timeout.map(Duration::from_secs),
    };
    let bars = Bars::new(false, verbose);
    let templates = coffer.templates();
    let build = templates.build(spec, &warm_up, &bars);
    let info = with_notice(build, waits_for(&warm_up)).await?;
    bars.finish();
    if holds_unwarned {
        output::note(HELD_WARNING);
    }
    if args.json {
        output::json(&info);
    } else {
        output::line(info.key);
    }
    Ok(())
}

/// What a build that takes long is likely to wait for.
fn waits_for(warm_up: &WarmUp) -> Option<&'static str> {
    match (warm_up.commands.is_empty(), &warm_up.wait_for) {
        (false, None) => Some(
            "still waiting for the commands to end; what keeps running, such as a server, belongs \
             behind the image, with `--wait-for TEXT`",
        ),
        (false, Some(_)) => Some(
            "still waiting for the commands of `--exec` to end, or for the text of `--wait-for`; \
             what keeps running, such as a server, belongs behind the image and not into `--exec`",
        ),
        (true, Some(_)) => Some("still waiting for the text of `--wait-for`"),
        (true, None) => None,
    }
}

/// Waits for a build, and says once what it is likely to wait for.
async fn with_notice<T>(build: impl Future<Output = T>, notice: Option<&str>) -> T {
    tokio::pin!(build);
    if let Some(notice) = notice {
        tokio::select! {
            built = &mut build => return built,
            () = tokio::time::sleep(NOTICE_AFTER) => output::note(format_args!("note: {notice}")),
        }
    }
    build.await
}

fn list(coffer: &Coffer, args: &TemplateListArgs) -> Result<()> {
    let templates = coffer.templates().list()?;
    if args.json {
        output::json(&templates);
        return Ok(());
    }
    let cut = |text: &str, length: usize| -> String {
        if args.no_trunc || text.chars().count() <= length {
            return text.to_owned();
        }
        text.chars().take(length).collect()
    };
    if args.quiet {
        // A closed pipe ends the list.
        let _ = templates
            .iter()
            .all(|info| output::line(cut(&info.key, KEY_CHARS)));
        return Ok(());
    }
    let now = cofferdam::unix_time_ns();
    let row = |info: &TemplateInfo| {
        vec![
            cut(&info.key, KEY_CHARS),
            info.kind.to_string(),
            output::printable(info.image.as_deref().unwrap_or("")),
            cut(&output::printable(&info.commands.join("; ")), COMMAND_CHARS),
            info.vcpus.to_string(),
            format!("{}M", info.memory_bytes >> 20),
            time::ago(info.created_ns, now),
            output::size(info.disk_bytes),
        ]
    };
    let rows: Vec<_> = templates.iter().map(row).collect();
    let header = [
        "KEY", "KIND", "IMAGE", "COMMANDS", "CPUS", "MEMORY", "CREATED", "SIZE",
    ];
    output::table(&header, &rows);
    Ok(())
}

async fn rm(coffer: &Coffer, args: &TemplateRmArgs) -> ExitStatus {
    let mut removed = Vec::new();
    let result = for_each(&args.templates, async |name| {
        for key in coffer.templates().remove(name)? {
            if !args.json {
                output::line(&key);
            }
            removed.push(key);
        }
        Ok(())
    })
    .await;
    if args.json {
        output::json(&json!({ "removed": removed }));
    }
    result
}
