//! The name of the server that a client says in its first bytes: TLS's SNI, HTTP's Host.
//!
//! A rule on a name opens an address, and many names share an address. So on such a flow the name
//! that is said has to be allowed too. Other protocols say none, and pass. Pure functions.

mod http;
mod tls;

/// Bytes that are looked at. A hello with keys of post-quantum methods has about 2 KiB.
pub(super) const MAX_BYTES: usize = 16 << 10;

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// More bytes are needed.
    More,
    /// The name of the server.
    Name(String),
    /// TLS or HTTP, and no name can be read.
    Hidden,
    /// Another protocol.
    Other,
}

/// Whether the first bytes are those of TLS.
pub(super) fn is_tls(bytes: &[u8]) -> bool {
    bytes
        .first()
        .is_some_and(|first| tls::RECORDS.contains(first))
}

/// Reads the first bytes of a connection.
pub(super) fn read(bytes: &[u8]) -> Hello {
    let hello = match bytes {
        [] => Hello::More,
        [first, ..] if tls::RECORDS.contains(first) => tls::read(bytes),
        _ => http::read(bytes),
    };
    if hello == Hello::More && bytes.len() >= MAX_BYTES {
        return Hello::Hidden;
    }
    hello
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_without_a_name_are_told_apart() {
        assert_eq!(read(b""), Hello::More);
        assert_eq!(read(b"SSH-2.0-OpenSSH_9.2\r\n"), Hello::Other);
        assert_eq!(read(b"\0\0\0\x08\x04\xd2\x16\x2f"), Hello::Other);
        assert_eq!(read(b"*1\r\n$4\r\nPING\r\n"), Hello::Other);
        assert_eq!(read(b"EHLO x.org\r\n"), Hello::Other);
    }

    #[test]
    fn no_record_or_empty_line_in_front_makes_it_another_protocol() {
        for first in [20, 21, 23, 24] {
            assert_eq!(read(&[first]), Hello::More);
            assert_eq!(read(&[first, 3, 3, 0, 1, 1]), Hello::Hidden, "{first}");
            assert_eq!(read(&[first, 2, 3]), Hello::Other, "{first}");
        }
        let name = Hello::Name("a.org".to_owned());
        for front in ["\r\n", "\n", "\r\n\r\n"] {
            let request = format!("{front}GET / HTTP/1.1\r\nHost: a.org\r\n\r\n");
            assert_eq!(read(request.as_bytes()), name, "{front:?}");
            assert_eq!(read(front.as_bytes()), Hello::More);
        }
        assert_eq!(read(&[b'\n'; MAX_BYTES]), Hello::Hidden);
    }

    #[test]
    fn bytes_without_an_end_are_hidden() {
        let mut long = b"GET / HTTP/1.1\r\nX: ".to_vec();
        long.resize(MAX_BYTES, b'a');
        assert_eq!(read(&long), Hello::Hidden);
    }
}
