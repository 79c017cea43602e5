//! The Host of an HTTP request. *Source:* RFC 9112, sections 3 and 5; RFC 9110, section 7.2.

use super::Hello;

/// The longest method that is looked for.
const MAX_METHOD_BYTES: usize = 16;

/// The start of HTTP/2 without TLS, whose headers are compressed. *Source:* RFC 9113, section 3.4.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";

/// Reads a request. Servers ignore empty lines before it, and some of them take any letters as a
/// method and any white space as the space after it.
pub(super) fn read(bytes: &[u8]) -> Hello {
    let empty = bytes.iter().take_while(|byte| b"\r\n".contains(byte));
    let bytes = &bytes[empty.count()..];
    let method = bytes
        .iter()
        .take(MAX_METHOD_BYTES)
        .take_while(|byte| byte.is_ascii_alphabetic() || **byte == b'-')
        .count();
    if method == bytes.len() && method < MAX_METHOD_BYTES {
        return Hello::More;
    }
    if method == 0 || !bytes.get(method).is_some_and(is_space) {
        return Hello::Other;
    }
    let Some(line_end) = find(bytes, b"\n") else {
        return Hello::More;
    };
    let line = &bytes[..line_end];
    if !line.split(is_space).any(|word| word.starts_with(b"HTTP/")) {
        return Hello::Other;
    }
    if line.starts_with(HTTP2) {
        return Hello::Hidden;
    }
    let target = line[method + 1..].split(is_space).next();
    let authority = target.and_then(|target| authority(&bytes[..method], target));
    let host = match host(&bytes[line_end + 1..]) {
        Ok(host) => host,
        Err(hello) => return hello,
    };
    match (authority.map(name), host.map(name)) {
        (None, None) => Hello::Hidden,
        (Some(name), None) | (None, Some(name)) => name,
        // A server may take either, so they have to be the same.
        (Some(Hello::Name(first)), Some(Hello::Name(second)))
            if first.eq_ignore_ascii_case(&second) =>
        {
            Hello::Name(second)
        }
        (Some(_), Some(_)) => Hello::Hidden,
    }
}

/// White space within a request's line. *Source:* RFC 9112, section 3.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r')
}

/// The Host of the header lines in `bytes`, if there is one. Two of them are no name.
fn host(bytes: &[u8]) -> Result<Option<&[u8]>, Hello> {
    let mut found = None;
    let mut rest = bytes;
    while let Some(end) = find(rest, b"\n") {
        let line = rest[..end].trim_ascii();
        rest = &rest[end + 1..];
        if line.is_empty() {
            return Ok(found);
        }
        let Some(colon) = find(line, b":") else {
            continue;
        };
        if line[..colon].trim_ascii().eq_ignore_ascii_case(b"host")
            && found.replace(line[colon + 1..].trim_ascii()).is_some()
        {
            return Err(Hello::Hidden);
        }
    }
    Err(Hello::More)
}

/// The authority in a target that has one: with `CONNECT`, and in absolute form.
fn authority<'a>(method: &[u8], target: &'a [u8]) -> Option<&'a [u8]> {
    if method == b"CONNECT" {
        return Some(target);
    }
    let start = find(target, b"://")? + 3;
    let rest = &target[start..];
    // A target in origin form can have `://` later in its path.
    if target.starts_with(b"/") {
        return None;
    }
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    let authority = &rest[..end];
    let at = authority.iter().rposition(|byte| *byte == b'@');
    Some(at.map_or(authority, |at| &authority[at + 1..]))
}

/// The name in an authority, without its port.
fn name(authority: &[u8]) -> Hello {
    let Ok(text) = str::from_utf8(authority) else {
        return Hello::Hidden;
    };
    let host = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => text.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() {
        Hello::Hidden
    } else {
        Hello::Name(host.to_owned())
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Hello {
        Hello::Name(name.to_owned())
    }

    #[test]
    fn the_host_of_a_request_is_found() {
        for (request, hello) in [
            ("GET / HTTP/1.1\r\nHost: a.org\r\n\r\n", named("a.org")),
            ("GET / HTTP/1.1\nhost:a.org:8080 \n\n", named("a.org")),
            (
                "M-SEARCH * HTTP/1.1\r\nA: b\r\nHOST: [::1]:8080\r\n\r\n",
                named("::1"),
            ),
            (
                "GET http://u@B.org:80/x?y HTTP/1.1\r\nHost: b.org\r\n\r\n",
                named("b.org"),
            ),
            ("GET http://b.org/ HTTP/1.0\r\n\r\n", named("b.org")),
            (
                "GET http://b.org/ HTTP/1.1\r\nHost: a.org\r\n\r\n",
                Hello::Hidden,
            ),
            (
                "CONNECT b.org:443 HTTP/1.1\r\nHost: a.org\r\n\r\n",
                Hello::Hidden,
            ),
            ("get\t/\tHTTP/1.1\r\nHost: a.org\r\n\r\n", named("a.org")),
            (
                "GET / HTTP/1.1\r\nHost: a.org\r\nHost : b.org\r\n\r\n",
                Hello::Hidden,
            ),
            (
                "GET /?u=http://b.org HTTP/1.1\r\nHost: a.org\r\n\r\n",
                named("a.org"),
            ),
            ("CONNECT c.org:443 HTTP/1.1\r\n\r\n", named("c.org")),
            ("GET / HTTP/1.0\r\n\r\n", Hello::Hidden),
            (
                "GET / HTTP/1.1\r\nHost: a.org\r\nHost: b.org\r\n\r\n",
                Hello::Hidden,
            ),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Hello::Hidden),
            ("GET key\r\n", Hello::Other),
        ] {
            assert_eq!(read(request.as_bytes()), hello, "{request}");
        }
    }

    #[test]
    fn every_cut_of_a_request_needs_more() {
        let request = b"POST /x HTTP/1.1\r\nA: b\r\nHost: a.org\r\n\r\n";
        for length in 1..request.len() {
            assert_eq!(read(&request[..length]), Hello::More, "{length}");
        }
    }
}
