//! `WWW-Authenticate`: which credentials a registry wants.
//!
//! *Source:* RFC 9110 §11.6.1; distribution "Token Authentication Specification".

use std::collections::HashMap;

use crate::{
    error::{Error, ErrorKind, Result},
    manifest::shown,
};

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The strongest challenge of `headers` that is known.
pub(crate) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Result<Challenge> {
    let challenges: Vec<_> = headers.flat_map(parse).collect();
    for (scheme, parameters) in &challenges {
        if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = parameters.get("realm")
        {
            let get = |key: &str| parameters.get(key).cloned();
            return Ok(Challenge::Bearer {
                realm: realm.clone(),
                service: get("service"),
                scope: get("scope"),
            });
        }
    }
    if challenges
        .iter()
        .any(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
    {
        return Ok(Challenge::Basic);
    }
    let offered: Vec<String> = challenges
        .iter()
        .map(|(scheme, _)| shown(scheme))
        .take(4)
        .collect();
    let offered = if offered.is_empty() {
        "nothing".to_owned()
    } else {
        offered.join(", ")
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("The registry offers {offered} for authentication; known are `Bearer` and `Basic`"),
    ))
}

/// Splits a header into schemes with their parameters. What is malformed is left out.
fn parse(header: &str) -> Vec<(String, HashMap<String, String>)> {
    let mut found: Vec<(String, HashMap<String, String>)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let word_end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = parameter_value(value);
            if let Some((_, parameters)) = found.last_mut() {
                parameters.insert(word.to_ascii_lowercase(), value);
            }
            rest = after;
        } else {
            found.push((word.to_owned(), HashMap::new()));
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    found
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bearer_challenge_gives_realm_service_and_scope() {
        let header =
            r#"Bearer realm="https://a.example/token",service="r",scope="repository:x:pull,push""#;
        assert_eq!(
            choose([header].into_iter()).unwrap(),
            Challenge::Bearer {
                realm: "https://a.example/token".into(),
                service: Some("r".into()),
                scope: Some("repository:x:pull,push".into()),
            }
        );
    }

    #[test]
    fn bearer_is_preferred_over_basic_in_any_order() {
        let header = r#"Basic realm="x", Bearer realm="https://a.example/t""#;
        assert!(matches!(
            choose([header].into_iter()),
            Ok(Challenge::Bearer { .. })
        ));
        assert_eq!(
            choose([r#"basic realm=x"#].into_iter()).unwrap(),
            Challenge::Basic
        );
    }

    #[test]
    fn unknown_schemes_are_named_in_the_refusal() {
        let error = choose(["Negotiate", "NTLM"].into_iter()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("`Negotiate`, `NTLM`"), "{error}");
    }

    proptest! {
        #[test]
        fn any_header_is_parsed_without_panic(header in ".{0,120}") {
            let _ = choose([header.as_str()].into_iter());
        }
    }
}
