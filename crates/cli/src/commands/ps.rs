//! `ps`.

use cofferdam::{Coffer, Error, ErrorKind, Result, SandboxInfo, SandboxStatus};

use crate::{args::PsArgs, exit_status::ExitStatus, output, time};

/// Longest command that a row shows, in characters.
const COMMAND_CHARS: usize = 20;

/// Lists sandboxes.
pub(crate) fn ps(coffer: &Coffer, args: &PsArgs) -> ExitStatus {
    let wanted = output::wants_json(args.format.as_deref(), args.json)
        .and_then(|json| Ok((json, selected(coffer, args)?)));
    let (json, infos) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => return ExitStatus::Error(error),
    };
    if json {
        output::json(&infos);
        return ExitStatus::Success;
    }
    let id = |info: &SandboxInfo| {
        if args.no_trunc {
            info.id.to_string()
        } else {
            info.id.short()
        }
    };
    if args.quiet {
        // A closed pipe ends the list.
        let _ = infos.iter().all(|info| output::line(id(info)));
        return ExitStatus::Success;
    }
    let now = cofferdam::unix_time_ns();
    let rows: Vec<Vec<String>> = infos
        .iter()
        .map(|info| {
            vec![
                id(info),
                output::printable(&info.image),
                command(info, args.no_trunc),
                time::ago(info.created_ns, now),
                status(info, now),
                info.name.clone(),
            ]
        })
        .collect();
    output::table(
        &[
            "SANDBOX ID",
            "IMAGE",
            "COMMAND",
            "CREATED",
            "STATUS",
            "NAMES",
        ],
        &rows,
    );
    ExitStatus::Success
}

fn selected(coffer: &Coffer, args: &PsArgs) -> Result<Vec<SandboxInfo>> {
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<Result<Vec<_>>>()?;
    let by_status = filters
        .iter()
        .any(|filter| matches!(filter, Filter::Status(_)));
    let mut infos = coffer.sandboxes()?;
    if args.all {
        for error in coffer.damaged_sandboxes()? {
            output::warning(&error);
        }
    }
    let newest = args.last.or_else(|| args.latest.then_some(1));
    let any_status = args.all || by_status || newest.is_some();
    infos.retain(|info| {
        (any_status || info.status.is_live()) && filters.iter().all(|f| f.fits(info))
    });
    // They come newest first.
    infos.truncate(newest.unwrap_or(usize::MAX));
    Ok(infos)
}

enum Filter {
    Name(String),
    Id(String),
    Image(String),
    Status(SandboxStatus),
    Label(String, Option<String>),
}

impl Filter {
    fn parse(text: &str) -> Result<Self> {
        let invalid = |what: String| Error::new(ErrorKind::InvalidSpec, what);
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| invalid(format!("`{text}` is not `KEY=VALUE`")))?;
        match key {
            "name" => Ok(Self::Name(value.to_owned())),
            "id" => Ok(Self::Id(value.to_owned())),
            "image" | "ancestor" => Ok(Self::Image(value.to_owned())),
            "label" => Ok(match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            }),
            "status" => SandboxStatus::ALL
                .into_iter()
                // Docker's `exited` and `dead`.
                .find(|s| {
                    s.to_string() == value
                        || (value == "exited" && *s == SandboxStatus::Stopped)
                        || (value == "dead" && *s == SandboxStatus::Failed)
                })
                .map(Self::Status)
                .ok_or_else(|| invalid(format!("`{value}` is not a status"))),
            _ => Err(invalid(format!("`{key}` is not a filter"))
                .hint("Filter by name, id, image, status or label")),
        }
    }

    fn fits(&self, info: &SandboxInfo) -> bool {
        match self {
            Self::Name(part) => info.name.contains(part),
            Self::Id(start) => info.id.to_string().starts_with(start),
            Self::Image(image) => info.image == *image,
            Self::Status(status) => info.status == *status,
            Self::Label(key, value) => info
                .labels
                .get(key)
                .is_some_and(|found| value.as_ref().is_none_or(|value| value == found)),
        }
    }
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
