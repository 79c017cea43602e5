//! Answers of resolvers: matched with their question, filtered, and bound to names.
//!
//! *Source:* RFC 1035, section 7.3; RFC 2181, section 5.4.1.

use std::{net::IpAddr, time::Duration};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name as WireName, RData, Record},
};

use super::question::Question;
use crate::policy::{Decision, Denial, Name, Policy, Reason};

/// Names of a chain of aliases that are followed.
const MAX_CHAIN: usize = 16;

/// Records of one answer that are looked at: as many addresses as fit an answer over TCP.
const MAX_RECORDS: usize = 4096;

/// Largest time to live. A larger one means 0. *Source:* RFC 2181, section 8.
const MAX_TTL: u32 = i32::MAX as u32;

/// An answer that may be given to the guest.
#[derive(Debug)]
pub(super) struct Answer {
    /// With the guest's number.
    pub(super) message: Message,
    /// The message as it is sent; absent: it is too large for its form.
    pub(super) bytes: Option<Vec<u8>>,
    /// Addresses that the guest learns for the name it asked for.
    pub(super) pins: Vec<(IpAddr, Duration)>,
    /// The first address that was left out because it is private.
    pub(super) private: Option<IpAddr>,
    /// A rule that denies one of the aliases.
    pub(super) denied: Option<(String, Denial)>,
}

/// Why an answer is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It does not belong to the question: it is ignored, and the right one may still come.
    Foreign,
    /// It was cut, and asking over TCP gives all of it.
    Truncated,
    /// The resolver has failed; another may not.
    Failed,
}

/// Reads `bytes` as the answer to `question` that was asked with the number `id`.
pub(super) fn read(
    bytes: &[u8],
    question: &Question,
    id: u16,
    policy: &Policy,
) -> Result<Answer, Unusable> {
    let mut message = Message::from_vec(bytes).map_err(|_| Unusable::Foreign)?;
    let metadata = &message.metadata;
    if metadata.id != id
        || metadata.message_type != MessageType::Response
        || message.queries.as_slice() != [question.query.clone()]
    {
        return Err(Unusable::Foreign);
    }
    if metadata.truncation {
        return Err(Unusable::Truncated);
    }
    let failed = matches!(
        metadata.response_code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    );
    if failed || message.all_sections().count() > MAX_RECORDS {
        return Err(Unusable::Failed);
    }
    message.metadata.id = question.id;
    let received = message.clone();
    let mut answer = filter(message, question, policy);
    let original = (answer.message == received).then_some(bytes);
    answer.bytes = encode(&answer.message, original);
    Ok(answer)
}

/// The bytes of a message. `original`: those that were received, if it is still the same but for
/// its number. They are used where ours do not fit: the encoder compresses the first names only.
fn encode(message: &Message, original: Option<&[u8]>) -> Option<Vec<u8>> {
    let is_cut = |bytes: &[u8]| bytes.get(2).is_none_or(|flags| flags & 2 != 0);
    let ours = message.to_vec().ok().filter(|bytes| !is_cut(bytes));
    ours.or_else(|| {
        let mut bytes = original?.to_vec();
        let id = bytes.first_chunk_mut::<2>()?;
        *id = message.metadata.id.to_be_bytes();
        Some(bytes)
    })
}

/// Leaves out private addresses and addresses of names that were not asked for.
fn filter(mut message: Message, question: &Question, policy: &Policy) -> Answer {
    let chain = chain(&message, &question.query.name);
    for section in [
        &mut message.answers,
        &mut message.authorities,
        &mut message.additionals,
    ] {
        for record in section.iter_mut().filter(|record| record.ttl > MAX_TTL) {
            record.ttl = 0;
        }
    }
    let mut private = None;
    let mut keep = |record: &Record| match address(&record.data) {
        Some(address) if policy.is_private_answer(address) => {
            private.get_or_insert(address);
            false
        }
        _ => true,
    };
    message.answers.retain(|record| {
        let foreign = address(&record.data).is_some() && !chain.contains(&record.name);
        !foreign && keep(record)
    });
    message.authorities.retain(&mut keep);
    message.additionals.retain(&mut keep);
    let ttl = |record: &Record| Duration::from_secs(record.ttl.into());
    let pins: Vec<_> = message
        .answers
        .iter()
        .filter_map(|record| Some((address(&record.data)?, ttl(record))))
        .collect();
    let denied = chain.iter().skip(1).find_map(|alias| denial(alias, policy));
    if let Some(code) = match (&denied, private) {
        (Some(_), _) => Some(ResponseCode::Refused),
        (None, Some(_)) if pins.is_empty() => Some(ResponseCode::NXDomain),
        _ => None,
    } {
        return Answer {
            message: question.answer(code),
            bytes: None,
            pins: Vec::new(),
            private,
            denied,
        };
    }
    Answer {
        message,
        bytes: None,
        pins,
        private,
        denied,
    }
}

/// The name and its aliases, in the order in which they lead to each other.
fn chain(message: &Message, name: &WireName) -> Vec<WireName> {
    let mut chain = vec![name.clone()];
    while chain.len() < MAX_CHAIN {
        let last = &chain[chain.len() - 1];
        let next = message
            .answers
            .iter()
            .find_map(|record| match &record.data {
                RData::CNAME(alias) if record.name == *last => Some(alias.0.clone()),
                _ => None,
            });
        match next {
            Some(next) if !chain.contains(&next) => chain.push(next),
            _ => break,
        }
    }
    chain
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// The rule that denies an alias. That no rule allows it is no reason: the guest asked for another
/// name.
fn denial(alias: &WireName, policy: &Policy) -> Option<(String, Denial)> {
    let name: Name = alias.to_ascii().parse().ok()?;
    match policy.decide_name(&name, None) {
        Decision::Deny(denial) if matches!(denial.reason, Reason::Rule(_)) => {
            Some((name.to_string(), denial))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::{
        op::OpCode,
        rr::{
            RecordType,
            rdata::{A, CNAME},
        },
    };

    use super::{super::question::tests::query, *};
    use crate::policy::Profile;

    fn question(name: &str) -> Question {
        Question::parse(&query(name, RecordType::A)).unwrap()
    }

    fn a(name: &str, address: [u8; 4]) -> Record {
        let data = RData::A(A(Ipv4Addr::from(address)));
        Record::from_rdata(name.parse().unwrap(), 60, data)
    }

    fn alias(name: &str, to: &str) -> Record {
        let data = RData::CNAME(CNAME(to.parse().unwrap()));
        Record::from_rdata(name.parse().unwrap(), 60, data)
    }

    fn reply(question: &Question, records: &[Record]) -> Vec<u8> {
        let mut message = Message::response(5, OpCode::Query);
        message.add_query(question.query.clone());
        message.add_answers(records.to_vec());
        message.to_vec().unwrap()
    }

    fn read_with(policy: &Policy, records: &[Record]) -> Answer {
        let question = question("a.org.");
        read(&reply(&question, records), &question, 5, policy).unwrap()
    }

    fn public() -> Policy {
        Policy::new(Profile::Public, Vec::new())
    }

    #[test]
    fn the_end_of_a_chain_of_aliases_is_bound_to_the_name_that_was_asked_for() {
        let records = [
            alias("b.org.", "c.org."),
            alias("A.org.", "b.org."),
            a("c.org.", [1, 2, 3, 4]),
            a("other.org.", [5, 6, 7, 8]),
        ];
        let answer = read_with(&public(), &records);
        let address: IpAddr = "1.2.3.4".parse().unwrap();
        assert_eq!(answer.pins, [(address, Duration::from_secs(60))]);
        assert_eq!(answer.message.metadata.id, 77);
        assert_eq!(answer.message.answers.len(), 3);
    }

    #[test]
    fn a_ring_of_aliases_ends() {
        let records = [alias("a.org.", "b.org."), alias("b.org.", "a.org.")];
        assert!(read_with(&public(), &records).pins.is_empty());
    }

    #[test]
    fn private_answers_are_left_out_and_an_answer_of_only_these_is_nxdomain() {
        for private in [
            [127, 0, 0, 1],
            [10, 0, 0, 1],
            [169, 254, 169, 254],
            [192, 168, 1, 1],
        ] {
            let answer = read_with(&public(), &[a("a.org.", private)]);
            assert_eq!(answer.private, Some(private.into()));
            assert_eq!(
                answer.message.metadata.response_code,
                ResponseCode::NXDomain
            );
            assert!(answer.message.answers.is_empty());
            let both = [a("a.org.", private), a("a.org.", [1, 2, 3, 4])];
            let answer = read_with(&public(), &both);
            assert_eq!(answer.message.answers.len(), 1);
            assert_eq!(answer.pins.len(), 1);
        }
        let allowing = Policy::new(Profile::Public, vec!["allow 10.0.0.0/8".parse().unwrap()]);
        let answer = read_with(&allowing, &[a("a.org.", [10, 0, 0, 1])]);
        assert_eq!((answer.private, answer.pins.len()), (None, 1));
    }

    #[test]
    fn a_denied_alias_refuses_the_answer() {
        let policy = Policy::new(Profile::Public, vec!["deny *.bad.org".parse().unwrap()]);
        let records = [alias("a.org.", "x.bad.org."), a("x.bad.org.", [1, 2, 3, 4])];
        let answer = read_with(&policy, &records);
        assert_eq!(answer.denied.unwrap().0, "x.bad.org");
        assert_eq!(answer.message.metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn an_answer_that_fills_a_message_is_read_whole() {
        let question = question("a.org.");
        let mut bytes = reply(&question, &[]);
        bytes[6..8].copy_from_slice(&4000_u16.to_be_bytes());
        for number in 0..4000_u16 {
            // The name is a pointer to the question's.
            bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2]);
            bytes.extend(number.to_be_bytes());
        }
        let answer = read(&bytes, &question, 5, &public()).unwrap();
        assert_eq!(answer.pins.len(), 4000);
        bytes[..2].copy_from_slice(&77_u16.to_be_bytes());
        assert_eq!(answer.bytes, Some(bytes.clone()));
        // One of them is left out, and the others have no form that fits.
        let last = bytes.len() - 4;
        bytes[last] = 10;
        assert_eq!(read(&bytes, &question, 77, &public()).unwrap().bytes, None);
    }

    #[test]
    fn a_time_to_live_with_its_top_bit_is_zero() {
        let mut record = a("a.org.", [1, 2, 3, 4]);
        record.ttl = 0x8000_0005;
        let answer = read_with(&public(), &[record]);
        assert_eq!(answer.message.answers[0].ttl, 0);
        assert_eq!(answer.pins[0].1, Duration::ZERO);
    }

    #[test]
    fn answers_to_other_questions_are_foreign() {
        let question = question("a.org.");
        let bytes = reply(&question, &[]);
        let read = |bytes: &[u8], id| read(bytes, &question, id, &public()).map(|_| ());
        assert_eq!(read(&bytes, 5), Ok(()));
        assert_eq!(read(&bytes, 6), Err(Unusable::Foreign));
        let other = Question::parse(&query("b.org.", RecordType::A)).unwrap();
        assert_eq!(read(&reply(&other, &[]), 5), Err(Unusable::Foreign));
        assert_eq!(
            read(&query("a.org.", RecordType::A), 77),
            Err(Unusable::Foreign)
        );
        let mut cut = bytes.clone();
        cut[2] |= 2;
        assert_eq!(read(&cut, 5), Err(Unusable::Truncated));
        let mut failed = bytes;
        failed[3] |= 2;
        assert_eq!(read(&failed, 5), Err(Unusable::Failed));
    }
}
