//! An agent for the fake's guests: it answers as a sound one does and runs no program.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cofferdam_backend::fake::{GuestProgram, GuestState};
use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, Channel, Condition, Decoder, FrameKind, GENERATION, HostMessage,
    ProcessList, SESSION_STREAM, decode_control, encode_control, encode_data,
};
use cofferdam_types::ExitStatus;

/// Bits of the guest's memory.
const BOOTED: u64 = 1;
const MOUNTED: u64 = 2;
const RUNS: u64 = 4;
const FROZEN: u64 = 8;

/// The agent of all guests of a backend.
#[derive(Debug, Default)]
pub(super) struct FakeAgent {
    /// What guests did, in order: `boot`, `mount`, `start`, `adopt CAUSE HOSTNAME`, `inherit`,
    /// `thaw`, `freeze`, `quiesce`.
    did: Mutex<Vec<String>>,
    mute: AtomicBool,
}

impl FakeAgent {
    /// What guests did since the last call.
    pub(super) fn did(&self) -> Vec<String> {
        std::mem::take(&mut *self.did.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has guests that boot from now on never answer.
    pub(super) fn be_mute(&self) {
        self.mute.store(true, Ordering::Relaxed);
    }

    fn note(&self, what: impl Into<String>) {
        let mut did = self.did.lock().unwrap_or_else(PoisonError::into_inner);
        did.push(what.into());
    }

    fn serve(&self, mut port: UnixStream, guest: &GuestState) -> io::Result<()> {
        let booted = guest.step(|word| {
            let booted = *word == 0;
            *word |= BOOTED;
            booted
        });
        if booted == Some(true) {
            self.note("boot");
            if self.mute.load(Ordering::Relaxed) {
                // Until it is killed.
                return io::copy(&mut port, &mut io::sink()).map(drop);
            }
            port.write_all(&control(CONTROL_STREAM, &ready()))?;
        }
        let mut decoder = Decoder::new();
        let mut buffer = [0; 4096];
        loop {
            let length = port.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            decoder.push(&buffer[..length]);
            while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
                if frame.kind != FrameKind::Control {
                    continue;
                }
                let message = decode_control(frame.payload).map_err(io::Error::other)?;
                if matches!(message, HostMessage::Shutdown { .. }) {
                    return Ok(());
                }
                let answer = guest.step(|word| self.answer(frame.stream, message, word));
                let Some(answer) = answer else { return Ok(()) };
                port.write_all(&answer)?;
            }
        }
    }

    /// Does what a message asks for; returns the frames of the answer.
    fn answer(&self, stream: u32, message: HostMessage, word: &mut u64) -> Vec<u8> {
        let answer = match message {
            HostMessage::Hello { .. } => ready(),
            HostMessage::Adopt(identity) => {
                let cause = identity.cause.as_str();
                self.note(format!("adopt {cause} {}", identity.hostname));
                AgentMessage::Adopted
            }
            HostMessage::MountRoot(_) => {
                self.note("mount");
                *word |= MOUNTED;
                AgentMessage::RootMounted
            }
            HostMessage::Start { process, .. } => {
                assert_eq!(*word, BOOTED | MOUNTED, "a start out of order");
                self.note("start");
                *word |= RUNS;
                return session(stream, &process.argv);
            }
            HostMessage::Exec { process, .. } => {
                assert_eq!(*word & RUNS, RUNS, "an exec without a workload");
                return session(stream, &process.argv);
            }
            HostMessage::WarmUp(process) | HostMessage::Rehearse(process) => {
                return session(stream, &process.argv);
            }
            HostMessage::Signal { signal } | HostMessage::SignalSession { signal } => {
                if stream == SESSION_STREAM {
                    *word &= !RUNS;
                }
                return ended(stream, ExitStatus::Signal(signal));
            }
            HostMessage::Freeze { .. } => {
                self.note("freeze");
                *word |= FROZEN;
                AgentMessage::Frozen
            }
            HostMessage::Thaw { .. } => {
                self.note("thaw");
                *word &= !FROZEN;
                AgentMessage::Thawed
            }
            HostMessage::Trust { .. } => {
                self.note("trust");
                AgentMessage::Trusted
            }
            HostMessage::Inherit => {
                assert_eq!(*word & FROZEN, FROZEN, "a guest that was not frozen");
                self.note("inherit");
                AgentMessage::Inherited
            }
            HostMessage::Quiesce => {
                self.note("quiesce");
                AgentMessage::Quiesced
            }
            HostMessage::Examine { .. } => condition(),
            HostMessage::ListProcesses => AgentMessage::Processes(ProcessList::default()),
            HostMessage::WriteBack { .. } | HostMessage::HoldBack { .. } => {
                AgentMessage::Dirty { bytes: 0 }
            }
            HostMessage::Limit(_) => AgentMessage::Limited,
            HostMessage::Readdress(_) => AgentMessage::Readdressed,
            HostMessage::Hook { .. } => AgentMessage::HookEnded {
                status: Some(ExitStatus::Code(0)),
                output: Vec::new(),
            },
            HostMessage::Trim { .. } => AgentMessage::Trimming {
                running: false,
                used_bytes: 0,
            },
            HostMessage::Connect(_) => AgentMessage::Connected,
            HostMessage::Resize(_) | HostMessage::Detach | HostMessage::Shutdown { .. } => {
                return Vec::new();
            }
        };
        control(stream, &answer)
    }
}

impl GuestProgram for FakeAgent {
    fn run(&self, port: UnixStream, guest: &GuestState) {
        // A machine that is killed hangs up, in the middle of a frame too.
        let _ = self.serve(port, guest);
    }
}

/// A process: `echo WORD` and `exit CODE` end at once, all others when they get a signal.
fn session(stream: u32, argv: &[String]) -> Vec<u8> {
    let mut out = control(stream, &AgentMessage::Started { pid: 1 });
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", word] => {
            encode_data(stream, Channel::Stdout, word.as_bytes(), false, &mut out);
            out.extend(ended(stream, ExitStatus::Code(0)));
        }
        ["exit", code] => {
            out.extend(ended(stream, ExitStatus::Code(code.parse().unwrap())));
        }
        _ => {}
    }
    out
}

fn ended(stream: u32, status: ExitStatus) -> Vec<u8> {
    let mut out = Vec::new();
    for channel in [Channel::Stdout, Channel::Stderr] {
        encode_data(stream, channel, b"", true, &mut out);
    }
    out.extend(control(stream, &AgentMessage::Exited { status }));
    out
}

fn control(stream: u32, message: &AgentMessage) -> Vec<u8> {
    let mut out = Vec::new();
    encode_control(stream, message, &mut out).unwrap();
    out
}

fn ready() -> AgentMessage {
    AgentMessage::Ready {
        generation: GENERATION,
        uptime_ns: 1,
    }
}

/// A guest that is fit to be a template.
fn condition() -> AgentMessage {
    AgentMessage::Condition(Condition {
        timer_resolution_ns: 1,
        clock_source: "tsc".to_owned(),
        memory_bytes: 60 << 20,
        complaints: Vec::new(),
    })
}
