//! The head of a request: who may have which value, and where it goes.

use std::borrow::Cow;

use base64::{
    Engine,
    alphabet::STANDARD as ALPHABET,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hyper::{
    HeaderMap, Method, StatusCode, Uri,
    header::{
        ACCEPT_ENCODING, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING,
    },
    http::{request, uri::PathAndQuery},
};

use crate::{
    find::{find, replace},
    rule::Rule,
};

/// Reads what other programs write, with padding or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a request is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It has the placeholder of a secret that this host may not have.
    Misplaced(String),
    /// The same, and it is reported already.
    Reported(String),
    /// It cannot be read in one way alone.
    Status(StatusCode, Cow<'static, str>),
}

/// What the head has become.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Texts that were put in, and are masked where an answer repeats them.
    pub(crate) masked: Vec<Vec<u8>>,
}

/// Puts values into the head of a request to `host`.
pub(crate) fn change(
    parts: &mut request::Parts,
    host: &str,
    rules: &[Rule],
) -> Result<Changed, Refusal> {
    check(parts, host)?;
    let mut changed = Changed::default();
    change_target(parts, host, rules, &mut changed)?;
    for (name, value) in &mut parts.headers {
        if let Some(new) = change_field(name, value, host, rules, &mut changed)? {
            *value = new;
        }
    }
    parts.headers.remove(TRANSFER_ENCODING);
    // The proxy has answered it when the body is read.
    parts.headers.remove(EXPECT);
    Ok(changed)
}

/// Has answers come uncompressed, so that a repeated value is seen in them.
pub(crate) fn want_plain(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Refuses what servers may read in another way than the proxy does.
fn check(parts: &request::Parts, host: &str) -> Result<(), Refusal> {
    let bad = |why| Err(Refusal::Status(StatusCode::BAD_REQUEST, Cow::Borrowed(why)));
    let headers = &parts.headers;
    if parts.method == Method::CONNECT {
        let why = "CONNECT is not supported";
        return Err(Refusal::Status(StatusCode::METHOD_NOT_ALLOWED, why.into()));
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return bad("The request has two lengths");
    }
    if headers.get_all(HOST).iter().count() > 1 {
        return bad("The request has two hosts");
    }
    let named = headers.get(HOST).map(HeaderValue::as_bytes);
    let authority = parts
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    if named.is_none() && authority.is_none() {
        return bad("The request has no host");
    }
    let is_other = |named: &[u8]| !is_host(named, host);
    if named.is_some_and(is_other) || authority.is_some_and(is_other) {
        // *Source:* RFC 9110, section 15.5.20.
        let why = "The request is for another host than its connection";
        return Err(Refusal::Status(StatusCode::MISDIRECTED_REQUEST, why.into()));
    }
    Ok(())
}

/// Whether an authority is `host`, with any port.
fn is_host(authority: &[u8], host: &str) -> bool {
    let Ok(text) = str::from_utf8(authority) else {
        return false;
    };
    let name = match text.split_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return false,
        None => text,
    };
    name.strip_suffix('.')
        .unwrap_or(name)
        .eq_ignore_ascii_case(host)
}

fn change_target(
    parts: &mut request::Parts,
    host: &str,
    rules: &[Rule],
    changed: &mut Changed,
) -> Result<(), Refusal> {
    let target = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    refuse_misplaced(target.as_bytes(), host, rules)?;
    let Some((path, query)) = target.split_once('?') else {
        return Ok(());
    };
    let allowed: Vec<&Rule> = rules
        .iter()
        .filter(|rule| rule.spec.query && rule.spec.allows(host))
        .collect();
    let words: Vec<&str> = allowed
        .iter()
        .map(|rule| rule.spec.placeholder.as_str())
        .collect();
    let texts: Vec<String> = allowed
        .iter()
        .map(|rule| in_query(rule.value.expose()))
        .collect();
    let Some(query) = replace(query.as_bytes(), &words, &texts) else {
        return Ok(());
    };
    for (rule, text) in allowed.iter().zip(texts) {
        mask(rule, text.as_bytes(), changed);
    }
    let bad = || Refusal::Status(StatusCode::BAD_REQUEST, "The target cannot be read".into());
    let target = format!("{path}?{}", String::from_utf8_lossy(&query));
    let mut uri = parts.uri.clone().into_parts();
    uri.path_and_query = Some(target.parse().map_err(|_| bad())?);
    parts.uri = Uri::from_parts(uri).map_err(|_| bad())?;
    Ok(())
}

/// A value as a query has it. *Source:* RFC 3986, section 2.3.
fn in_query(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The new value of a header field, if it has a placeholder.
fn change_field(
    name: &HeaderName,
    value: &HeaderValue,
    host: &str,
    rules: &[Rule],
    changed: &mut Changed,
) -> Result<Option<HeaderValue>, Refusal> {
    let bytes = value.as_bytes();
    let new = match replace_allowed(bytes, host, rules, changed)? {
        Some(new) => Some(new),
        None => basic(bytes, host, rules, changed)?,
    };
    let Some(new) = new else { return Ok(None) };
    let new = HeaderValue::from_bytes(&new);
    let mut new =
        new.map_err(|_| Refusal::Status(StatusCode::BAD_REQUEST, "A field is bad".into()))?;
    new.set_sensitive(true);
    debug_assert!(name != HOST, "a host with a placeholder is another host");
    Ok(Some(new))
}

/// Basic credentials with the placeholder inside them. *Source:* RFC 7617, section 2.
fn basic(
    bytes: &[u8],
    host: &str,
    rules: &[Rule],
    changed: &mut Changed,
) -> Result<Option<Vec<u8>>, Refusal> {
    let Some((scheme, text)) = bytes.split_at_checked(6) else {
        return Ok(None);
    };
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return Ok(None);
    }
    let Ok(credentials) = BASE64.decode(text.trim_ascii()) else {
        return Ok(None);
    };
    let Some(new) = replace_allowed(&credentials, host, rules, changed)? else {
        return Ok(None);
    };
    let new = BASE64.encode(new);
    changed.masked.push(new.as_bytes().to_vec());
    Ok(Some([b"Basic ", new.as_bytes()].concat()))
}

/// Replaces placeholders by values; a placeholder that `host` may not have is refused.
fn replace_allowed(
    bytes: &[u8],
    host: &str,
    rules: &[Rule],
    changed: &mut Changed,
) -> Result<Option<Vec<u8>>, Refusal> {
    refuse_misplaced(bytes, host, rules)?;
    let words: Vec<&str> = rules
        .iter()
        .map(|rule| rule.spec.placeholder.as_str())
        .collect();
    let values: Vec<&str> = rules.iter().map(|rule| rule.value.expose()).collect();
    let new = replace(bytes, &words, &values);
    if new.is_some() {
        for rule in rules
            .iter()
            .filter(|rule| find(bytes, &[&rule.spec.placeholder]).is_some())
        {
            mask(rule, rule.value.expose().as_bytes(), changed);
        }
    }
    Ok(new)
}

fn refuse_misplaced(bytes: &[u8], host: &str, rules: &[Rule]) -> Result<(), Refusal> {
    let others = rules.iter().filter(|rule| !rule.spec.allows(host));
    let mut found = others.filter(|rule| find(bytes, &[&rule.spec.placeholder]).is_some());
    match found.next() {
        Some(rule) => Err(Refusal::Misplaced(rule.spec.name.clone())),
        None => Ok(()),
    }
}

/// Notes a text that answers must not repeat.
fn mask(rule: &Rule, text: &[u8], changed: &mut Changed) {
    if rule.is_masked() && !changed.masked.iter().any(|known| known == text) {
        changed.masked.push(text.to_vec());
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_types::SecretSpec;
    use hyper::Request;

    use super::*;

    fn rule(text: &str) -> Rule {
        let mut spec = SecretSpec::parse(text).unwrap();
        spec.placeholder = format!("coffer-secret-{}-00ff", spec.name);
        Rule {
            value: spec.value.take().unwrap(),
            spec,
        }
    }

    fn head(uri: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_placeholder_in_any_field_becomes_the_value() {
        let rules = [rule("T=the value:a.org"), rule("U=other one:b.org,a.org")];
        let mut parts = head(
            "/",
            &[
                ("host", "A.org:443"),
                ("authorization", "Bearer coffer-secret-T-00ff"),
                ("x-both", "coffer-secret-U-00ff,coffer-secret-T-00ff"),
            ],
        );
        let changed = change(&mut parts, "a.org", &rules).unwrap();
        assert_eq!(parts.headers["authorization"], "Bearer the value");
        assert!(parts.headers["authorization"].is_sensitive());
        assert_eq!(parts.headers["x-both"], "other one,the value");
        assert_eq!(changed.masked.len(), 2);
    }

    #[test]
    fn basic_credentials_are_opened_and_closed_again() {
        let rules = [rule("T=pass:word:a.org")];
        let text = BASE64.encode("me:coffer-secret-T-00ff");
        let mut parts = head(
            "/",
            &[
                ("host", "a.org"),
                ("authorization", &format!("basic {text}")),
            ],
        );
        change(&mut parts, "a.org", &rules).unwrap();
        let expected = format!("Basic {}", BASE64.encode("me:pass:word"));
        assert_eq!(parts.headers["authorization"], expected);
    }

    #[test]
    fn a_placeholder_for_another_host_is_refused_wherever_it_is() {
        let rules = [rule("T=value1:a.org")];
        let basic = format!("Basic {}", BASE64.encode("u:coffer-secret-T-00ff"));
        for (uri, field) in [
            ("/", ("x", "coffer-secret-T-00ff")),
            ("/", ("authorization", basic.as_str())),
            ("/coffer-secret-T-00ff", ("x", "y")),
            ("/?k=coffer-secret-T-00ff", ("x", "y")),
        ] {
            let mut parts = head(uri, &[("host", "b.org"), field]);
            let refused = change(&mut parts, "b.org", &rules).unwrap_err();
            assert_eq!(
                refused,
                Refusal::Misplaced("T".to_owned()),
                "{uri} {field:?}"
            );
        }
    }

    #[test]
    fn the_query_has_the_value_only_with_the_option_and_encoded() {
        let mut parts = head("/p?k=coffer-secret-T-00ff&x", &[("host", "a.org")]);
        change(&mut parts, "a.org", &[rule("T=a b&c=d:a.org")]).unwrap();
        assert_eq!(parts.uri, "/p?k=coffer-secret-T-00ff&x");
        change(&mut parts, "a.org", &[rule("T=a b&c=d:a.org,query")]).unwrap();
        assert_eq!(parts.uri, "/p?k=a%20b%26c%3Dd&x");
    }

    #[test]
    fn what_servers_may_read_in_two_ways_is_refused() {
        let status =
            |fields: &[(&str, &str)], uri: &str| match change(&mut head(uri, fields), "a.org", &[])
            {
                Err(Refusal::Status(status, _)) => status.as_u16(),
                other => panic!("{other:?}"),
            };
        let host = ("host", "a.org");
        let two = [
            host,
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
        ];
        assert_eq!(status(&two, "/"), 400);
        assert_eq!(status(&[host, host], "/"), 400);
        assert_eq!(status(&[], "/"), 400);
        assert_eq!(status(&[("host", "b.org")], "/"), 421);
        assert_eq!(status(&[host], "https://b.org/"), 421);
        assert_eq!(status(&[("host", "a.org:x")], "/"), 421);
    }
}
