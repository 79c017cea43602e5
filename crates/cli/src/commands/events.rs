//! `events`.

use std::time::{Duration, UNIX_EPOCH};

use cofferdam::{Coffer, Error, ErrorKind, Event, EventKind, EventOptions, Result};
use serde_json::{Value, json};

use crate::{
    args::EventsArgs,
    exit_status::ExitStatus,
    format::{self, Format},
    output, time,
};

/// Prints events as they happen.
pub(crate) async fn events(coffer: &Coffer, args: &EventsArgs) -> ExitStatus {
    follow(coffer, args).await.into()
}

async fn follow(coffer: &Coffer, args: &EventsArgs) -> Result<()> {
    let format = Format::of_list(args.format.as_deref(), args.json)?;
    let filters = Filters::parse(&args.filter, coffer)?;
    let now = cofferdam::unix_time_ns();
    let point = |text: &str| {
        let ns = time::parse(text, now)?;
        Ok(UNIX_EPOCH + Duration::from_nanos(ns))
    };
    let mut options = EventOptions::new();
    if let Some(text) = &args.since {
        options = options.since(point(text)?);
    }
    if let Some(text) = &args.until {
        options = options.until(point(text)?);
    }
    let mut events = coffer.events(options)?;
    while let Some(event) = events.next().await {
        let event = event?;
        if !filters.fit(&event) {
            continue;
        }
        let is_read = match &format {
            Format::Json => output::line(json!(event)),
            Format::Table => output::line(line(&event)),
            Format::Rows { template, .. } => {
                output::line(format::render(template, &json!(event), &dockers(&event))?)
            }
        };
        if !is_read {
            // Nobody reads any more.
            return Ok(());
        }
    }
    Ok(())
}

/// An event as one line, in the order of Docker's.
fn line(event: &Event) -> String {
    let mut details = vec![
        format!("name={}", event.name),
        format!("image={}", event.image),
    ];
    details.extend(
        attributes(event)
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => format!("{key}={text}"),
                other => format!("{key}={other}"),
            }),
    );
    let time = cofferdam::rfc3339(event.time_ns);
    let text = match event.sandbox {
        Some(id) => format!(
            "{time} sandbox {} {} ({})",
            event.kind.name(),
            id.short(),
            details.join(", ")
        ),
        None => format!("{time} journal {}", event.kind.name()),
    };
    output::printable(&text)
}

/// What an event has besides its time, type and sandbox.
fn attributes(event: &Event) -> serde_json::Map<String, Value> {
    let Value::Object(mut fields) = json!(event) else {
        return serde_json::Map::new();
    };
    for common in ["time_ns", "type", "sandbox", "name", "image"] {
        fields.remove(common);
    }
    fields
}

/// An event by Docker's names. Source: Docker Engine API 1.47, `EventMessage`.
fn dockers(event: &Event) -> Value {
    let id = event.sandbox.map(|id| id.to_string()).unwrap_or_default();
    let action = docker_verb(&event.kind);
    let mut attributes = attributes(event);
    if let Some(code) = attributes.remove("exit_code") {
        attributes.insert("exitCode".to_owned(), json!(code.to_string()));
    }
    attributes.insert("name".to_owned(), json!(event.name));
    attributes.insert("image".to_owned(), json!(event.image));
    json!({
        "Type": "container",
        "Action": action,
        "Actor": {"ID": id, "Attributes": attributes},
        "scope": "local",
        "time": event.time_ns / 1_000_000_000,
        "timeNano": event.time_ns,
        "status": action,
        "id": id,
        "from": event.image,
        "ID": id,
    })
}

/// Docker's word for an event; ours where Docker has none.
const fn docker_verb(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Created => "create",
        EventKind::Started => "start",
        EventKind::ExecStarted { .. } => "exec_start",
        EventKind::ExecEnded { .. } => "exec_die",
        EventKind::Paused { .. } => "pause",
        EventKind::Unpaused => "unpause",
        EventKind::Died { .. } => "die",
        EventKind::Removed => "destroy",
        other => other.name(),
    }
}

/// The name of a type of events, ours or Docker's.
fn event_type(name: &str) -> Result<String> {
    if EventKind::NAMES.contains(&name) || DOCKER_VERBS.contains(&name) {
        return Ok(name.to_owned());
    }
    let what = format!("`{name}` is no type of events");
    let hint = format!("Use one of: {}", EventKind::NAMES.join(", "));
    Err(Error::new(ErrorKind::InvalidSpec, what).hint(hint))
}

/// What [`docker_verb`] returns for kinds that have another name here.
const DOCKER_VERBS: [&str; 8] = [
    "create",
    "start",
    "exec_start",
    "exec_die",
    "pause",
    "unpause",
    "die",
    "destroy",
];

/// What an event must be: one of each kind of filter that is there.
#[derive(Debug, Default)]
struct Filters {
    types: Vec<String>,
    sandboxes: Vec<String>,
    images: Vec<String>,
}

impl Filters {
    fn parse(texts: &[String], coffer: &Coffer) -> Result<Self> {
        let invalid = |what: String| Error::new(ErrorKind::InvalidSpec, what);
        let mut filters = Self::default();
        for text in texts {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| invalid(format!("`{text}` is not `KEY=VALUE`")))?;
            match key {
                // Docker's events are of many things, ours of sandboxes alone.
                "type" if matches!(value, "container" | "sandbox") => {}
                "type" | "event" => filters.types.push(event_type(value)?),
                "sandbox" | "container" => {
                    filters.sandboxes.push(value.to_owned());
                    // A name may pass to another sandbox; an id does not.
                    if let Ok(sandbox) = coffer.sandbox(value) {
                        filters.sandboxes.push(sandbox.id().to_string());
                    }
                }
                "image" => filters.images.push(value.to_owned()),
                _ => {
                    return Err(invalid(format!("`{key}` is not a filter"))
                        .hint("Filter by type, sandbox or image"));
                }
            }
        }
        Ok(filters)
    }

    fn fit(&self, event: &Event) -> bool {
        // A gap concerns every reader.
        if event.kind == EventKind::Missed {
            return true;
        }
        let any = |wanted: &[String], fits: &dyn Fn(&String) -> bool| {
            wanted.is_empty() || wanted.iter().any(fits)
        };
        let id = event.sandbox.map(|id| id.to_string()).unwrap_or_default();
        any(&self.types, &|name| {
            name == event.kind.name() || name == docker_verb(&event.kind)
        }) && any(&self.sandboxes, &|name| {
            *name == event.name || (!name.is_empty() && id.starts_with(name.as_str()))
        }) && any(&self.images, &|name| *name == event.image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        serde_json::from_str(text).unwrap()
    }

    fn died() -> Event {
        let id = "ab".repeat(32);
        event(&format!(
            r#"{{"time_ns":1500000000,"sandbox":"{id}","name":"web","image":"busybox","type":"died",
                "exit_code":137,"by":"timeout","oom":false}}"#
        ))
    }

    #[test]
    fn a_line_has_time_type_sandbox_and_details() {
        let expected = "1970-01-01T00:00:01.500Z sandbox died abababababab \
                        (name=web, image=busybox, by=timeout, exit_code=137, oom=false)";
        assert_eq!(line(&died()), expected);
        let missed = event(r#"{"time_ns":0,"type":"missed"}"#);
        assert_eq!(line(&missed), "1970-01-01T00:00:00.000Z journal missed");
    }

    #[test]
    fn dockers_names_are_there_for_templates() {
        let value = dockers(&died());
        assert_eq!(value["Action"], "die");
        assert_eq!(value["Actor"]["Attributes"]["exitCode"], "137");
        assert_eq!(value["Actor"]["Attributes"]["name"], "web");
        assert_eq!(value["time"], 1);
    }

    #[test]
    fn a_type_that_there_is_not_is_refused_with_those_that_there_are() {
        for name in ["died", "die", "network_changed"] {
            assert_eq!(event_type(name).unwrap(), name);
        }
        let error = event_type("unknown").unwrap_err();
        assert!(error.hint_text().unwrap().contains("network_denied"));
        assert!(DOCKER_VERBS.contains(&docker_verb(&died().kind)));
    }

    #[test]
    fn filters_of_one_key_are_alternatives_and_keys_are_all_to_fit() {
        let with = |types: &[&str], sandboxes: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Filters {
                types: owned(types),
                sandboxes: owned(sandboxes),
                images: Vec::new(),
            }
            .fit(&died())
        };
        assert!(with(&[], &[]) && with(&["died"], &["web"]) && with(&["die"], &["abab"]));
        assert!(with(&["started", "died"], &["other", "web"]));
        assert!(!with(&["started"], &["web"]) && !with(&["died"], &["we"]));
        assert!(
            Filters {
                types: vec!["died".to_owned()],
                ..Filters::default()
            }
            .fit(&event(r#"{"time_ns":0,"type":"missed"}"#))
        );
    }
}
