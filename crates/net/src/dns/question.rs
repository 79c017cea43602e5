//! Queries of the guest: read with bounds, and written anew for a resolver.
//!
//! *Source:* RFC 1035, section 4.1; RFC 6891, section 6.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RecordType},
};

use crate::policy::Name;

/// Largest query.
pub(super) const MAX_QUERY_BYTES: usize = 1024;

/// Largest answer over UDP without a word about another size.
const PLAIN_BYTES: u16 = 512;

/// Largest answer over UDP that is sent or asked for: it fits one packet on any way.
const UDP_BYTES: u16 = 1232;

/// A query that is answered or passed on.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The guest's number of it.
    pub(super) id: u16,
    pub(super) query: Query,
    /// The name, if it is one that rules can have.
    pub(super) name: Option<Name>,
    recursion_desired: bool,
    checking_disabled: bool,
    /// The guest's own size over UDP and whether it wants signatures; absent: no EDNS.
    edns: Option<(u16, bool)>,
}

/// A message that is no query to answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not even a header, or an answer: nothing is said.
    Silent,
    /// It gets this answer.
    Answer(Vec<u8>),
}

impl Question {
    /// Reads a query.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let header = bytes.first_chunk::<12>().ok_or(Refused::Silent)?;
        let is_answer = header[2] & 0x80 != 0;
        if is_answer {
            return Err(Refused::Silent);
        }
        let id = u16::from_be_bytes([header[0], header[1]]);
        let refuse = |code| Refused::Answer(error_bytes(id, code));
        if bytes.len() > MAX_QUERY_BYTES {
            return Err(refuse(ResponseCode::FormErr));
        }
        let message = Message::from_vec(bytes).map_err(|_| refuse(ResponseCode::FormErr))?;
        if message.metadata.op_code != OpCode::Query {
            return Err(refuse(ResponseCode::NotImp));
        }
        let [query] = message.queries.as_slice() else {
            return Err(refuse(ResponseCode::FormErr));
        };
        // Zone transfers and meta queries are for servers.
        let meta = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
        if query.query_class != DNSClass::IN || meta {
            return Err(refuse(ResponseCode::NotImp));
        }
        Ok(Self {
            id,
            query: query.clone(),
            name: query.name.to_ascii().parse().ok(),
            recursion_desired: message.metadata.recursion_desired,
            checking_disabled: message.metadata.checking_disabled,
            edns: message
                .edns
                .as_ref()
                .map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
        })
    }

    /// The name as text, for events.
    pub(super) fn name_text(&self) -> String {
        self.query
            .name
            .to_ascii()
            .trim_end_matches('.')
            .to_ascii_lowercase()
    }

    /// The query for a resolver, with the number `id`. Nothing else of the guest's message is
    /// passed on.
    pub(super) fn for_resolver(&self, id: u16) -> Option<Vec<u8>> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(self.query.clone());
        if let Some((_, signatures)) = self.edns {
            message.set_edns(edns(signatures));
        }
        message.to_vec().ok()
    }

    /// An answer without records yet.
    pub(super) fn answer(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.response_code = code;
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.add_query(self.query.clone());
        if let Some((_, signatures)) = self.edns {
            message.set_edns(edns(signatures));
        }
        message
    }

    /// An answer that only has a code.
    pub(super) fn error(&self, code: ResponseCode) -> Vec<u8> {
        let answer = self.answer(code).to_vec();
        answer.unwrap_or_else(|_| error_bytes(self.id, ResponseCode::ServFail))
    }

    /// Bytes that an answer over UDP may have.
    pub(super) fn udp_bytes(&self) -> usize {
        let size = self.edns.map_or(PLAIN_BYTES, |(size, _)| size);
        usize::from(size.clamp(PLAIN_BYTES, UDP_BYTES))
    }
}

fn edns(signatures: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES).set_dnssec_ok(signatures);
    edns
}

/// An answer of a header only.
fn error_bytes(id: u16, code: ResponseCode) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes[2] = 0x80;
    bytes[3] = 0x80 | code.low();
    bytes
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A query as a guest sends it.
    pub(crate) fn query(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.parse().unwrap(), kind));
        message.to_vec().unwrap()
    }

    #[test]
    fn a_query_is_read_and_written_anew_with_another_number() {
        let question = Question::parse(&query("WWW.Example.com.", RecordType::A)).unwrap();
        assert_eq!(question.name.as_ref().unwrap().as_str(), "www.example.com");
        let bytes = question.for_resolver(9).unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.metadata.id, 9);
        assert_eq!(message.queries[0].query_type, RecordType::A);
        assert!(message.metadata.recursion_desired);
        assert_eq!(question.udp_bytes(), 512);
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let good = query("a.org.", RecordType::A);
        assert_eq!(Question::parse(&good[..11]).unwrap_err(), Refused::Silent);
        let mut answer = good.clone();
        answer[2] |= 0x80;
        assert_eq!(Question::parse(&answer).unwrap_err(), Refused::Silent);
        let code = |bytes: &[u8]| match Question::parse(bytes) {
            Err(Refused::Answer(answer)) => answer[3] & 15,
            other => panic!("{other:?}"),
        };
        assert_eq!(code(&good[..good.len() - 1]), 1);
        let mut update = good.clone();
        update[2] |= 5 << 3;
        assert_eq!(code(&update), 4);
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(code(&two), 1);
        let mut long = good.clone();
        long.resize(MAX_QUERY_BYTES + 1, 0);
        assert_eq!(code(&long), 1);
        assert_eq!(code(&query("a.org.", RecordType::AXFR)), 4);
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_read_or_refused() {
        let good = query("a.example.org.", RecordType::AAAA);
        for at in 0..good.len() {
            let _ = Question::parse(&good[..at]);
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let _ = Question::parse(&bytes);
            }
        }
    }
}
