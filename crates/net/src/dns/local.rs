//! Names that the stack answers itself.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};

use super::question::Question;
use crate::config::{Config, HOST_NAME};

/// Seconds that a guest may keep such an answer: names of sandboxes come and go.
pub(super) const TTL: u32 = 5;

/// Names below this one are never asked from a resolver.
const ZONE: &str = "coffer.internal";

/// The answer and its addresses; none if a resolver has to be asked.
pub(super) fn answer(question: &Question, config: &Config) -> Option<(Message, Vec<IpAddr>)> {
    let name = question.name.as_ref()?.as_str();
    let addresses = if name == HOST_NAME {
        let v4 = config.v4.map(|v4| IpAddr::from(v4.host));
        let v6 = config.v6.map(|v6| IpAddr::from(v6.host));
        v4.into_iter().chain(v6).collect()
    } else {
        let known = config
            .names
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        match known {
            Some((_, addresses)) => addresses.clone(),
            None if name == ZONE || name.ends_with(".coffer.internal") => {
                return Some((question.answer(ResponseCode::NXDomain), Vec::new()));
            }
            None => return None,
        }
    };
    let mut message = question.answer(ResponseCode::NoError);
    message.metadata.authoritative = true;
    let mut given = Vec::new();
    for address in addresses {
        let data = match (address, question.query.query_type) {
            (IpAddr::V4(address), RecordType::A) => RData::A(A(address)),
            (IpAddr::V6(address), RecordType::AAAA) => RData::AAAA(AAAA(address)),
            _ => continue,
        };
        message.add_answer(Record::from_rdata(question.query.name.clone(), TTL, data));
        given.push(address);
    }
    Some((message, given))
}

#[cfg(test)]
mod tests {
    use super::{super::question::tests::query, *};

    #[test]
    fn names_of_the_configuration_are_answered_and_the_zone_stays_here() {
        let mut config = Config::new([2, 0, 0, 0, 0, 1]);
        let db: IpAddr = "10.0.2.77".parse().unwrap();
        config.names.push(("db".to_owned(), vec![db]));
        let ask = |name: &str, kind| {
            let question = Question::parse(&query(name, kind)).unwrap();
            let (message, addresses) = answer(&question, &config)?;
            Some((message.metadata.response_code, addresses))
        };
        let host = IpAddr::from(config.v4.unwrap().host);
        assert_eq!(
            ask("Host.coffer.internal.", RecordType::A),
            Some((ResponseCode::NoError, vec![host]))
        );
        assert_eq!(
            ask("db.", RecordType::A),
            Some((ResponseCode::NoError, vec![db]))
        );
        assert_eq!(
            ask("db.", RecordType::AAAA),
            Some((ResponseCode::NoError, Vec::new()))
        );
        assert_eq!(
            ask("x.coffer.internal.", RecordType::A),
            Some((ResponseCode::NXDomain, Vec::new()))
        );
        assert_eq!(ask("example.com.", RecordType::A), None);
    }
}
