//! The processes of the sandbox, read from the guest's `/proc`.
//!
//! Processes of the workload's PID namespace are listed, the workload and every exec with their
//! children; the agent and the kernel's threads are not. *Source:* proc_pid_stat(5),
//! proc_pid_status(5), proc_pid_cmdline(5).

use std::{collections::BTreeMap, fs, io::Read as _};

use cofferdam_proto::{
    FailureKind, GuestProcess, MAX_LISTED_COMMAND_BYTES, MAX_LISTED_PROCESSES, ProcessList,
};
use rustix::time::{ClockId, clock_gettime};

use crate::failure::{OrFail, Result};

/// Lists the processes.
///
/// # Errors
/// When `/proc` cannot be read. A process that ends meanwhile is left out.
pub(crate) fn list() -> Result<ProcessList> {
    let now = clock_gettime(ClockId::Boottime);
    let now_ms = u64::try_from(now.tv_sec).unwrap_or_default() * 1000
        + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000;
    let entries = fs::read_dir("/proc").or_fail(
        FailureKind::Internal,
        || "Could not read the guest's processes",
    )?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // Numbers of the root namespace to those of the workload's.
    let mut inner = BTreeMap::new();
    let mut found = Vec::new();
    for number in numbers.collect::<Vec<u32>>() {
        let Some(status) = Status::read(number) else {
            continue;
        };
        inner.insert(number, status.pid);
        if let Some(process) = describe(number, &status, now_ms) {
            found.push(process);
        }
    }
    let total = u32::try_from(found.len()).unwrap_or(u32::MAX);
    found.sort_by_key(|process| process.pid);
    found.truncate(MAX_LISTED_PROCESSES);
    for process in &mut found {
        process.parent = inner.get(&process.parent).copied().unwrap_or(0);
    }
    let processes = found;
    Ok(ProcessList { processes, total })
}

/// What `/proc/PID/status` says.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    /// Number in the workload's namespace.
    pid: u32,
    uid: u32,
}

impl Status {
    /// Nothing of a process that is not in the workload's namespace, or is gone.
    fn read(number: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{number}/status")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        // From the outermost namespace to the innermost; the workload's is the second.
        let pid = field("NSpid:")?.split_whitespace().nth(1)?.parse().ok()?;
        let uid = field("Uid:")?.split_whitespace().next()?.parse().ok()?;
        Some(Self { pid, uid })
    }
}

/// A process; its parent is still a number of the root namespace.
fn describe(number: u32, status: &Status, now_ms: u64) -> Option<GuestProcess> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let tick_ms = 1000 / rustix::param::clock_ticks_per_second().max(1);
    let page = rustix::param::page_size() as u64;
    let stat = Stat::parse(&stat)?;
    Some(GuestProcess {
        pid: status.pid,
        parent: stat.parent,
        uid: status.uid,
        state: stat.state,
        threads: stat.threads,
        cpu_time_ms: stat.cpu_ticks.saturating_mul(tick_ms),
        age_ms: now_ms.saturating_sub(stat.start_ticks.saturating_mul(tick_ms)),
        memory_bytes: stat.resident_pages.saturating_mul(page),
        command: command(number).unwrap_or_else(|| format!("[{}]", stat.name)),
    })
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat<'a> {
    name: &'a str,
    state: char,
    parent: u32,
    cpu_ticks: u64,
    threads: u32,
    start_ticks: u64,
    resident_pages: u64,
}

impl<'a> Stat<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        // The name may hold blanks and parentheses; fields are counted behind the last.
        let (head, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The state is field 3 of the manual page.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let small = |field| u32::try_from(number(field)?).ok();
        Some(Self {
            name: head.split_once('(')?.1,
            state: fields.first()?.chars().next()?,
            parent: small(4)?,
            cpu_ticks: number(14)?.saturating_add(number(15)?),
            threads: small(20)?,
            start_ticks: number(22)?,
            resident_pages: number(24)?,
        })
    }
}

/// The start of a process's command line; none if it has none.
fn command(number: u32) -> Option<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(format!("/proc/{number}/cmdline")).ok()?;
    let limit = MAX_LISTED_COMMAND_BYTES as u64;
    file.take(limit).read_to_end(&mut bytes).ok()?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    let words = bytes.split(|byte| *byte == 0);
    let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
    let mut text = words.join(" ");
    // What is no UTF-8 has grown.
    while text.len() > MAX_LISTED_COMMAND_BYTES {
        text.pop();
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_shifts_no_field() {
        let text =
            "42 (a) b (c)) S 7 42 42 0 -1 4194304 100 0 0 0 11 22 0 0 20 0 3 0 555 1000 66 0";
        let expected = Stat {
            name: "a) b (c)",
            state: 'S',
            parent: 7,
            cpu_ticks: 33,
            threads: 3,
            start_ticks: 555,
            resident_pages: 66,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("42 (x"), None);
        assert_eq!(Stat::parse("42 (x) S 1"), None);
    }

    #[test]
    fn only_processes_of_the_workloads_namespace_count() {
        let text = |pids: &str| format!("Name:\tx\nUid:\t1000\t0\t0\t0\nNSpid:\t{pids}\n");
        let status = |pids: &str| Status::parse(&text(pids));
        assert_eq!(status("12"), None);
        assert_eq!(status("12\t3"), Some(Status { pid: 3, uid: 1000 }));
        assert_eq!(status("12\t3\t1"), Some(Status { pid: 3, uid: 1000 }));
    }

    #[test]
    fn this_very_process_is_described() {
        let status = Status { pid: 1, uid: 0 };
        let process = describe(std::process::id(), &status, u64::MAX).unwrap();
        assert!(process.memory_bytes > 0 && process.threads > 0);
        assert!(!process.command.is_empty());
    }
}
