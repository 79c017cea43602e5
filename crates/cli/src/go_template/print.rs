//! Values as Go prints them, and `printf`.

use serde_json::Value;

use super::{MAX_OUTPUT_BYTES, Result, TemplateError, value};

/// A value as `print` shows it.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let pairs = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", text(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
        plain => plain.to_string(),
    }
}

/// Values as Go's `Sprint` joins them: with a blank between two that are no texts.
pub(super) fn joined(values: &[Value]) -> String {
    let mut all = String::new();
    for (at, value) in values.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| values.get(before));
        if before.is_some_and(|before| !before.is_string() && !value.is_string()) {
            all.push(' ');
        }
        all.push_str(&text(value));
    }
    all
}

/// How a verb of `printf` shows its value.
#[derive(Debug, Default)]
struct Form {
    left: bool,
    zero: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

/// Go's `Sprintf` with the verbs `%s %d %v %q %t %f %x %c %%`.
pub(super) fn formatted(format: &str, values: &[Value]) -> Result<String> {
    let mut all = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some((before, behind)) = rest.split_once('%') {
        all.push_str(before);
        let (form, verb, behind) = form(behind)?;
        rest = behind;
        let shown = match (verb, values.as_slice().first()) {
            ('%', _) => "%".to_owned(),
            (verb, None) => format!("%!{verb}(MISSING)"),
            (verb, Some(value)) => {
                values.next();
                shown(verb, value, &form)
            }
        };
        if form.width > MAX_OUTPUT_BYTES - all.len().min(MAX_OUTPUT_BYTES) {
            return Err(TemplateError::Use(format!("`{}` is too wide", form.width)));
        }
        all.push_str(&padded(&shown, &form));
    }
    all.push_str(rest);
    Ok(all)
}

/// What stands between a `%` and its verb.
fn form(text: &str) -> Result<(Form, char, &str)> {
    let mut form = Form::default();
    let mut rest = text;
    while let Some(flag) = rest
        .chars()
        .next()
        .filter(|c| matches!(c, '-' | '+' | '0' | '#' | ' '))
    {
        match flag {
            '-' => form.left = true,
            '0' => form.zero = true,
            '+' => form.plus = true,
            _ => {}
        }
        rest = &rest[1..];
    }
    let digits = |text: &str| {
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len())
    };
    let wide = || TemplateError::Use("a width is no number".to_owned());
    let (width, behind) = rest.split_at(digits(rest));
    if !width.is_empty() {
        form.width = width.parse().map_err(|_| wide())?;
    }
    rest = behind;
    if let Some(behind) = rest.strip_prefix('.') {
        let (precision, behind) = behind.split_at(digits(behind));
        form.precision = Some(format!("0{precision}").parse().map_err(|_| wide())?);
        rest = behind;
    }
    match rest.chars().next() {
        Some(verb) => Ok((form, verb, &rest[verb.len_utf8()..])),
        None => Err(TemplateError::Use("a format ends in `%`".to_owned())),
    }
}

fn shown(verb: char, value: &Value, form: &Form) -> String {
    let cut = |text: String| match form.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    };
    match (verb, value) {
        ('s', Value::String(_) | Value::Array(_) | Value::Object(_)) | ('v', _) => cut(text(value)),
        ('q', Value::String(text)) => format!("{text:?}"),
        ('t', Value::Bool(_)) => value.to_string(),
        ('d', Value::Number(number)) if !number.is_f64() => {
            let sign = if form.plus && !number.to_string().starts_with('-') {
                "+"
            } else {
                ""
            };
            format!("{sign}{number}")
        }
        ('f', Value::Number(number)) if number.is_f64() => {
            // A number that may be too large for more digits than these.
            let places = form.precision.unwrap_or(6).min(100);
            format!("{:.places$}", number.as_f64().unwrap_or_default())
        }
        ('x', Value::Number(number)) if number.is_u64() => {
            format!("{:x}", number.as_u64().unwrap_or_default())
        }
        ('c', Value::Number(number)) => {
            let code = number.as_u64().and_then(|code| u32::try_from(code).ok());
            code.and_then(char::from_u32)
                .unwrap_or('\u{fffd}')
                .to_string()
        }
        (verb, value) => format!("%!{verb}({}={})", value::kind(value), text(value)),
    }
}

fn padded(shown: &str, form: &Form) -> String {
    let missing = form.width.saturating_sub(shown.chars().count());
    if form.left {
        return format!("{shown}{}", " ".repeat(missing));
    }
    match shown.strip_prefix(['-', '+']) {
        Some(digits) if form.zero => format!("{}{}{digits}", &shown[..1], "0".repeat(missing)),
        _ => format!(
            "{}{shown}",
            if form.zero { "0" } else { " " }.repeat(missing)
        ),
    }
}
