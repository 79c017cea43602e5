//! The server name of a TLS ClientHello. *Source:* RFC 8446, sections 4.1.2 and 5.1; RFC 6066,
//! section 3.

use std::ops::RangeInclusive;

use super::Hello;

/// The types of all records. A server may ignore records before the hello, so that a connection
/// which begins with another one than a handshake hides its name. *Source:* RFC 8446, section 5.1;
/// RFC 6520, section 3 (24).
pub(super) const RECORDS: RangeInclusive<u8> = 20..=24;

/// The record type of handshake messages.
const HANDSHAKE: u8 = 22;

/// The handshake message of a client's first words.
const CLIENT_HELLO: u8 = 1;

/// The extension with the name of the server.
const SERVER_NAME: usize = 0;

/// Reads a ClientHello, which may lie in several records.
pub(super) fn read(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let (Some(kind), Some(major)) = (rest.first(), rest.get(1)) else {
            return Hello::More;
        };
        if *major != 3 && message.is_empty() {
            return Hello::Other;
        }
        if *kind != HANDSHAKE || *major != 3 {
            return Hello::Hidden;
        }
        let Some(header) = rest.first_chunk::<5>() else {
            return Hello::More;
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 {
            return Hello::Hidden;
        }
        let end = rest.len().min(5 + length);
        message.extend(&rest[5..end]);
        if let Some(hello) = client_hello(&message) {
            return hello;
        }
        if end < 5 + length {
            return Hello::More;
        }
        rest = &rest[end..];
    }
}

/// Reads a handshake message; none if it is not whole.
fn client_hello(message: &[u8]) -> Option<Hello> {
    let (&kind, rest) = message.split_first()?;
    if kind != CLIENT_HELLO {
        return Some(Hello::Hidden);
    }
    let (length, rest) = number(rest, 3)?;
    let body = rest.get(..length)?;
    let name = server_name(body).and_then(|name| String::from_utf8(name.to_vec()).ok());
    Some(name.map_or(Hello::Hidden, Hello::Name))
}

/// The name in the body of a ClientHello; none if there is none, or lengths are wrong.
fn server_name(body: &[u8]) -> Option<&[u8]> {
    // Version and random.
    let rest = body.get(2 + 32..)?;
    let (_session, rest) = vector(rest, 1)?;
    let (_ciphers, rest) = vector(rest, 2)?;
    let (_compressions, rest) = vector(rest, 1)?;
    let (mut extensions, _) = vector(rest, 2)?;
    while !extensions.is_empty() {
        let (kind, rest) = number(extensions, 2)?;
        let (data, rest) = vector(rest, 2)?;
        extensions = rest;
        if kind == SERVER_NAME {
            let (list, _) = vector(data, 2)?;
            // The type of the name: a host.
            let (0, rest) = number(list, 1)? else {
                return None;
            };
            let (name, _) = vector(rest, 2)?;
            return (!name.is_empty()).then_some(name);
        }
    }
    None
}

/// A number of `width` bytes, and the bytes after it.
fn number(bytes: &[u8], width: usize) -> Option<(usize, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(width)?;
    let value = digits
        .iter()
        .fold(0, |value, digit| value << 8 | usize::from(*digit));
    Some((value, rest))
}

/// Bytes with their length in front, and the bytes after them.
fn vector(bytes: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes, width)?;
    rest.split_at_checked(length)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn with_length(width: usize, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        let mut bytes = length[4 - width..].to_vec();
        bytes.extend(data);
        bytes
    }

    /// A hello in records of at most `record` bytes.
    fn hello(name: Option<&str>, record: usize) -> Vec<u8> {
        let mut extensions = vec![0, 23, 0, 0];
        if let Some(name) = name {
            let mut list = vec![0];
            list.extend(with_length(2, name.as_bytes()));
            extensions.extend([0, 0]);
            extensions.extend(with_length(2, &with_length(2, &list)));
        }
        let mut body = vec![3, 3];
        body.extend([9; 32]);
        body.extend(with_length(1, &[1; 32]));
        body.extend(with_length(2, &[0x13, 0x01]));
        body.extend(with_length(1, &[0]));
        body.extend(with_length(2, &extensions));
        let mut message = vec![CLIENT_HELLO];
        message.extend(with_length(3, &body));
        let mut bytes = Vec::new();
        for part in message.chunks(record) {
            bytes.extend([HANDSHAKE, 3, 1]);
            bytes.extend(with_length(2, part));
        }
        bytes
    }

    #[test]
    fn the_server_name_is_found_in_one_record_or_many() {
        for record in [1, 7, 100, 10_000] {
            let bytes = hello(Some("a.example.org"), record);
            assert_eq!(read(&bytes), Hello::Name("a.example.org".to_owned()));
            for length in 0..bytes.len() {
                assert_eq!(read(&bytes[..length]), Hello::More, "{length}");
            }
        }
    }

    #[test]
    fn a_hello_without_a_name_is_hidden() {
        assert_eq!(read(&hello(None, 1000)), Hello::Hidden);
        assert_eq!(read(&[HANDSHAKE, 3, 1, 0, 0]), Hello::Hidden);
        assert_eq!(read(&[HANDSHAKE, 9]), Hello::Other);
    }

    #[test]
    fn every_changed_byte_is_read_without_a_panic() {
        let good = hello(Some("a.example.org"), 50);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let _ = read(&bytes);
            }
        }
    }
}
