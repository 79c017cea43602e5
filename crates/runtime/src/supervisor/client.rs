//! A supervisor's end of a client's connection.

use cofferdam_proto::{
    CONTROL_STREAM, Channel, ClientRequest, Decoder, Frame, FrameKind, SESSION_STREAM,
    SupervisorMessage, Window, decode_control, encode_control, encode_data,
};
use tokio::{io::AsyncReadExt, net::UnixStream, sync::mpsc};

use super::event::{ClientEvent, ClientId, Event};
use crate::link::{Outgoing, outgoing, write_all};

/// A connected client as the switchboard sees it.
#[derive(Debug)]
pub(crate) struct Client {
    outgoing: Outgoing,
    writing: tokio::task::JoinHandle<()>,
    /// What may still be sent to it, for standard output and error.
    windows: [Window; 2],
}

impl Client {
    /// Starts the tasks of a connection. Only the user who owns the sandbox may connect.
    pub(crate) fn accept(
        id: ClientId,
        stream: UnixStream,
        events: mpsc::Sender<Event>,
    ) -> Option<Self> {
        let uid = rustix::process::geteuid().as_raw();
        if !stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == uid || peer.uid() == 0)
        {
            return None;
        }
        let (reader, writer) = stream.into_split();
        let (outgoing, waiting) = outgoing();
        let writing = tokio::spawn(write_all(writer, waiting));
        tokio::spawn(async move {
            read_events(id, reader, &events).await;
            // The receiver is gone only when the supervisor ends.
            let _ = events.send(Event::Client(id, ClientEvent::Gone)).await;
        });
        Some(Self {
            outgoing,
            writing,
            windows: [Window::new(); 2],
        })
    }

    /// Waits until the kernel has all that was sent, then hangs up.
    pub(crate) async fn close(self) {
        let Self {
            outgoing, writing, ..
        } = self;
        drop(outgoing);
        // A writer that panicked has nothing left to write.
        let _ = writing.await;
    }

    /// Sends an answer.
    pub(crate) fn answer(&self, message: &SupervisorMessage) {
        let mut bytes = Vec::new();
        if encode_control(CONTROL_STREAM, message, &mut bytes).is_ok() {
            // A queue without a writer means that the client is gone, and its event is under way. A
            // full one is of a client that reads none of its answers.
            let _ = self.outgoing.send(bytes);
        }
    }

    /// Sends output; false when it has no room for that much.
    pub(crate) fn output(&mut self, channel: Channel, payload: &[u8], eof: bool) -> bool {
        let fits = self
            .window(channel)
            .is_some_and(|window| window.spend(payload.len()).is_ok());
        if fits {
            let mut bytes = Vec::with_capacity(payload.len() + 64);
            encode_data(SESSION_STREAM, channel, payload, eof, &mut bytes);
            let _ = self.outgoing.send_data(bytes);
        }
        fits
    }

    /// Notes that it has read output; false when it claims more than it was sent.
    pub(crate) fn credit(&mut self, channel: Channel, bytes: u32) -> bool {
        self.window(channel)
            .is_some_and(|window| window.give(bytes).is_ok())
    }

    /// Whether it has read all output that it was sent.
    pub(crate) fn has_all(&self) -> bool {
        self.windows == [Window::new(); 2]
    }

    /// Lets it send more input.
    pub(crate) fn give_input_credit(&self, bytes: u32) {
        self.outgoing.give(SESSION_STREAM, Channel::Stdin, bytes);
    }

    fn window(&mut self, channel: Channel) -> Option<&mut Window> {
        index(channel).map(|index| &mut self.windows[index])
    }
}

fn index(channel: Channel) -> Option<usize> {
    match channel {
        Channel::Stdin => None,
        Channel::Stdout => Some(0),
        Channel::Stderr => Some(1),
    }
}

/// Reads until the connection ends or the client breaks the protocol.
async fn read_events(
    id: ClientId,
    mut reader: tokio::net::unix::OwnedReadHalf,
    events: &mpsc::Sender<Event>,
) {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; 64 << 10];
    let mut introduced = false;
    loop {
        loop {
            let event = match decoder.next_frame() {
                Ok(Some(frame)) => parse(&frame, introduced),
                Ok(None) => break,
                Err(_) => return,
            };
            let Some(event) = event else { return };
            introduced = true;
            if events.send(Event::Client(id, event)).await.is_err() {
                return;
            }
        }
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => decoder.push(&buffer[..length]),
        }
    }
}

fn parse(frame: &Frame<'_>, introduced: bool) -> Option<ClientEvent> {
    match (frame.kind, frame.stream, introduced) {
        (FrameKind::Control, CONTROL_STREAM, false) => {
            decode_control::<ClientRequest>(frame.payload)
                .ok()
                .map(ClientEvent::Request)
        }
        (FrameKind::Control, SESSION_STREAM, true) => {
            decode_control(frame.payload).ok().map(ClientEvent::Message)
        }
        (FrameKind::Data, SESSION_STREAM, true) if frame.channel == Channel::Stdin => {
            Some(ClientEvent::Input {
                bytes: frame.payload.to_vec(),
                eof: frame.eof,
            })
        }
        (FrameKind::Credit, SESSION_STREAM, true) => {
            let bytes = frame.credit().ok()?;
            Some(ClientEvent::Credit {
                channel: frame.channel,
                bytes,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
use crate::link::Waiting;

#[cfg(test)]
impl Client {
    /// A client without a socket, and what it is sent.
    pub(crate) fn for_tests() -> (Self, Waiting) {
        let (outgoing, queue) = outgoing();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime can be made");
        let client = Self {
            outgoing,
            writing: runtime.spawn(async {}),
            windows: [Window::new(); 2],
        };
        (client, queue)
    }

    /// What was sent since: output, and answers.
    pub(crate) fn drain_for_tests(queue: &mut Waiting) -> (Vec<u8>, Vec<SupervisorMessage>) {
        let (mut output, mut answers) = (Vec::new(), Vec::new());
        let mut decoder = Decoder::new();
        while let Some(bytes) = queue.try_next() {
            decoder.push(&bytes);
            while let Some(frame) = decoder.next_frame().expect("frames are whole") {
                match frame.kind {
                    FrameKind::Control => {
                        answers.push(decode_control(frame.payload).expect("an answer"));
                    }
                    _ => output.extend_from_slice(frame.payload),
                }
            }
        }
        (output, answers)
    }
}
