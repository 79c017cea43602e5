//! The host's side of the wire, one thread, blocking.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
};

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, Channel, Decoder, Failure, FrameKind, GENERATION, HostMessage,
    Identity, IdentityCause, ProcessSpec, RootSpec, UpperDevice, decode_control, encode_control,
    encode_credit, encode_data,
};
use cofferdam_types::{ExitStatus, ResourceLimits};

use super::PATIENCE;

/// What came of a session so far.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) pid: Option<u32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) stdin_credit: u64,
    pub(crate) eofs: Vec<Channel>,
    pub(crate) status: Option<ExitStatus>,
    pub(crate) failure: Option<Failure>,
}

impl Outcome {
    pub(crate) fn is_over(&self) -> bool {
        self.status.is_some() || self.failure.is_some()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A connection to an agent.
pub(crate) struct Host {
    stream: UnixStream,
    decoder: Decoder,
    pub(crate) sessions: BTreeMap<u32, Outcome>,
    /// Messages on the control stream that nobody has waited for yet.
    messages: Vec<AgentMessage>,
    /// Give no credit for these sessions.
    pub(crate) stalled: Vec<u32>,
    /// Most bytes of credit given back at once.
    pub(crate) credit_step: u32,
    next: u32,
}

/// A process from its words.
pub(crate) fn process(argv: &[&str]) -> ProcessSpec {
    ProcessSpec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        ..ProcessSpec::default()
    }
}

/// A shell script.
pub(crate) fn shell(script: &str) -> ProcessSpec {
    process(&["/bin/sh", "-c", script])
}

impl Host {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            decoder: Decoder::new(),
            sessions: BTreeMap::new(),
            messages: Vec::new(),
            stalled: Vec::new(),
            credit_step: u32::MAX,
            next: 0,
        }
    }

    /// Another identity than [`Self::identity`] in every part, told from others by `seed`.
    pub(crate) fn other_identity(seed: u8) -> Identity {
        Identity {
            unix_ns: 2_000_000_000_000_000_000,
            entropy: vec![seed; 64],
            machine_id: format!("{seed:032x}"),
            hostname: format!("other-{seed}"),
            cause: IdentityCause::Fork,
            generation: format!("{seed:032x}"),
            fork_index: Some(seed.into()),
            network: None,
        }
    }

    pub(crate) fn identity(hostname: &str) -> Identity {
        Identity {
            unix_ns: 1_800_000_000_000_000_000,
            entropy: vec![7; 64],
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            hostname: hostname.to_owned(),
            cause: IdentityCause::Start,
            generation: "0".repeat(32),
            fork_index: None,
            network: None,
        }
    }

    pub(crate) fn root(upper: UpperDevice) -> RootSpec {
        RootSpec {
            upper,
            shm_bytes: 1 << 20,
            tmpfs: Vec::new(),
        }
    }

    /// All steps up to a workload that sleeps.
    pub(crate) fn bring_up(&mut self) -> u32 {
        self.mount(&Self::root(UpperDevice::Disk));
        self.start(shell(
            "trap 'exit 7' TERM; while :; do sleep 1000 & wait; done",
        ))
    }

    pub(crate) fn mount(&mut self, root: &RootSpec) {
        self.send(
            CONTROL_STREAM,
            &HostMessage::Hello {
                generation: GENERATION,
            },
        );
        self.send(CONTROL_STREAM, &HostMessage::Adopt(Self::identity("box")));
        self.send(CONTROL_STREAM, &HostMessage::MountRoot(root.clone()));
        self.expect("RootMounted", |message| {
            matches!(message, AgentMessage::RootMounted)
        });
    }

    /// Sends a message on the control stream and waits for an answer that is no failure.
    pub(crate) fn ask(
        &mut self,
        message: &HostMessage,
        what: &str,
        matches: impl Fn(&AgentMessage) -> bool,
    ) {
        self.send(CONTROL_STREAM, message);
        self.expect(what, matches);
    }

    /// Sends a message on the control stream that is refused.
    pub(crate) fn ask_in_vain(&mut self, message: &HostMessage) -> Failure {
        self.send(CONTROL_STREAM, message);
        self.next_failure()
    }

    pub(crate) fn freeze(&mut self, sync: bool) {
        self.ask(&HostMessage::Freeze { sync }, "Frozen", |message| {
            matches!(message, AgentMessage::Frozen)
        });
    }

    pub(crate) fn thaw(&mut self) {
        self.thaw_at(Self::identity("").unix_ns);
    }

    /// Lets a frozen machine go on with its clock at `unix_ns`.
    pub(crate) fn thaw_at(&mut self, unix_ns: u64) {
        self.ask(&HostMessage::Thaw { unix_ns }, "Thawed", |message| {
            matches!(message, AgentMessage::Thawed)
        });
    }

    /// Runs a hook; returns its exit code, if it ended, and its output.
    pub(crate) fn hook(&mut self, message: &HostMessage) -> (Option<u8>, String) {
        self.send(CONTROL_STREAM, message);
        let ended = self.expect("HookEnded", |message| {
            matches!(message, AgentMessage::HookEnded { .. })
        });
        let AgentMessage::HookEnded { status, output } = ended else {
            unreachable!("it was waited for");
        };
        let output = String::from_utf8_lossy(&output).into_owned();
        (status.map(ExitStatus::code), output)
    }

    pub(crate) fn hello(&mut self) {
        let hello = HostMessage::Hello {
            generation: GENERATION,
        };
        self.ask(&hello, "Ready", |message| {
            matches!(message, AgentMessage::Ready { .. })
        });
    }

    pub(crate) fn adopt(&mut self, identity: Identity) {
        self.ask(&HostMessage::Adopt(identity), "Adopted", |message| {
            matches!(message, AgentMessage::Adopted)
        });
    }

    /// Takes a restored machine over, whose workload has session `workload`, and lets it go on.
    pub(crate) fn take_over(&mut self, workload: u32, identity: Identity) {
        self.take_number(workload);
        let heir = Outcome {
            pid: Some(1),
            ..Outcome::default()
        };
        self.sessions.insert(workload, heir);
        let unix_ns = identity.unix_ns;
        self.hello();
        self.adopt(identity);
        self.ask(&HostMessage::Inherit, "Inherited", |message| {
            matches!(message, AgentMessage::Inherited)
        });
        self.thaw_at(unix_ns);
    }

    /// Starts the workload; it runs when this returns.
    pub(crate) fn start(&mut self, process: ProcessSpec) -> u32 {
        self.start_limited(process, ResourceLimits::default())
    }

    pub(crate) fn start_limited(&mut self, process: ProcessSpec, limits: ResourceLimits) -> u32 {
        let number = self.number();
        self.send(number, &HostMessage::Start { process, limits });
        self.until(number, |outcome| outcome.pid.is_some() || outcome.is_over());
        number
    }

    pub(crate) fn number(&mut self) -> u32 {
        self.next += 1;
        self.sessions.insert(self.next, Outcome::default());
        self.next
    }

    /// Asks for a process and does not wait.
    pub(crate) fn exec(&mut self, process: ProcessSpec) -> u32 {
        let number = self.number();
        self.send(
            number,
            &HostMessage::Exec {
                process,
                wait_all: false,
            },
        );
        number
    }

    /// Runs a process to its end.
    pub(crate) fn run(&mut self, process: ProcessSpec) -> Outcome {
        let number = self.exec(process);
        self.finish(number)
    }

    pub(crate) fn finish(&mut self, number: u32) -> Outcome {
        self.until(number, Outcome::is_over);
        self.sessions.remove(&number).unwrap()
    }

    pub(crate) fn until(&mut self, number: u32, done: impl Fn(&Outcome) -> bool) {
        while !done(&self.sessions[&number]) {
            self.receive();
        }
    }

    /// Waits for a message on the control stream.
    pub(crate) fn expect(
        &mut self,
        what: &str,
        matches: impl Fn(&AgentMessage) -> bool,
    ) -> AgentMessage {
        loop {
            if let Some(at) = self.messages.iter().position(&matches) {
                return self.messages.drain(..=at).next_back().unwrap();
            }
            let failed = self
                .messages
                .iter()
                .find(|message| matches!(message, AgentMessage::Failed(_)));
            assert!(failed.is_none(), "{failed:?} instead of {what}");
            self.receive();
        }
    }

    /// Takes a message on the control stream that has come already.
    pub(crate) fn take_message(
        &mut self,
        matches: impl Fn(&AgentMessage) -> bool,
    ) -> Option<AgentMessage> {
        let at = self.messages.iter().position(matches)?;
        Some(self.messages.remove(at))
    }

    /// The next failure on the control stream.
    pub(crate) fn next_failure(&mut self) -> Failure {
        loop {
            for message in std::mem::take(&mut self.messages) {
                if let AgentMessage::Failed(failure) = message {
                    return failure;
                }
            }
            self.receive();
        }
    }

    /// Closes the connection.
    pub(crate) fn hang_up(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// Numbers up to `number` are in use, by a host before this one.
    pub(crate) fn take_number(&mut self, number: u32) {
        self.next = self.next.max(number);
    }

    pub(crate) fn send(&mut self, stream: u32, message: &HostMessage) {
        let mut wire = Vec::new();
        encode_control(stream, message, &mut wire).unwrap();
        self.send_raw(&wire);
    }

    pub(crate) fn send_data(&mut self, stream: u32, bytes: &[u8], eof: bool) {
        let mut wire = Vec::new();
        encode_data(stream, Channel::Stdin, bytes, eof, &mut wire);
        self.send_raw(&wire);
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Gives credit by hand for a stalled session.
    pub(crate) fn credit(&mut self, stream: u32, channel: Channel, bytes: u32) {
        let mut wire = Vec::new();
        encode_credit(stream, channel, bytes, &mut wire);
        self.send_raw(&wire);
    }

    /// Receives some bytes and works them off.
    pub(crate) fn receive(&mut self) {
        let mut bytes = [0; 64 << 10];
        let count = loop {
            match self.stream.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other.expect("agent is silent"),
            }
        };
        assert_ne!(count, 0, "machine is gone");
        self.decoder.push(&bytes[..count]);
        let mut decoder = std::mem::take(&mut self.decoder);
        while let Some(frame) = decoder.next_frame().unwrap() {
            match frame.kind {
                FrameKind::Control => {
                    self.message(frame.stream, decode_control(frame.payload).unwrap());
                }
                FrameKind::Data => self.data(frame.stream, frame.channel, frame.payload, frame.eof),
                FrameKind::Credit => {
                    let credit = u64::from(frame.credit().unwrap());
                    if let Some(outcome) = self.sessions.get_mut(&frame.stream) {
                        outcome.stdin_credit += credit;
                    }
                }
            }
        }
        self.decoder = decoder;
    }

    fn message(&mut self, stream: u32, message: AgentMessage) {
        if stream == CONTROL_STREAM {
            self.messages.push(message);
            return;
        }
        let outcome = self
            .sessions
            .get_mut(&stream)
            .expect("message for an unknown session");
        assert!(!outcome.is_over(), "{message:?} after the end");
        match message {
            AgentMessage::Started { pid } => outcome.pid = Some(pid),
            AgentMessage::Exited { status } => outcome.status = Some(status),
            // A byte stream is a session without a process here.
            AgentMessage::Connected => outcome.pid = Some(0),
            AgentMessage::Disconnected => outcome.status = Some(ExitStatus::Code(0)),
            AgentMessage::Failed(failure) => outcome.failure = Some(failure),
            other => panic!("{other:?} on a session's stream"),
        }
    }

    fn data(&mut self, stream: u32, channel: Channel, bytes: &[u8], eof: bool) {
        let outcome = self
            .sessions
            .get_mut(&stream)
            .expect("data for an unknown session");
        assert!(
            outcome.pid.is_some() && !outcome.is_over(),
            "data outside of a session's life"
        );
        assert!(
            !outcome.eofs.contains(&channel),
            "data after the end of {channel:?}"
        );
        match channel {
            Channel::Stderr => outcome.stderr.extend_from_slice(bytes),
            _ => outcome.stdout.extend_from_slice(bytes),
        }
        if eof {
            outcome.eofs.push(channel);
        }
        if self.stalled.contains(&stream) {
            return;
        }
        let mut left = u32::try_from(bytes.len()).unwrap();
        while left > 0 {
            let step = left.min(self.credit_step);
            self.credit(stream, channel, step);
            left -= step;
        }
    }
}
