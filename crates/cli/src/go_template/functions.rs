//! The functions of templates: Go's own, and those that Docker adds.
//!
//! Source: Go's text/template documentation, "Functions"; docker/cli templates.go.

use std::cmp::Ordering;

use serde_json::Value;

use super::{
    MAX_OUTPUT_BYTES, Result, TemplateError, print,
    value::{is_true, kind},
};

const NAMES: [&str; 23] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate", "upper",
];

/// Whether there is a function of this name.
pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(TemplateError::Use(what.into()))
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value> {
    let value = match (name, arguments) {
        ("json", [value]) => Value::String(value.to_string()),
        ("not", [value]) => Value::Bool(!is_true(value)),
        ("len", [value]) => length(value)?,
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("slice", [value, bounds @ ..]) if bounds.len() <= 2 => slice(value, bounds)?,
        ("print", values) => Value::String(print::joined(values)),
        ("println", values) => {
            let texts: Vec<String> = values.iter().map(print::text).collect();
            Value::String(texts.join(" ") + "\n")
        }
        ("printf", [Value::String(format), values @ ..]) => {
            Value::String(print::formatted(format, values)?)
        }
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            let mut equal = false;
            for other in others {
                equal |= compare(first, other)? == Ordering::Equal;
            }
            Value::Bool(equal)
        }
        ("ne", [one, two]) => Value::Bool(compare(one, two)? != Ordering::Equal),
        ("lt", [one, two]) => Value::Bool(compare(one, two)?.is_lt()),
        ("le", [one, two]) => Value::Bool(compare(one, two)?.is_le()),
        ("gt", [one, two]) => Value::Bool(compare(one, two)?.is_gt()),
        ("ge", [one, two]) => Value::Bool(compare(one, two)?.is_ge()),
        ("lower", [Value::String(text)]) => Value::String(text.to_lowercase()),
        ("upper", [Value::String(text)]) => Value::String(text.to_uppercase()),
        ("title", [Value::String(text)]) => Value::String(title(text)),
        ("split", [Value::String(text), Value::String(separator)]) => {
            text.split(separator.as_str()).map(Value::from).collect()
        }
        ("join", [Value::Array(items), Value::String(separator)]) => {
            let items: Vec<String> = items.iter().map(print::text).collect();
            Value::String(items.join(separator))
        }
        ("join", [Value::Null, Value::String(_)]) => Value::String(String::new()),
        ("truncate", [Value::String(text), most]) => {
            let most = number(most)?;
            Value::String(text.chars().take(most).collect())
        }
        ("pad", [Value::String(text), before, behind]) => {
            let [before, behind] = [number(before)?, number(behind)?];
            let bytes = before
                .checked_add(behind)
                .and_then(|blanks| blanks.checked_add(text.len()));
            if bytes.is_none_or(|bytes| bytes > MAX_OUTPUT_BYTES) {
                return wrong("`pad` makes too long a text");
            }
            Value::String(format!(
                "{}{text}{}",
                " ".repeat(before),
                " ".repeat(behind)
            ))
        }
        (name, arguments) => {
            let kinds: Vec<&str> = arguments.iter().map(kind).collect();
            return wrong(format!("`{name}` does not take ({})", kinds.join(", ")));
        }
    };
    match &value {
        Value::String(text) if text.len() > MAX_OUTPUT_BYTES => {
            wrong(format!("`{name}` makes too long a text"))
        }
        _ => Ok(value),
    }
}

fn number(value: &Value) -> Result<usize> {
    let number = value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok());
    number.map_or_else(|| wrong(format!("`{value}` is not a count")), Ok)
}

fn length(value: &Value) -> Result<Value> {
    let length = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        other => return wrong(format!("`len` of {}", kind(other))),
    };
    Ok(Value::from(length))
}

fn index(value: &Value, keys: &[Value]) -> Result<Value> {
    let mut found = value;
    for key in keys {
        found = match (found, key) {
            (Value::Array(items), Value::Number(_)) => match items.get(number(key)?) {
                Some(item) => item,
                None => return wrong(format!("index {key} is out of range: {}", items.len())),
            },
            // Docker's maps are of texts: what is not there is an empty one.
            (Value::Object(map), Value::String(key)) => match map.get(key) {
                Some(inner) => inner,
                None => return Ok(Value::String(String::new())),
            },
            (other, key) => {
                return wrong(format!("`index` of {} by {}", kind(other), kind(key)));
            }
        };
    }
    Ok(found.clone())
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value> {
    let from = bounds.first().map_or(Ok(0), number)?;
    let to = |length| bounds.get(1).map_or(Ok(length), number);
    let outside = || wrong("`slice` is out of range");
    match value {
        Value::String(text) => match text.get(from..to(text.len())?) {
            Some(part) => Ok(Value::from(part)),
            None => outside(),
        },
        Value::Array(items) => match items.get(from..to(items.len())?) {
            Some(part) => Ok(Value::Array(part.to_vec())),
            None => outside(),
        },
        other => wrong(format!("`slice` of {}", kind(other))),
    }
}

/// Orders two values of one kind; of lists and maps, and of what is absent, only whether they are
/// equal is of use.
fn compare(one: &Value, two: &Value) -> Result<Ordering> {
    match (one, two) {
        (Value::String(one), Value::String(two)) => Ok(one.cmp(two)),
        (Value::Bool(one), Value::Bool(two)) => Ok(one.cmp(two)),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Ok(a.cmp(&b)),
            _ => {
                let [a, b] = [a, b].map(|number| number.as_f64().unwrap_or(f64::NAN));
                Ok(a.partial_cmp(&b).unwrap_or(Ordering::Less))
            }
        },
        (Value::Null, Value::Null) => Ok(Ordering::Equal),
        (Value::Null, _) | (_, Value::Null) => Ok(Ordering::Less),
        _ => wrong(format!(
            "{} cannot be compared with {}",
            kind(one),
            kind(two)
        )),
    }
}

fn title(text: &str) -> String {
    let mut at_start = true;
    text.chars()
        .map(|c| {
            let shown = if at_start { c.to_ascii_uppercase() } else { c };
            at_start = !c.is_alphanumeric();
            shown
        })
        .collect()
}
