//! `ps`.

use cofferdam::{Coffer, EndedBy, Result, SandboxInfo, SandboxStatus};

use super::{docker_names, ps_filter::Filters};
use crate::{
    args::PsArgs,
    exit_status::ExitStatus,
    format::{Format, Row, print_rows},
    output, time,
};

/// Longest command that a row shows, in characters.
const COMMAND_CHARS: usize = 20;

/// Lists sandboxes.
pub(crate) fn ps(coffer: &Coffer, args: &PsArgs) -> ExitStatus {
    match list(coffer, args) {
        Ok(()) => ExitStatus::Success,
        Err(error) => ExitStatus::Error(error),
    }
}

fn list(coffer: &Coffer, args: &PsArgs) -> Result<()> {
    let format = Format::of_list(args.format.as_deref(), args.json)?;
    let infos = selected(coffer, args)?;
    let id = |info: &SandboxInfo| {
        if args.no_trunc {
            info.id.to_string()
        } else {
            info.id.short()
        }
    };
    if matches!(format, Format::Json) {
        output::json(&infos);
        return Ok(());
    }
    if args.quiet {
        // A closed pipe ends the list.
        let _ = infos.iter().all(|info| output::line(id(info)));
        return Ok(());
    }
    let now = cofferdam::unix_time_ns();
    if let Format::Rows { template, header } = &format {
        let row = |info: &SandboxInfo| {
            let command = command(info, args.no_trunc);
            docker_names::sandbox_row(info, &id(info), &command, &status(info, now), now)
        };
        let rows: Vec<Row> = infos.iter().map(row).collect();
        return print_rows(template, *header, docker_names::SANDBOX_TITLES, &rows);
    }
    let row = |info: &SandboxInfo| {
        vec![
            id(info),
            output::printable(&info.image),
            command(info, args.no_trunc),
            time::ago(info.created_ns, now),
            status(info, now),
            docker_names::ports(info),
            info.name.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = infos.iter().map(row).collect();
    let header = [
        "SANDBOX ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ];
    output::table(&header, &rows);
    Ok(())
}

fn selected(coffer: &Coffer, args: &PsArgs) -> Result<Vec<SandboxInfo>> {
    let filters = Filters::parse(&args.filter, coffer)?;
    let mut infos = coffer.sandboxes()?;
    if args.all {
        for error in coffer.damaged_sandboxes()? {
            output::warning(&error);
        }
    }
    let newest = args.last.or_else(|| args.latest.then_some(1));
    let any_status = args.all || filters.any_status || newest.is_some();
    infos.retain(|info| (any_status || info.status.is_live()) && filters.fit(info));
    // They come newest first.
    infos.truncate(newest.unwrap_or(usize::MAX));
    Ok(infos)
}

fn command(info: &SandboxInfo, whole: bool) -> String {
    let text = output::printable(&info.command.join(" "));
    if whole || text.chars().count() <= COMMAND_CHARS {
        return format!("\"{text}\"");
    }
    let cut: String = text.chars().take(COMMAND_CHARS - 1).collect();
    format!("\"{cut}…\"")
}

fn status(info: &SandboxInfo, now: u64) -> String {
    let mut text = life(info, now);
    if info.oom_killed {
        text.push_str(" (out of memory)");
    }
    if let Some(by) = info
        .ended_by
        .or_else(|| info.lease.and_then(|lease| lease.over))
    {
        text.push_str(match by {
            EndedBy::Timeout => " (timed out)",
            EndedBy::IdleTimeout => " (idle)",
            _ => "",
        });
    }
    if info.disk_failure.is_some() {
        text.push_str(" (disk error)");
    }
    text
}

fn life(info: &SandboxInfo, now: u64) -> String {
    let since = |time: Option<u64>| time::span(now.saturating_sub(time.unwrap_or(now)));
    match (info.status, info.exit_code) {
        (SandboxStatus::Running, _) => format!("Up {}", since(info.started_ns)),
        (SandboxStatus::Paused, _) => format!("Up {} (Paused)", since(info.started_ns)),
        (SandboxStatus::Stopped, Some(code)) => {
            format!("Exited ({code}) {} ago", since(info.finished_ns))
        }
        (SandboxStatus::Failed, _) => format!("Failed {} ago", since(info.finished_ns)),
        (status, _) => {
            let mut text = status.to_string();
            text[..1].make_ascii_uppercase();
            text
        }
    }
}
