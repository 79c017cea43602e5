//! Byte streams to servers in the guest, beside the sessions.
//!
//! Each direction has its own window and its own end. An end from the host is a shutdown of the
//! socket's sending side, and the server's end is that of the output. A stream is over when both
//! have ended, or when the server has reset it. It shares the wait, the order of outputs and the
//! bound of the port's queue with the sessions, so it delays none of them by more than a chunk.

use std::time::Duration;

use cofferdam_proto::{AgentMessage, Channel, FailureKind};
use rustix::{
    io::Errno,
    net::sockopt::{set_socket_linger, socket_error},
};

use super::{
    Checked, Sessions, attempt::Attempt, flow::Medium, input::Input, log_failure, output::Output,
};
use crate::{
    failure::{OrFail, Result, failure},
    poll::{Poll, Token},
    port::Port,
};

/// Most byte streams at a time: each has two descriptors and up to one window of memory.
pub(crate) const MAX_STREAMS: usize = 256;

/// A byte stream.
#[derive(Debug)]
pub(super) enum GuestStream {
    Connecting(Attempt),
    Open(Box<OpenStream>),
}

#[derive(Debug)]
pub(super) struct OpenStream {
    input: Input,
    /// None once the server has ended its direction.
    output: Option<Output>,
}

impl OpenStream {
    fn close(mut self, sessions: &Poll, outputs: &Poll) {
        if let Some(mut output) = self.output.take() {
            output.unwatch(outputs);
            if !self.input.is_closed() {
                // The server must not take what came this far for all of it.
                let _ = set_socket_linger(&output.fd, Some(Duration::ZERO));
            }
        }
        self.input.discard(sessions);
    }
}

impl Sessions {
    /// Begins a byte stream.
    ///
    /// # Errors
    /// [`FailureKind::Limits`] past [`MAX_STREAMS`], or why the connection could not be made.
    pub(crate) fn connect(
        &mut self,
        number: u32,
        mut attempt: Attempt,
        port: &mut Port,
    ) -> Result<()> {
        if self.streams.len() >= MAX_STREAMS {
            let message = format!("There are {MAX_STREAMS} byte streams already");
            return Err(failure(FailureKind::Limits, message));
        }
        let is_connected = attempt.socket.is_some() || attempt.next(number, &self.poll)?;
        if is_connected {
            return self.open_stream(number, attempt, port);
        }
        self.streams
            .insert(number, GuestStream::Connecting(attempt));
        Ok(())
    }

    /// The kernel has connected a byte stream, or could not.
    pub(super) fn connection_event(&mut self, number: u32, port: &mut Port) {
        if !matches!(
            self.streams.get(&number),
            Some(GuestStream::Connecting(Attempt {
                socket: Some(_),
                ..
            }))
        ) {
            return;
        }
        let Some(GuestStream::Connecting(mut attempt)) = self.streams.remove(&number) else {
            return;
        };
        let outcome = attempt.socket.as_ref().map(|socket| {
            self.poll.remove(socket);
            socket_error(socket).and_then(|outcome| outcome)
        });
        let begun = match outcome.unwrap_or(Err(Errno::NOTCONN)) {
            Ok(()) => self.open_stream(number, attempt, port),
            Err(error) => {
                attempt.failed(error);
                self.connect(number, attempt, port)
            }
        };
        if let Err(failure) = begun {
            port.send(number, &AgentMessage::Failed(failure));
        }
    }

    fn open_stream(&mut self, number: u32, attempt: Attempt, port: &mut Port) -> Result<()> {
        let internal = FailureKind::Internal;
        let socket = attempt
            .socket
            .ok_or_else(|| failure(internal, "A connection has no socket"))?;
        let sending = socket
            .try_clone()
            .or_fail(internal, || "Could not copy a socket")?;
        let mut output = Output::new(socket, Channel::Stdout, Medium::Socket);
        output.watch(&self.outputs, number)?;
        let stream = OpenStream {
            input: Input::new(Some(sending), Medium::Socket),
            output: Some(output),
        };
        self.streams
            .insert(number, GuestStream::Open(Box::new(stream)));
        port.send(number, &AgentMessage::Connected);
        Ok(())
    }

    fn stream(&mut self, number: u32) -> Option<&mut OpenStream> {
        match self.streams.get_mut(&number) {
            Some(GuestStream::Open(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Bytes for a server. Those of a stream that is over crossed its end and are dropped.
    pub(super) fn stream_data(
        &mut self,
        number: u32,
        bytes: &[u8],
        eof: bool,
        port: &mut Port,
    ) -> Checked {
        if let Some(stream) = self.stream(number) {
            stream.input.push(bytes, eof)?;
            self.pump_stream_input(number, port);
        }
        Ok(())
    }

    pub(super) fn stream_credit(&mut self, number: u32, channel: Channel, bytes: u32) -> Checked {
        let Some(GuestStream::Open(stream)) = self.streams.get_mut(&number) else {
            return Ok(());
        };
        if let Some(output) = &mut stream.output
            && channel == Channel::Stdout
        {
            output.give(bytes)?;
            log_failure(output.watch(&self.outputs, number));
        }
        Ok(())
    }

    pub(super) fn pump_stream_input(&mut self, number: u32, port: &mut Port) {
        let Some(GuestStream::Open(stream)) = self.streams.get_mut(&number) else {
            return;
        };
        if self.held {
            return;
        }
        match stream.input.pump(&self.poll, Token::Stdin(number)) {
            Ok(freed) => port.credit(number, freed),
            failed => log_failure(failed.map(drop)),
        }
        self.end_stream_if_over(number, port);
    }

    pub(super) fn pump_stream_output(&mut self, number: u32, port: &mut Port) {
        let Some(GuestStream::Open(stream)) = self.streams.get_mut(&number) else {
            return;
        };
        let Some(output) = &mut stream.output else {
            return;
        };
        output.pump(number, port);
        if output.reset {
            self.end_stream(number, port);
            return;
        }
        if output.exhausted {
            // Sends the end.
            output.pump(number, port);
            output.unwatch(&self.outputs);
            stream.output = None;
            self.end_stream_if_over(number, port);
        } else {
            log_failure(output.watch(&self.outputs, number));
        }
    }

    fn end_stream_if_over(&mut self, number: u32, port: &mut Port) {
        let is_over = |stream: &mut OpenStream| stream.output.is_none() && stream.input.is_closed();
        if self.stream(number).is_some_and(is_over) {
            self.end_stream(number, port);
        }
    }

    /// Removes a stream that the server has ended, and says how.
    fn end_stream(&mut self, number: u32, port: &mut Port) {
        let Some(GuestStream::Open(stream)) = self.streams.remove(&number) else {
            return;
        };
        let reset = stream.input.failed || stream.output.is_some();
        stream.close(&self.poll, &self.outputs);
        let message = if reset {
            let kind = FailureKind::ConnectionReset;
            AgentMessage::Failed(failure(
                kind,
                "The server in the guest reset the connection",
            ))
        } else {
            AgentMessage::Disconnected
        };
        port.send(number, &message);
    }

    /// The host has no use for a stream any more.
    pub(super) fn close_stream(&mut self, number: u32) {
        match self.streams.remove(&number) {
            Some(GuestStream::Open(stream)) => stream.close(&self.poll, &self.outputs),
            // Its socket leaves the wait as it is closed: nothing else has it open.
            Some(GuestStream::Connecting(_)) | None => {}
        }
    }

    pub(super) fn close_streams(&mut self) {
        let numbers: Vec<u32> = self.streams.keys().copied().collect();
        for number in numbers {
            self.close_stream(number);
        }
    }
}
