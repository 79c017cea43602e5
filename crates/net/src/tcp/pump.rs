//! One turn of one flow: data both ways, segments out, and the next state.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use smoltcp::{iface::PollResult, socket::tcp, time::Instant as SmolInstant};

use super::{
    Tcp,
    check::{self, Check},
    device::Port,
    flow::{Flow, Half, State, reset_host},
    intercept, probe,
    relay::{self, Moved},
};
use crate::{context::Context, poller::Ready, slots::Slot, stats::bytes};

/// What a turn ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The flow goes on.
    Keep,
    /// The flow goes on, and has more to do at once.
    Again,
    /// It is over, and both sides have ended well.
    Over,
    /// It is over, and the host's connection is reset.
    Reset,
    /// The connect takes too long.
    TooLate,
}

impl Tcp {
    /// Lets a flow do what it can.
    pub(super) fn pump(&mut self, cx: &mut Context, slot: Slot) {
        let now = self.smol_now(cx.now);
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        let mut outcome = advance(cx, flow, slot);
        if matches!(outcome, Outcome::Keep | Outcome::Again) {
            self.emit(cx, slot, now);
            if let Some(flow) = self.flows.get_mut(slot)
                && let Some(end) = ended(flow)
            {
                outcome = end;
            }
        }
        match outcome {
            Outcome::Keep => self.rest(cx, slot, now),
            Outcome::Again => self.mark(slot),
            Outcome::Over => self.remove(cx, slot),
            Outcome::Reset => {
                if let Some(flow) = self.flows.get_mut(slot) {
                    reset_host(&flow.fd);
                }
                self.remove(cx, slot);
            }
            Outcome::TooLate => self.refuse_syn(cx, slot, Errno::TIMEDOUT),
        }
    }

    /// Sends what smoltcp has to send, as far as there is room.
    fn emit(&mut self, cx: &mut Context, slot: Slot, now: SmolInstant) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        let Some(link) = &mut flow.link else { return };
        if flow.quiet {
            return;
        }
        let mut port = Port::sending(&mut cx.egress, cx.now, cx.config.mtu);
        while self
            .interface
            .poll_egress(now, &mut port, &mut link.sockets)
            == PollResult::SocketStateChanged
        {}
        let sent = cx.egress.has_room(cx.now);
        flow.quiet = sent && link.socket().state() == tcp::State::TimeWait;
    }

    /// Sets when the flow is looked at again without a reason from outside.
    fn rest(&mut self, cx: &mut Context, slot: Slot, now: SmolInstant) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        let mut next = flow.gives_up;
        if let (Some(link), false) = (&mut flow.link, flow.quiet) {
            let last_ack = link.socket().state() == tcp::State::TimeWait;
            match self.interface.poll_at(now, &link.sockets) {
                Some(time) if time > now && !last_ack => {
                    let since = u64::try_from(time.total_micros()).unwrap_or(0);
                    let time = self.start + Duration::from_micros(since);
                    next = Some(next.map_or(time, |next| next.min(time)));
                }
                Some(_) if flow.stalled => {}
                Some(_) if !cx.egress.has_room(cx.now) => {
                    flow.stalled = true;
                    self.stalled.push(slot);
                }
                // smoltcp has something to send and did not: it is asked again, but never in a
                // loop without a pause.
                Some(_) => next = Some(cx.now + Duration::from_millis(1)),
                None => next = probe::ask(link.socket(), cx.now).or(next),
            }
        }
        self.set_deadline(slot, next);
    }

    pub(super) fn set_deadline(&mut self, slot: Slot, next: Option<Instant>) {
        if let Some(flow) = self.flows.get_mut(slot) {
            let old = std::mem::replace(&mut flow.deadline, next);
            self.deadlines.set(slot, old, next);
        }
    }
}

/// Moves data and changes the state.
fn advance(cx: &mut Context, flow: &mut Flow, slot: Slot) -> Outcome {
    let late = flow.gives_up.is_some_and(|time| time <= cx.now);
    let Some(link) = &mut flow.link else {
        return if late {
            Outcome::TooLate
        } else {
            Outcome::Keep
        };
    };
    if matches!(flow.state, State::Opening)
        && let Some(outcome) = finish_opening(&mut flow.state, link.socket(), late)
    {
        return outcome;
    }
    if matches!(flow.state, State::Failing { .. }) {
        return finish(cx, flow);
    }
    let socket = link.socket();
    let State::Relaying { up, down } = &mut flow.state else {
        return Outcome::Keep;
    };
    flow.gives_up = None;
    flow.guest_ended |= relay::guest_ended(socket);
    if flow.look {
        let remote = flow.key.remote;
        match check::check(cx, socket, flow.check_name, remote, flow.guest_ended) {
            Check::Passed(said) => {
                flow.look = false;
                flow.check_name = None;
                flow.said = said;
            }
            Check::Waiting => {}
            Check::Intercept(host) if intercept::take(cx, &mut flow.fd, slot, &host) => {
                flow.look = false;
                flow.check_name = None;
                flow.said = host.parse().ok();
                flow.scanner = None;
                flow.ready = Ready {
                    read: true,
                    write: true,
                };
            }
            Check::Denied | Check::Intercept(_) => {
                socket.abort();
                reset_host(&flow.fd);
                flow.state = State::Resetting;
                return Outcome::Keep;
            }
        }
    }
    let first = if flow.look {
        Moved::Done(0)
    } else {
        let scan = flow.scanner.as_mut().zip(cx.config.secrets.as_ref());
        relay::up(
            socket,
            &flow.fd,
            &mut flow.ready,
            up,
            flow.guest_ended,
            scan,
        )
    };
    let second = relay::down(socket, &flow.fd, &mut flow.ready, down);
    let (up_bytes, down_bytes) = (bytes(first.count()), bytes(second.count()));
    flow.moved.0 += up_bytes;
    flow.moved.1 += down_bytes;
    cx.counters.tcp_up_bytes.add(up_bytes);
    cx.counters.tcp_down_bytes.add(down_bytes);
    match (first, second) {
        (Moved::Failed(_), _) | (_, Moved::Failed(_)) => {
            if let Some(name) = flow
                .scanner
                .as_mut()
                .and_then(|scanner| scanner.found.take())
            {
                let what = (name, flow.key.remote);
                cx.events.misplaced(cx.now, what, &cx.counters);
                reset_host(&flow.fd);
                socket.abort();
                flow.state = State::Resetting;
                return Outcome::Keep;
            }
            let reading = *down == Half::Open && !matches!(second, Moved::Failed(_));
            flow.state = State::Failing { reading };
            finish(cx, flow)
        }
        (Moved::More(_), _) | (_, Moved::More(_)) => Outcome::Again,
        (Moved::Done(_), Moved::Done(_)) => Outcome::Keep,
    }
}

/// Gives the guest what a host's side that has failed had sent before, as the kernel gives a program
/// what came before a reset; then resets the guest's connection.
fn finish(cx: &mut Context, flow: &mut Flow) -> Outcome {
    let (Some(link), State::Failing { reading }) = (&mut flow.link, &mut flow.state) else {
        return Outcome::Keep;
    };
    let socket = link.socket();
    if *reading {
        let mut half = Half::Open;
        let moved = relay::read(socket, &flow.fd, &mut flow.ready, &mut half);
        *reading = half == Half::Open && !matches!(moved, Moved::Failed(_));
        let count = bytes(moved.count());
        flow.moved.1 += count;
        cx.counters.tcp_down_bytes.add(count);
        if matches!(moved, Moved::More(_)) {
            return Outcome::Again;
        }
    }
    if !*reading && socket.send_queue() == 0 {
        socket.abort();
        flow.state = State::Resetting;
    }
    Outcome::Keep
}

/// Begins to relay when the guest's handshake is done; before that, returns the outcome.
fn finish_opening(state: &mut State, socket: &tcp::Socket<'_>, late: bool) -> Option<Outcome> {
    match socket.state() {
        tcp::State::SynSent | tcp::State::SynReceived if !late => Some(Outcome::Keep),
        tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Listen | tcp::State::Closed => {
            Some(Outcome::Reset)
        }
        _ => {
            *state = State::Relaying {
                up: Half::Open,
                down: Half::Open,
            };
            None
        }
    }
}

/// Whether the flow is over, after segments were sent.
fn ended(flow: &mut Flow) -> Option<Outcome> {
    let socket = flow.link.as_mut()?.socket();
    let both_ended = matches!(
        flow.state,
        State::Relaying {
            up: Half::Ended,
            down: Half::Ended,
        }
    );
    match (&flow.state, socket.state()) {
        // The reset is sent once smoltcp has forgotten the other end.
        (State::Resetting, _) => socket.remote_endpoint().is_none().then_some(Outcome::Over),
        (_, tcp::State::Closed) if both_ended => Some(Outcome::Over),
        (_, tcp::State::TimeWait) if both_ended && flow.quiet => Some(Outcome::Over),
        // The guest has ended well, and the host has not taken all of its data yet.
        (State::Relaying { .. }, tcp::State::Closed) if flow.guest_ended => None,
        (_, tcp::State::Closed) => Some(Outcome::Reset),
        _ => None,
    }
}
