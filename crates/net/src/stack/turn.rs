//! The loop of a stack: take frames, let each part do what it can, write frames, wait.

use std::time::Instant;

use super::{Stack, handle::Command};
use crate::{
    error::{Result, io},
    event::Event,
    frame::Fill,
    limit::Bucket,
    peers::Peers,
    policy::Policy,
    poller::{Owner, Wake},
    stats::bytes,
};

/// Reads of the channel in one turn; each may bring many frames.
const FILLS: usize = 4;

/// Why a stack has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A handle has stopped it.
    Stopped,
    /// The other side of the frame channel is gone.
    ChannelClosed,
}

/// What the channel of frames is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interest {
    read: bool,
    write: bool,
}

impl Stack {
    /// Runs until a handle stops it or the channel ends. Without traffic it never wakes up.
    ///
    /// # Blocking
    /// For the life of the sandbox.
    ///
    /// # Errors
    /// `Io` when the poller or the channel fails.
    pub fn run(mut self) -> Result<End> {
        let fd = |error| io("Could not wait for frames", error);
        let mut interest = Interest {
            read: true,
            write: false,
        };
        let frames = self.cx.egress.io.fd();
        self.cx
            .poller
            .add_level(frames, Owner::Frames, crate::poller::NO_SLOT)
            .map_err(fd)?;
        let mut wakes = Vec::new();
        loop {
            // Before the commands are read: one that comes after that wakes the next wait.
            if wakes.iter().any(|wake: &Wake| wake.owner == Owner::Waker) {
                self.cx.poller.drain_waker();
            }
            if let Some(end) = self.commands() {
                return Ok(end);
            }
            self.turn(&wakes)?;
            if self.closed {
                let counters = &self.cx.counters;
                self.cx.events.send(Event::ChannelClosed, counters);
                return Ok(End::ChannelClosed);
            }
            let flushed = self.cx.egress.flush();
            let flushed = flushed.map_err(|error| io("Could not send frames", error))?;
            let wanted = Interest {
                read: self.up.is_open(self.cx.now),
                write: !flushed,
            };
            if wanted != interest {
                interest = wanted;
                let frames = self.cx.egress.io.fd();
                self.cx
                    .poller
                    .set_frames(frames, wanted.read, wanted.write)
                    .map_err(fd)?;
            }
            let deadline = self.deadline();
            self.cx.poller.wait(deadline, &mut wakes).map_err(fd)?;
            self.cx.counters.wake_ups.one();
        }
    }

    /// One turn of every part.
    fn turn(&mut self, wakes: &[Wake]) -> Result<()> {
        self.cx.now = Instant::now();
        for wake in wakes {
            match wake.owner {
                Owner::Frames if wake.ready.read => self.take_frames()?,
                Owner::Frames => {}
                Owner::Waker => {}
                Owner::Tcp => self.tcp.ready(&mut self.cx, wake.slot, wake.ready),
                Owner::Udp => self.udp.ready(&mut self.cx, wake.slot),
                Owner::Icmp => self.icmp.ready(&mut self.cx, wake.slot),
                Owner::Dns => self.dns.ready(&mut self.cx, wake.slot, wake.ready),
                Owner::DnsServer => self.dns.server_ready(&mut self.cx, wake.slot),
                Owner::SwitchListener | Owner::SwitchInput | Owner::SwitchOutput => {
                    let cx = &mut self.cx;
                    cx.switch.ready(&cx.poller, cx.now, *wake);
                }
                Owner::Publish => {
                    let (cx, tcp) = (&mut self.cx, &mut self.tcp);
                    self.publish.ready(cx, tcp, wake.slot);
                }
            }
        }
        self.tcp.turn(&mut self.cx);
        self.udp.turn(&mut self.cx);
        self.icmp.turn(&mut self.cx);
        self.dns.turn(&mut self.cx);
        self.publish.turn(&mut self.cx);
        self.peers.turn(&mut self.cx);
        Ok(())
    }

    /// Takes frames from the guest until none is left, the turn is over or the rate is reached.
    fn take_frames(&mut self) -> Result<()> {
        for _ in 0..FILLS {
            if !self.up.is_open(self.cx.now) {
                return Ok(());
            }
            // Taken out, so that frames are handled where they lie while others are queued.
            let mut input = self.input.take().unwrap_or_default();
            let filled = self.cx.egress.io.fill(&mut input);
            for frame in input.frames() {
                self.take_frame(frame);
            }
            self.input = Some(input);
            match filled.map_err(|error| io("Could not receive frames", error))? {
                Fill::Data => {}
                Fill::Empty => return Ok(()),
                Fill::Closed => {
                    self.closed = true;
                    return Ok(());
                }
            }
            let skipped = self.cx.egress.io.skipped();
            self.cx.counters.malformed.add(skipped - self.skipped);
            self.skipped = skipped;
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: &[u8]) {
        self.up.take(frame.len());
        self.cx.counters.rx_frames.one();
        self.cx.counters.rx_bytes.add(bytes(frame.len()));
        self.handle_frame(frame);
    }

    /// When the loop has to turn without a reason from outside.
    fn deadline(&mut self) -> Option<Instant> {
        let waiting = self.tcp.is_stalled() || Peers::is_stalled(&self.cx);
        let stalled = waiting || !self.up.is_open(self.cx.now);
        let limits = [self.up.opens_at(), self.cx.egress.rate.opens_at()];
        let limits = limits.into_iter().flatten().filter(|_| stalled);
        // The queue was written since flows began to wait for room in it.
        let room = waiting && self.cx.egress.has_room(self.cx.now);
        let at_once = room.then_some(self.cx.now);
        [
            self.tcp.deadline(self.cx.now),
            self.udp.deadline(),
            self.icmp.deadline(),
            self.dns.deadline(),
            self.publish.deadline(),
            self.cx.switch.deadline(),
        ]
        .into_iter()
        .flatten()
        .chain(limits)
        .chain(at_once)
        .min()
    }

    /// Does what handles ask for.
    fn commands(&mut self) -> Option<End> {
        while let Ok(command) = self.commands.try_recv() {
            self.cx.now = Instant::now();
            // An asker that has gone wants no result.
            match command {
                Command::Stop => return Some(End::Stopped),
                Command::SetPolicy {
                    profile,
                    rules,
                    host_addresses,
                } => {
                    self.cx.policy = Policy {
                        profile,
                        rules,
                        host_addresses,
                    };
                }
                Command::SetRate(rate) => {
                    self.up = Bucket::new(rate.up, self.cx.now);
                    self.cx.egress.rate = Bucket::new(rate.down, self.cx.now);
                }
                Command::ResetFlows => {
                    self.reset_flows();
                }
                Command::ResetDenied(sender) => {
                    let _ = sender.send(Ok(self.reset_denied()));
                }
                Command::Configure(config, sender) => {
                    let _ = sender.send(self.configure(*config));
                }
                Command::Join(network, sender) => {
                    let _ = sender.send(self.join(*network));
                }
                Command::Leave(name, sender) => {
                    // What the guest has sent before goes out first: the resets of its connections.
                    self.cx.now = Instant::now();
                    let taken = self.take_frames();
                    self.leave(&name);
                    let _ = sender.send(taken);
                }
                Command::Flows(sender) => {
                    let mut flows = self.tcp.list(self.cx.now);
                    flows.extend(self.udp.list(self.cx.now));
                    flows.extend(self.publish.flows(&self.cx));
                    let _ = sender.send(Ok(flows));
                }
                Command::Publish(port, sender) => {
                    let _ = sender.send(self.publish.add(&self.cx, port));
                }
                Command::Unpublish(id, sender) => {
                    let _ = sender.send(self.publish.remove(&self.cx, id));
                }
                Command::Published(sender) => {
                    let _ = sender.send(Ok(self.publish.list()));
                }
                Command::Capture(next, sender) => {
                    let previous = std::mem::replace(&mut self.cx.egress.capture, next);
                    let _ = sender.send(Ok(previous));
                }
            }
        }
        None
    }
}
