//! The client: commands out, answers matched by id, events as watched states.
//!
//! One task owns the reading half; it ends when QEMU closes the socket, and then every waiting
//! command fails.
//! Lock order: `Pending` and the writing half are never held together; `Pending` is never held
//! across an await.

use std::{
    collections::HashMap,
    future::Future,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream as StdStream,
    },
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cofferdam_backend::{DiskFailure, Error, ErrorKind, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use tokio::{
    io::{AsyncWriteExt, BufReader, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex as AsyncMutex, oneshot, watch},
    time::timeout,
};

use super::{
    jobs::{JobEnd, Jobs},
    wire::{self, Line, Refusal},
};

/// Where a migration stands; the states between are of no interest here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MigrationStatus {
    Running,
    Completed,
    Failed,
}

/// What QEMU has told of by events.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    /// Whether the vCPUs run; `None` before the first event.
    pub(crate) running: watch::Receiver<Option<bool>>,
    pub(crate) migration: watch::Receiver<Option<MigrationStatus>>,
    /// The first failure of the host to read or write a disk.
    pub(crate) disk_failure: watch::Receiver<Option<DiskFailure>>,
}

/// The control channel of one QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    writer: AsyncMutex<OwnedWriteHalf>,
    pending: Arc<Mutex<Pending>>,
    next_id: AtomicU64,
    events: Events,
    jobs: Arc<Jobs>,
}

#[derive(Debug, Default)]
struct Pending {
    waiting: HashMap<u64, oneshot::Sender<std::result::Result<Value, Refusal>>>,
    /// Why no answer will come any more.
    closed: Option<String>,
}

impl Qmp {
    /// Takes a connected stream. Must be called within a tokio runtime.
    pub(crate) fn new(stream: StdStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(stream)?.into_split();
        let pending = Arc::new(Mutex::new(Pending::default()));
        let (running, watch_running) = watch::channel(None);
        let (migration, watch_migration) = watch::channel(None);
        let (disk_failure, watch_disk_failure) = watch::channel(None);
        let jobs = Arc::new(Jobs::default());
        let reading = Reader {
            pending: Arc::clone(&pending),
            running,
            migration,
            disk_failure,
            jobs: Arc::clone(&jobs),
        };
        tokio::spawn(reading.run(reader));
        Ok(Self {
            writer: AsyncMutex::new(writer),
            pending,
            next_id: AtomicU64::new(1),
            events: Events {
                running: watch_running,
                migration: watch_migration,
                disk_failure: watch_disk_failure,
            },
            jobs,
        })
    }

    pub(crate) fn events(&self) -> Events {
        self.events.clone()
    }

    /// The end of a job that is to be started.
    pub(crate) fn job_end(&self, id: &str) -> JobEnd {
        self.jobs.watch(id)
    }

    /// Runs a command and waits for its answer.
    pub(crate) async fn run(&self, name: &str, arguments: Value, limit: Duration) -> Result<Value> {
        let sent = self.send(name, &arguments, None).await?;
        answer(name, sent, limit).await
    }

    /// Runs a command that takes a descriptor along.
    pub(crate) async fn run_with_fd(
        &self,
        name: &str,
        arguments: Value,
        fd: BorrowedFd<'_>,
        limit: Duration,
    ) -> Result<Value> {
        let sent = self.send(name, &arguments, Some(fd)).await?;
        answer(name, sent, limit).await
    }

    /// Sends commands in one go; the future yields each one's answer in order, or the first
    /// failure.
    pub(crate) async fn pipeline(
        &self,
        commands: Vec<(&'static str, Value)>,
    ) -> Result<impl Future<Output = Result<()>> + use<>> {
        let mut sent = Vec::new();
        for (name, arguments) in commands {
            sent.push((name, self.send(name, &arguments, None).await?));
        }
        Ok(async move {
            for (name, answer) in sent {
                received(name, answer.await)?;
            }
            Ok(())
        })
    }

    async fn send(
        &self,
        name: &str,
        arguments: &Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Reply> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(reason) = &pending.closed {
                return Err(closed(name).because(io::Error::other(reason.clone())));
            }
            pending.waiting.insert(id, sender);
        }
        let line = wire::command(id, name, arguments);
        let mut writer = self.writer.lock().await;
        let written = match fd {
            Some(fd) => write_with_fd(&writer, &line, fd).await,
            None => writer.write_all(&line).await,
        };
        written.map_err(|error| closed(name).because(error))?;
        Ok(reply)
    }
}

type Reply = oneshot::Receiver<std::result::Result<Value, Refusal>>;

async fn answer(name: &str, reply: Reply, limit: Duration) -> Result<Value> {
    match timeout(limit, reply).await {
        Ok(reply) => received(name, reply),
        Err(_) => Err(Error::new(
            ErrorKind::Control,
            format!("QEMU did not answer `{name}` within {limit:?}"),
        )),
    }
}

fn received(
    name: &str,
    reply: std::result::Result<std::result::Result<Value, Refusal>, oneshot::error::RecvError>,
) -> Result<Value> {
    reply.map_err(|_| closed(name))?.map_err(|refusal| {
        Error::new(ErrorKind::Control, format!("QEMU refused `{name}`")).because(refusal)
    })
}

fn closed(name: &str) -> Error {
    Error::new(
        ErrorKind::Gone,
        format!("QEMU closed its control channel before it answered `{name}`"),
    )
}

/// Writes a line with a descriptor attached to its first byte.
async fn write_with_fd(writer: &OwnedWriteHalf, line: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let stream: &UnixStream = writer.as_ref();
    let mut rest = line;
    let mut attach = true;
    while !rest.is_empty() {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [fd];
            if attach && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::Error::other("no room for a descriptor"));
            }
            let sent = sendmsg(
                stream.as_fd(),
                &[IoSlice::new(rest)],
                &mut control,
                SendFlags::NOSIGNAL,
            )?;
            Ok(sent)
        });
        match sent {
            Ok(count) => {
                attach = false;
                rest = &rest[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Reader {
    pending: Arc<Mutex<Pending>>,
    running: watch::Sender<Option<bool>>,
    migration: watch::Sender<Option<MigrationStatus>>,
    disk_failure: watch::Sender<Option<DiskFailure>>,
    jobs: Arc<Jobs>,
}

impl Reader {
    async fn run(self, reader: OwnedReadHalf) {
        let reason = match self.read_all(BufReader::new(reader)).await {
            Ok(()) => "end of stream".to_owned(),
            Err(error) => error.to_string(),
        };
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.closed = Some(reason);
        pending.waiting.clear();
        drop(pending);
        self.jobs.close();
    }

    async fn read_all(&self, mut reader: BufReader<OwnedReadHalf>) -> io::Result<()> {
        let mut line = Vec::new();
        while wire::read_line(&mut reader, &mut line).await?.is_some() {
            match wire::parse(&line)? {
                Line::Greeting => {}
                Line::Event { name, data } => self.note(&name, &data),
                Line::Answer { id, result } => {
                    let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                    let waiting = pending.waiting.remove(&id);
                    drop(pending);
                    // No one waits any more for a command that timed out.
                    if let Some(sender) = waiting {
                        let _ = sender.send(result);
                    }
                }
            }
        }
        Ok(())
    }

    fn note(&self, event: &str, data: &Value) {
        match event {
            "STOP" => drop(self.running.send_replace(Some(false))),
            "RESUME" => drop(self.running.send_replace(Some(true))),
            "MIGRATION" => {
                let status = match data.get("status").and_then(Value::as_str) {
                    Some("completed") => MigrationStatus::Completed,
                    Some("failed" | "cancelled") => MigrationStatus::Failed,
                    _ => MigrationStatus::Running,
                };
                self.migration.send_replace(Some(status));
            }
            "BLOCK_IO_ERROR" => {
                let failure = disk_failure(data);
                self.disk_failure.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert(failure);
                    is_first
                });
            }
            _ => self.jobs.note(event, data),
        }
    }
}

/// Source: QEMU qapi/block-core.json, BLOCK_IO_ERROR; in 7.2 and 10.0 the same.
fn disk_failure(data: &Value) -> DiskFailure {
    let reason = data.get("reason").and_then(Value::as_str);
    let reason = reason.unwrap_or("unknown");
    // `nospace` is there only for a disk whose errors stop the machine. The reason is strerror(3).
    let no_space = ["No space left on device", "Disk quota exceeded"].contains(&reason);
    DiskFailure {
        no_space,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Read, Write};

    use serde_json::json;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A client, and a QEMU played by `script` on a thread.
    fn with_qemu(script: impl FnOnce(StdStream) + Send + 'static) -> Qmp {
        let (ours, theirs) = StdStream::pair().unwrap();
        std::thread::spawn(move || script(theirs));
        Qmp::new(ours).unwrap()
    }

    fn command(reader: &mut impl BufRead) -> Value {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    #[tokio::test]
    async fn answers_find_their_commands_in_any_order() {
        let qmp = with_qemu(|stream| {
            let mut reader = std::io::BufReader::new(&stream);
            let (first, second) = (command(&mut reader), command(&mut reader));
            for command in [second, first] {
                let answer = json!({"return": command["execute"], "id": command["id"]});
                writeln!(&stream, "{answer}").unwrap();
            }
        });
        let (a, b) = tokio::join!(
            qmp.run("one", Value::Null, LIMIT),
            qmp.run("two", Value::Null, LIMIT)
        );
        assert_eq!((a.unwrap(), b.unwrap()), (json!("one"), json!("two")));
    }

    #[tokio::test]
    async fn a_refusal_is_a_control_error_with_qemus_words() {
        let qmp = with_qemu(|stream| {
            let id = command(&mut std::io::BufReader::new(&stream))["id"].clone();
            let error = json!({"class": "GenericError", "desc": "the reason"});
            writeln!(&stream, "{}", json!({"error": error, "id": id})).unwrap();
        });
        let error = qmp.run("stop", Value::Null, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Control);
        assert!(error.chain().contains("the reason"), "{error:?}");
    }

    #[tokio::test]
    async fn a_closed_channel_fails_what_waits_and_what_comes_later() {
        let qmp = with_qemu(|stream| {
            command(&mut std::io::BufReader::new(&stream));
        });
        for _ in 0..2 {
            let error = qmp.run("stop", Value::Null, LIMIT).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Gone);
        }
    }

    #[tokio::test]
    async fn silence_ends_in_a_control_error() {
        let (ours, _silent) = StdStream::pair().unwrap();
        let qmp = Qmp::new(ours).unwrap();
        let short = Duration::from_millis(5);
        let error = qmp.run("stop", Value::Null, short).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Control);
    }

    #[tokio::test]
    async fn nonsense_closes_the_channel() {
        let qmp = with_qemu(|stream| {
            command(&mut std::io::BufReader::new(&stream));
            writeln!(&stream, "HTTP/1.1 200 OK").unwrap();
            let _ = (&stream).read(&mut [0]);
        });
        let error = qmp.run("stop", Value::Null, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gone);
    }

    #[tokio::test]
    async fn events_are_watched_states() {
        let qmp = with_qemu(|mut stream| {
            for event in [
                r#"{"event": "STOP", "data": {}}"#,
                r#"{"event": "UNKNOWN"}"#,
                r#"{"event": "MIGRATION", "data": {"status": "completed"}}"#,
            ] {
                writeln!(stream, "{event}").unwrap();
            }
            let _ = stream.read(&mut [0]);
        });
        let mut events = qmp.events();
        let completed =
            |status: &Option<MigrationStatus>| *status == Some(MigrationStatus::Completed);
        events.migration.wait_for(completed).await.unwrap();
        assert_eq!(*events.running.borrow(), Some(false));
    }

    #[tokio::test]
    async fn the_first_failure_of_a_disk_is_kept() {
        let qmp = with_qemu(|mut stream| {
            for reason in ["No space left on device", "Input/output error"] {
                let data = json!({
                    "device": "", "node-name": "disk1", "operation": "write",
                    "action": "report", "reason": reason,
                });
                let event = json!({"event": "BLOCK_IO_ERROR", "data": data});
                writeln!(stream, "{event}").unwrap();
            }
            writeln!(stream, r#"{{"event": "STOP", "data": {{}}}}"#).unwrap();
            let _ = stream.read(&mut [0]);
        });
        let mut events = qmp.events();
        events.running.wait_for(Option::is_some).await.unwrap();
        let expected = DiskFailure {
            no_space: true,
            reason: "No space left on device".to_owned(),
        };
        assert_eq!(*events.disk_failure.borrow(), Some(expected));
    }

    #[tokio::test]
    async fn a_descriptor_travels_with_its_command() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let qmp = with_qemu(|stream| {
            use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [0; 4096];
            let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
            let got = recvmsg(&stream, &mut parts, &mut control, RecvFlags::empty()).unwrap();
            let command: Value = serde_json::from_slice(&bytes[..got.bytes]).unwrap();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    for fd in fds {
                        std::fs::File::from(fd).write_all(b"here").unwrap();
                    }
                }
            }
            writeln!(&stream, "{}", json!({"return": {}, "id": command["id"]})).unwrap();
        });
        let name = json!({"fdname": "state"});
        let answer = qmp.run_with_fd("getfd", name, writer.as_fd(), LIMIT).await;
        drop(writer);
        answer.unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
    }
}
