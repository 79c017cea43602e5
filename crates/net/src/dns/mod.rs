//! DNS: the gateway answers on port 53, and the host's resolvers are asked by own sockets.
//!
//! A query is read with bounds and written anew, so nothing else of the guest's message leaves.
//! The policy decides about the name. The answer is matched with its question, private addresses
//! are taken out of it, and what the guest learns is bound to the name, so that rules on names hold
//! for the connections that follow. Nothing is cached: the resolvers do that.
//!
//! *Source:* RFC 1034, RFC 1035, RFC 5452.

mod answer;
mod exchange;
mod local;
mod members;
mod question;
mod resolvers;
mod server;

use std::{net::SocketAddr, os::fd::OwnedFd, time::Duration, time::Instant};

use hickory_proto::{op::ResponseCode, rr::RecordType};

pub use resolvers::host_resolvers;

use self::{
    answer::Unusable,
    exchange::{Client, Exchange},
    question::{Question, Refused},
    server::{Connection, Turn},
};
use crate::{
    context::Context,
    event::Event,
    policy::{Decision, Denial, Reason},
    poller::{Owner, Ready},
    slots::{Deadlines, Slot, Slots},
    udp,
    wire::Datagram,
};

/// The port of DNS.
pub(crate) const PORT: u16 = 53;

/// DNS connections of the guest at a time.
const MAX_CONNECTIONS: usize = 64;

/// The gateway's DNS.
#[derive(Debug)]
pub(crate) struct Dns {
    exchanges: Slots<Exchange>,
    deadlines: Deadlines,
    connections: Slots<Connection>,
    /// Connections that got an answer, and may go on with the queries that wait in them.
    answered: Vec<Slot>,
    buffer: Vec<u8>,
}

impl Dns {
    pub(crate) fn new() -> Self {
        Self {
            exchanges: Slots::default(),
            deadlines: Deadlines::default(),
            connections: Slots::default(),
            answered: Vec::new(),
            buffer: vec![0; 65_536],
        }
    }

    /// A datagram of the guest to the gateway's port 53.
    pub(crate) fn datagram(&mut self, cx: &mut Context, datagram: &Datagram<'_>) {
        let client = Client::Udp {
            guest: datagram.source,
            gateway: datagram.destination,
        };
        self.ask(cx, datagram.data, client);
    }

    /// A connection of the guest to the gateway's port 53: returns the host's end of its flow;
    /// none if there are too many.
    pub(crate) fn accept(&mut self, cx: &mut Context) -> Option<OwnedFd> {
        if self.connections.len() >= MAX_CONNECTIONS {
            cx.counters.flows_refused.one();
            return None;
        }
        let (connection, flow) = Connection::new().ok()?;
        let poller = &cx.poller;
        let inserted = self.connections.insert_with(|slot| {
            poller.add(&connection.fd, Owner::DnsServer, slot)?;
            Ok::<_, std::io::Error>(connection)
        });
        inserted.is_ok().then_some(flow)
    }

    /// A connection of the guest has something to read, or room to write.
    pub(crate) fn server_ready(&mut self, cx: &mut Context, slot: Slot) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let mut queries = Vec::new();
        if connection.turn(|query| queries.push(query)) == Turn::Closed {
            self.connections.remove(slot);
            return;
        }
        for query in queries {
            self.ask(cx, &query, Client::Tcp(slot));
        }
    }

    /// Answers a query, or begins to ask a resolver.
    fn ask(&mut self, cx: &mut Context, bytes: &[u8], client: Client) {
        cx.counters.dns_queries.one();
        let question = match Question::parse(bytes) {
            Ok(question) => question,
            Err(refused) => {
                cx.counters.malformed.one();
                match refused {
                    Refused::Answer(answer) => self.give(cx, client, &answer),
                    Refused::Silent => self.close(client),
                }
                return;
            }
        };
        if let Some((message, addresses)) = local::answer(&question, &cx.config) {
            if let Some(name) = &question.name {
                let ttl = Duration::from_secs(local::TTL.into());
                for address in addresses {
                    cx.names.pin(name, address, ttl, cx.now);
                }
            }
            self.give_message(cx, client, &question, message.to_vec().ok());
        } else if let Some(message) = members::answer(&question, cx) {
            self.give_message(cx, client, &question, message.to_vec().ok());
        } else if let Some(denial) = denial(cx, &question) {
            cx.counters.denied.one();
            let name = question.name_text();
            let event = Event::NameDenied { name, denial };
            cx.events.name(cx.now, event, &cx.counters);
            self.give(cx, client, &question.error(ResponseCode::Refused));
        } else if hides_names(cx, &question) {
            self.give(cx, client, &question.error(ResponseCode::NoError));
        } else if self.exchanges.len() >= cx.config.limits.dns_pending {
            cx.counters.flows_refused.one();
            self.give(cx, client, &question.error(ResponseCode::ServFail));
        } else {
            let exchange = Exchange::new(question, client);
            let slot = self.exchanges.insert_with(|_| Ok::<_, ()>(exchange));
            if let Ok(slot) = slot {
                self.next_try(cx, slot);
            }
        }
    }

    /// A resolver has answered, or its socket has failed.
    pub(crate) fn ready(&mut self, cx: &mut Context, slot: Slot, ready: Ready) {
        let Some(exchange) = self.exchanges.get_mut(slot) else {
            return;
        };
        let bytes = match exchange.receive(ready, &mut self.buffer) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return,
            Err(_) => return self.next_try(cx, slot),
        };
        match answer::read(&bytes, &exchange.question, exchange.id, &cx.policy) {
            Ok(answer) => self.finish(cx, slot, &answer),
            // A forged or late answer: the right one may still come until the try is over.
            Err(Unusable::Foreign) => {}
            Err(Unusable::Failed) => self.next_try(cx, slot),
            Err(Unusable::Truncated) => {
                if !exchange.over_tcp(&cx.poller, &cx.config.resolvers, slot) {
                    self.next_try(cx, slot);
                }
            }
        }
    }

    /// Gives an answer to the guest, and remembers what it learns.
    fn finish(&mut self, cx: &mut Context, slot: Slot, answer: &answer::Answer) {
        let Some(exchange) = self.remove(slot) else {
            return;
        };
        let question = exchange.question;
        if let Some(name) = &question.name {
            for (address, ttl) in &answer.pins {
                cx.names.pin(name, *address, *ttl, cx.now);
            }
        }
        if let Some(address) = answer.private {
            cx.counters.denied.one();
            let name = question.name_text();
            let event = Event::RebindingRefused { name, address };
            cx.events.name(cx.now, event, &cx.counters);
        }
        if let Some((name, denial)) = answer.denied.clone() {
            cx.counters.denied.one();
            let event = Event::NameDenied { name, denial };
            cx.events.name(cx.now, event, &cx.counters);
        }
        self.give_message(cx, exchange.client, &question, answer.bytes.clone());
    }

    /// Asks the next resolver; if there is none left, the query has failed.
    fn next_try(&mut self, cx: &mut Context, slot: Slot) {
        let Some(exchange) = self.exchanges.get_mut(slot) else {
            return;
        };
        let asked = exchange.next_try(&cx.poller, &cx.config.resolvers, slot);
        let ends = asked.then_some(cx.now + cx.config.timeouts.dns_try);
        let old = std::mem::replace(&mut exchange.deadline, ends);
        self.deadlines.set(slot, old, ends);
        if asked {
            return;
        }
        if let Some(exchange) = self.remove(slot) {
            cx.counters.dns_failed.one();
            let name = exchange.question.name_text();
            cx.events
                .name(cx.now, Event::ResolversDown { name }, &cx.counters);
            let failed = exchange.question.error(ResponseCode::ServFail);
            self.give(cx, exchange.client, &failed);
        }
    }

    fn remove(&mut self, slot: Slot) -> Option<Exchange> {
        let exchange = self.exchanges.remove(slot)?;
        self.deadlines.set(slot, exchange.deadline, None);
        Some(exchange)
    }

    /// Ends the tries whose time is over, and lets connections go on.
    pub(crate) fn turn(&mut self, cx: &mut Context) {
        while let Some(slot) = self.deadlines.pop(cx.now) {
            if let Some(exchange) = self.exchanges.get_mut(slot) {
                exchange.deadline = None;
                self.next_try(cx, slot);
            }
        }
        while let Some(slot) = self.answered.pop() {
            self.server_ready(cx, slot);
        }
    }

    /// When [`Dns::turn`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    /// Forgets every query and every connection.
    pub(crate) fn reset_all(&mut self) {
        *self = Self::new();
    }

    /// Gives a message to the guest, cut to a question if it is too large for a datagram.
    fn give_message(
        &mut self,
        cx: &mut Context,
        client: Client,
        question: &Question,
        bytes: Option<Vec<u8>>,
    ) {
        let bytes = bytes.unwrap_or_else(|| question.error(ResponseCode::ServFail));
        if matches!(client, Client::Udp { .. }) && bytes.len() > question.udp_bytes() {
            let code = ResponseCode::from(0, bytes[3] & 15);
            let mut cut = question.answer(code);
            cut.metadata.truncation = true;
            let cut = cut.to_vec();
            let cut = cut.unwrap_or_else(|_| question.error(ResponseCode::ServFail));
            self.give(cx, client, &cut);
        } else {
            self.give(cx, client, &bytes);
        }
    }

    fn give(&mut self, cx: &mut Context, client: Client, bytes: &[u8]) {
        match client {
            Client::Udp { guest, gateway } => udp::deliver(cx, gateway, guest, bytes),
            Client::Tcp(slot) => {
                let Some(connection) = self.connections.get_mut(slot) else {
                    return;
                };
                if connection.answer(bytes) == Turn::Closed {
                    self.connections.remove(slot);
                } else {
                    self.answered.push(slot);
                }
            }
        }
    }

    /// Ends the connection of a guest that sends something else.
    fn close(&mut self, client: Client) {
        if let Client::Tcp(slot) = client {
            self.connections.remove(slot);
        }
    }
}

/// Why the name may not be looked up.
fn denial(cx: &Context, question: &Question) -> Option<Denial> {
    if cx.config.is_internal() {
        return Some(Denial {
            reason: Reason::Internal,
            allow: String::new(),
        });
    }
    match cx.policy.decide_lookup(question.name.as_ref()) {
        Decision::Deny(denial) => Some(Denial {
            allow: question.name_text(),
            ..denial
        }),
        Decision::Allow { .. } => None,
    }
}

/// Whether the answer could have keys that hide the name of a TLS server, and rules on names or
/// secrets need to see it. Such a question has no records then. *Source:* RFC 9460, section 7; RFC 9849.
fn hides_names(cx: &Context, question: &Question) -> bool {
    let service = matches!(
        question.query.query_type,
        RecordType::HTTPS | RecordType::SVCB | RecordType::ANY
    );
    let has_names = || cx.policy.rules.iter().any(|rule| rule.target.is_name());
    service && (cx.config.secrets.is_some() || has_names())
}

/// Whether `address` is where the gateway answers DNS.
pub(crate) fn is_server(cx: &Context, address: SocketAddr) -> bool {
    address.port() == PORT && cx.config.is_gateway(address.ip())
}
