//! QMP's lines: what is sent, and what a line that came may be.
//!
//! QEMU is trusted less than this process: its lines are bounded and anything that is not
//! understood is an error, not ignored, except events that nobody asked for.

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// The longest line accepted. The longest answer asked for is a few hundred bytes.
pub(super) const LINE_LIMIT: usize = 1 << 20;

/// A line from QEMU.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    Greeting,
    Answer {
        id: u64,
        result: Result<Value, Refusal>,
    },
    Event {
        name: String,
        data: Value,
    },
}

/// QEMU's own words for why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) class: String,
    pub(crate) desc: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.desc, self.class)
    }
}

impl std::error::Error for Refusal {}

pub(super) fn command(id: u64, name: &str, arguments: &Value) -> Vec<u8> {
    let mut line = if arguments.is_null() {
        json!({ "execute": name, "id": id })
    } else {
        json!({ "execute": name, "arguments": arguments, "id": id })
    }
    .to_string()
    .into_bytes();
    line.push(b'\n');
    line
}

/// Reads one line; `None` at the end of the stream.
pub(super) async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> std::io::Result<Option<()>> {
    line.clear();
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(None);
        }
        let (used, complete) = match chunk.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (chunk.len(), false),
        };
        if line.len() + used > LINE_LIMIT {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("a QMP line is longer than {LINE_LIMIT} bytes"),
            ));
        }
        line.extend_from_slice(&chunk[..used]);
        reader.consume(used);
        if complete {
            return Ok(Some(()));
        }
    }
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Refusal>,
    id: Option<u64>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

pub(super) fn parse(line: &[u8]) -> Result<Line, serde_json::Error> {
    use serde::de::Error as _;
    let raw: Raw = serde_json::from_slice(line)?;
    match raw {
        Raw {
            event: Some(name),
            data,
            ..
        } => Ok(Line::Event { name, data }),
        Raw {
            value: Some(value),
            id: Some(id),
            ..
        } => Ok(Line::Answer {
            id,
            result: Ok(value),
        }),
        Raw {
            error: Some(refusal),
            id: Some(id),
            ..
        } => Ok(Line::Answer {
            id,
            result: Err(refusal),
        }),
        Raw {
            greeting: Some(_), ..
        } => Ok(Line::Greeting),
        // An error without an id: QEMU could not read what was sent.
        Raw {
            error: Some(refusal),
            ..
        } => Err(serde_json::Error::custom(refusal)),
        _ => Err(serde_json::Error::custom("neither an answer nor an event")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let greeting = br#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;
        assert_eq!(parse(greeting).unwrap(), Line::Greeting);
        let answer = parse(br#"{"return": {}, "id": 7}"#).unwrap();
        assert_eq!(
            answer,
            Line::Answer {
                id: 7,
                result: Ok(json!({}))
            }
        );
        let refusal = br#"{"id": 8, "error": {"class": "GenericError", "desc": "no"}}"#;
        let Line::Answer {
            id: 8,
            result: Err(refusal),
        } = parse(refusal).unwrap()
        else {
            panic!("not a refusal");
        };
        assert_eq!(refusal.to_string(), "no (GenericError)");
        let event = parse(br#"{"timestamp": {}, "event": "STOP"}"#).unwrap();
        assert_eq!(
            event,
            Line::Event {
                name: "STOP".into(),
                data: Value::Null
            }
        );
    }

    #[test]
    fn what_is_neither_answer_nor_event_is_an_error() {
        for bad in ["", "{}", "[]", "{\"return\": {}}", "{\"id\": 1}", "\u{7f}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn an_endless_line_is_refused_at_the_limit() {
        let endless = vec![b'x'; LINE_LIMIT + 1];
        let mut line = Vec::new();
        let error = read_line(&mut endless.as_slice(), &mut line)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_line_cut_by_the_end_is_no_line() {
        let mut line = Vec::new();
        let mut stream: &[u8] = b"{\"a\":1}\n{\"b\"";
        assert!(read_line(&mut stream, &mut line).await.unwrap().is_some());
        assert_eq!(line, b"{\"a\":1}\n");
        assert!(read_line(&mut stream, &mut line).await.unwrap().is_none());
    }
}
