//! `sessions` and `top`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cofferdam::{ByteSize, Coffer, ExitStatus as Exit, ProcessInfo, Result, SessionInfo};
use serde_json::{Value, json};

use crate::{
    args::{SessionsArgs, TopArgs},
    output, time,
};

/// Lists the commands beside a sandbox's workload.
pub(crate) async fn sessions(coffer: &Coffer, args: &SessionsArgs) -> Result<()> {
    let all = coffer.sandbox(&args.sandbox)?.sessions().await?;
    if args.json {
        output::json(&all.iter().map(session_json).collect::<Vec<_>>());
        return Ok(());
    }
    if args.quiet {
        // A closed pipe ends the list.
        let _ = all.iter().all(|session| output::line(session.id));
        return Ok(());
    }
    let now = unix_ns(SystemTime::now());
    let row = |session: &SessionInfo| {
        let status = match (session.exit, session.ended) {
            (Some(exit), Some(ended)) => {
                format!(
                    "Exited ({}) {}",
                    exit.code(),
                    time::ago(unix_ns(ended), now)
                )
            }
            _ => "Running".to_owned(),
        };
        vec![
            session.id.to_string(),
            output::printable(&session.command),
            time::ago(unix_ns(session.started), now),
            status,
            session.clients.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    output::table(
        &["SESSION", "COMMAND", "STARTED", "STATUS", "CLIENTS"],
        &rows,
    );
    Ok(())
}

fn session_json(session: &SessionInfo) -> Value {
    json!({
        "session": session.id,
        "command": session.command,
        "started_ns": unix_ns(session.started),
        "ended_ns": session.ended.map(unix_ns),
        "exit_code": session.exit.map(Exit::code),
        "timed_out": session.timed_out,
        "kept": session.kept,
        "clients": session.clients,
    })
}

fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Lists the processes of a sandbox.
pub(crate) async fn top(coffer: &Coffer, args: &TopArgs) -> Result<()> {
    let processes = coffer.sandbox(&args.sandbox)?.processes().await?;
    if args.json {
        output::json(&processes.list.iter().map(process_json).collect::<Vec<_>>());
        return Ok(());
    }
    let row = |process: &ProcessInfo| {
        vec![
            process.uid.to_string(),
            process.pid.to_string(),
            process.parent.to_string(),
            output::printable(&process.state.to_string()),
            clock(process.cpu_time),
            clock(process.age),
            ByteSize::from_bytes(process.memory_bytes).to_string(),
            output::printable(&process.command),
        ]
    };
    let rows: Vec<Vec<String>> = processes.list.iter().map(row).collect();
    let header = ["UID", "PID", "PPID", "S", "TIME", "ELAPSED", "RSS", "CMD"];
    output::table(&header, &rows);
    let shown = processes.list.len();
    if processes.total as usize > shown {
        let total = processes.total;
        output::note(format_args!(
            "note: these are the first {shown} of {total} processes"
        ));
    }
    Ok(())
}

fn process_json(process: &ProcessInfo) -> Value {
    json!({
        "pid": process.pid,
        "ppid": process.parent,
        "uid": process.uid,
        "state": process.state,
        "threads": process.threads,
        "cpu_time_ms": u64::try_from(process.cpu_time.as_millis()).unwrap_or(u64::MAX),
        "age_ms": u64::try_from(process.age.as_millis()).unwrap_or(u64::MAX),
        "memory_bytes": process.memory_bytes,
        "command": process.command,
    })
}

/// A time as ps(1) shows it.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}
