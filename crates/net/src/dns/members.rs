//! Names of the members of the guest's named networks, which the stack answers itself.
//!
//! A name is answered with the addresses of the members that have it and run; their order changes
//! from answer to answer. A name that only stopped members have does not exist, and is no
//! resolver's business. A name with a dot is a member's only with the network's name behind it: the
//! name alone may be one of the internet. An address of a network is never looked up at a resolver either.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, AAAA, PTR},
    },
};

use super::{local::TTL, question::Question};
use crate::{context::Context, switch::Peer};

/// Members in one answer.
const MOST: usize = 64;

/// The answer; none if the question is not about a member.
pub(super) fn answer(question: &Question, cx: &mut Context) -> Option<Message> {
    let name = question.name.as_ref()?.as_str();
    if question.query.query_type == RecordType::PTR {
        return reverse(question, cx, address(name)?);
    }
    let known = members(cx, name);
    if known.is_empty() {
        return None;
    }
    let mut live: Vec<Peer> = known
        .into_iter()
        .filter(|peer| cx.switch.is_live(&cx.poller, *peer))
        .collect();
    if live.is_empty() {
        return Some(question.answer(ResponseCode::NXDomain));
    }
    let turn = cx.switch.next_turn() % live.len();
    live.rotate_left(turn);
    let mut message = own(question);
    for (port, number) in live {
        let network = cx.switch.network(port)?;
        let data = match question.query.query_type {
            RecordType::A => RData::A(A(network.v4_of(number))),
            RecordType::AAAA => RData::AAAA(AAAA(network.v6_of(number))),
            _ => break,
        };
        message.add_answer(Record::from_rdata(question.query.name.clone(), TTL, data));
    }
    Some(message)
}

/// Everyone that has `name`, alone or with its network's name behind it.
fn members(cx: &Context, name: &str) -> Vec<Peer> {
    let mut found = Vec::new();
    for (port, network) in cx.switch.networks() {
        let short = name
            .strip_suffix(network.name.to_ascii_lowercase().as_str())
            .and_then(|name| name.strip_suffix('.'));
        let is_meant = |own: &String| {
            // A sandbox may be called like a name of the internet, which is not its own.
            (!own.contains('.') && own.eq_ignore_ascii_case(name))
                || short.is_some_and(|short| own.eq_ignore_ascii_case(short))
        };
        let members = network.directory.members();
        let meant = members
            .iter()
            .filter(|member| member.names.iter().any(is_meant));
        found.extend(meant.map(|member| (port, member.number)));
    }
    found.truncate(MOST);
    found
}

/// The name of a member by its address; none if the address is of no network.
fn reverse(question: &Question, cx: &mut Context, address: IpAddr) -> Option<Message> {
    let mut networks = cx.switch.networks();
    let (port, network) = networks.find(|(_, network)| network.contains(address))?;
    let number = network.number_of(address);
    let members = network.directory.members();
    let member = members
        .iter()
        .find(|member| Some(member.number) == number)
        .and_then(|member| Some((member.number, member.names.first()?)));
    let name = member.map(|(number, name)| (number, format!("{name}.{}.", network.name)));
    drop(networks);
    let Some((number, name)) = name else {
        return Some(question.answer(ResponseCode::NXDomain));
    };
    if !cx.switch.is_live(&cx.poller, (port, number)) {
        return Some(question.answer(ResponseCode::NXDomain));
    }
    let mut message = own(question);
    let data = RData::PTR(PTR(name.parse().ok()?));
    message.add_answer(Record::from_rdata(question.query.name.clone(), TTL, data));
    Some(message)
}

fn own(question: &Question) -> Message {
    let mut message = question.answer(ResponseCode::NoError);
    message.metadata.authoritative = true;
    message
}

/// The address that a name of the reverse tree means. *Source:* RFC 1035, section 3.5; RFC 3596,
/// section 2.5.
fn address(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let address: Ipv4Addr = octets.parse().ok()?;
        return Some(Ipv4Addr::from_bits(address.to_bits().swap_bytes()).into());
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0;
    let mut count = 0;
    for nibble in nibbles.rsplit('.') {
        let digit = (nibble.len() == 1).then(|| u128::from_str_radix(nibble, 16).ok())??;
        bits = bits << 4 | digit;
        count += 1;
        if count > 32 {
            return None;
        }
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_reverse_tree_are_addresses() {
        let read = |name: &str| address(name).map(|address| address.to_string());
        assert_eq!(read("4.3.2.1.in-addr.arpa").as_deref(), Some("1.2.3.4"));
        let long = "5.".to_owned() + &"0.".repeat(27) + "3.6.d.f.ip6.arpa";
        assert_eq!(read(&long).as_deref(), Some("fd63::5"));
        for bad in [
            "3.2.1.in-addr.arpa",
            "example.com",
            "1.ip6.arpa",
            "x.3.2.1.in-addr.arpa",
            &("0.".repeat(33) + "ip6.arpa"),
            &("00.".repeat(32) + "ip6.arpa"),
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
