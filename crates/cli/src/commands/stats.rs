//! `stats`.

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use cofferdam::{
    Coffer, ErrorKind, Event, EventKind, EventOptions, Events, Result, Sandbox, SandboxId,
    SandboxStats, StatsStream,
};
use futures_util::{
    StreamExt as _,
    stream::{BoxStream, SelectAll},
};
use serde_json::json;

use crate::{
    args::StatsArgs,
    exit_status::ExitStatus,
    format::{Format, Row, print_rows},
    output,
};

/// Time between two samples, and two tables; as Docker's.
const INTERVAL: Duration = Duration::from_secs(1);

/// Clears a terminal and puts the cursor into its corner. Source: ECMA-48, 8.3.39 and 8.3.21.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Prints what sandboxes use.
pub(crate) async fn stats(coffer: &Coffer, args: &StatsArgs) -> ExitStatus {
    print(coffer, args).await.into()
}

async fn print(coffer: &Coffer, args: &StatsArgs) -> Result<()> {
    let format = Format::of_list(args.format.as_deref(), args.json)?;
    let mut watched = Watched::open(coffer, &args.sandboxes).await?;
    if args.no_stream {
        watched.sample_each().await?;
        show(&format, args, &watched.rows)?;
        return Ok(());
    }
    let mut tick = tokio::time::interval(INTERVAL);
    // The first one is at once, and there are no samples yet.
    tick.tick().await;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                if !show(&format, args, &watched.rows)? || watched.is_over() {
                    return Ok(());
                }
            }
            // Taken up here: what comes must not be lost when the tick comes first.
            change = watched.change() => watched.take_up(change).await?,
        }
    }
}

/// A sandbox and its last sample.
#[derive(Debug)]
struct Watch {
    name: String,
    sample: Option<SandboxStats>,
}

/// A sample, or none at the end of a sandbox.
type Sample = (SandboxId, Option<Result<SandboxStats>>);

/// What has come of the sandboxes that are watched.
enum Change {
    /// A sample, or the end of its sandbox.
    Sample(SandboxId, Option<Result<SandboxStats>>),
    /// Something that happened to any sandbox.
    Event(Result<Event>),
}

/// The sandboxes that are watched.
struct Watched<'a> {
    coffer: &'a Coffer,
    /// What starts, if all sandboxes are watched.
    starts: Option<Events>,
    streams: SelectAll<BoxStream<'static, Sample>>,
    rows: BTreeMap<SandboxId, Watch>,
}

impl<'a> Watched<'a> {
    async fn open(coffer: &'a Coffer, names: &[String]) -> Result<Self> {
        let mut watched = Self {
            coffer,
            // Before the list, so that no start falls between.
            starts: match names.is_empty() {
                true => Some(coffer.events(EventOptions::new())?),
                false => None,
            },
            streams: SelectAll::new(),
            rows: BTreeMap::new(),
        };
        for name in names {
            watched.add(coffer.sandbox(name)?).await?;
        }
        if names.is_empty() {
            for info in coffer.sandboxes()? {
                if info.status.is_live() {
                    watched.add_started(info.id).await?;
                }
            }
        }
        Ok(watched)
    }

    /// Adds a sandbox that ran a moment ago.
    async fn add_started(&mut self, id: SandboxId) -> Result<()> {
        let added = match self.coffer.sandbox(&id.to_string()) {
            Ok(sandbox) => self.add(sandbox).await,
            Err(error) => Err(error),
        };
        match added {
            // It has ended meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WrongState) => {
                Ok(())
            }
            added => added,
        }
    }

    async fn add(&mut self, sandbox: Sandbox) -> Result<()> {
        let id = sandbox.id();
        if self.rows.contains_key(&id) {
            return Ok(());
        }
        let stream = sandbox.stats_stream(INTERVAL).await?;
        let ended = futures_util::stream::once(async move { (id, None) });
        let samples = samples(id, stream).chain(ended).boxed();
        self.streams.push(samples);
        let name = sandbox.name().to_owned();
        self.rows.insert(id, Watch { name, sample: None });
        Ok(())
    }

    /// Waits until something changes.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn change(&mut self) -> Change {
        let starts = async {
            match &mut self.starts {
                Some(starts) => starts.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((id, sample)) = self.streams.next() => Change::Sample(id, sample),
            Some(event) = starts => Change::Event(event),
            // All that were named have ended.
            else => std::future::pending().await,
        }
    }

    async fn take_up(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Sample(id, sample) => self.take(id, sample),
            Change::Event(event) => {
                let event = event?;
                match (event.kind, event.sandbox) {
                    (EventKind::Started, Some(id)) => self.add_started(id).await,
                    _ => Ok(()),
                }
            }
        }
    }

    fn take(&mut self, id: SandboxId, sample: Option<Result<SandboxStats>>) -> Result<()> {
        match sample.transpose()? {
            Some(sample) => {
                if let Some(row) = self.rows.get_mut(&id) {
                    row.sample = Some(sample);
                }
            }
            None => drop(self.rows.remove(&id)),
        }
        Ok(())
    }

    /// Waits until there is a sample of each that has not ended.
    async fn sample_each(&mut self) -> Result<()> {
        while self.rows.values().any(|row| row.sample.is_none()) {
            match self.streams.next().await {
                Some((id, sample)) => self.take(id, sample)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether nothing can come any more.
    fn is_over(&self) -> bool {
        self.starts.is_none() && self.rows.is_empty()
    }
}

fn samples(id: SandboxId, stream: StatsStream) -> impl futures_util::Stream<Item = Sample> + Send {
    stream.map(move |sample| (id, Some(sample)))
}

/// Prints a table; false when nobody reads it.
fn show(format: &Format, args: &StatsArgs, rows: &BTreeMap<SandboxId, Watch>) -> Result<bool> {
    let id = |id: &SandboxId| match args.no_trunc {
        true => id.to_string(),
        false => id.short(),
    };
    let sampled = || {
        let rows = rows.iter();
        rows.filter_map(|(id, row)| Some((id, &row.name, row.sample?)))
    };
    if let Format::Json = format {
        let line = |(id, name, sample): (&SandboxId, &String, SandboxStats)| {
            let mut line = json!(sample);
            line["id"] = json!(id);
            line["name"] = json!(name);
            output::line(line)
        };
        return Ok(sampled().all(line));
    }
    if !args.no_stream && std::io::stdout().is_terminal() && !output::bytes(CLEAR.as_bytes()) {
        return Ok(false);
    }
    if let Format::Rows { template, header } = format {
        let row = |(key, name, sample): (&SandboxId, &String, SandboxStats)| Row {
            fields: dockers(&id(key), name, &sample),
            labels: None,
        };
        let rows: Vec<Row> = sampled().map(row).collect();
        print_rows(template, *header, TITLES, &rows)?;
        return Ok(true);
    }
    let row = |(key, name, sample): (&SandboxId, &String, SandboxStats)| {
        vec![
            id(key),
            name.clone(),
            percent(sample.cpu_percent),
            usage(&sample),
            memory_percent(&sample),
            traffic(&sample),
            sample.sessions.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = sampled().map(row).collect();
    let header = [
        "SANDBOX ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET I/O",
        "SESSIONS",
    ];
    output::table(&header, &rows);
    Ok(true)
}

/// Headers that are not the field's name.
const TITLES: &[(&str, &str)] = &[
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
];

/// A sample by Docker's names.
fn dockers(id: &str, name: &str, sample: &SandboxStats) -> serde_json::Value {
    json!({
        "ID": id,
        "Container": id,
        "Name": name,
        "CPUPerc": percent(sample.cpu_percent),
        "MemUsage": usage(sample),
        "MemPerc": memory_percent(sample),
        "NetIO": traffic(sample),
        "Sessions": sample.sessions.to_string(),
    })
}

/// Bytes to and from the guest.
fn traffic(sample: &SandboxStats) -> String {
    let size = |bytes| cofferdam::ByteSize::from_bytes(bytes).to_string();
    sample.network.map_or_else(
        || "--".to_owned(),
        |network| {
            format!(
                "{} / {}",
                size(network.received_bytes),
                size(network.sent_bytes)
            )
        },
    )
}

fn percent(percent: f64) -> String {
    format!("{percent:.2}%")
}

fn usage(sample: &SandboxStats) -> String {
    let size = |bytes| cofferdam::ByteSize::from_bytes(bytes).to_string();
    format!(
        "{} / {}",
        size(sample.memory_bytes),
        size(sample.memory_limit_bytes)
    )
}

#[allow(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
fn memory_percent(sample: &SandboxStats) -> String {
    percent(100.0 * sample.memory_bytes as f64 / (sample.memory_limit_bytes as f64).max(1.0))
}
