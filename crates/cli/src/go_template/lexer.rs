//! From a template's text to tokens.

use serde_json::{Number, Value};

use super::{Result, TemplateError};

/// One piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// Text that is copied.
    Text(String),
    /// What stands between braces.
    Action(Vec<Token>),
}

/// One word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    /// Whether nothing stands between it and the token before.
    pub(super) joined: bool,
}

/// What a word is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    /// `.` alone.
    Dot,
    /// `.Name`.
    Field(String),
    /// `$name`; `$` has an empty name.
    Variable(String),
    /// A function or a keyword.
    Word(String),
    /// Text, a number, `true`, `false` or `nil`.
    Literal(Value),
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    Open,
    Close,
}

/// Splits a template.
pub(super) fn lex(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some(begin) = rest.find("{{") {
        let (before, behind) = rest.split_at(begin);
        let mut behind = &behind[2..];
        // A marker has a blank behind it, else it is a sign.
        let trims = behind.strip_prefix('-').filter(|rest| starts_blank(rest));
        let before = if trim_next {
            before.trim_start()
        } else {
            before
        };
        let before = match trims {
            Some(_) => before.trim_end(),
            None => before,
        };
        behind = trims.unwrap_or(behind);
        push_text(&mut pieces, before);
        let (action, after, trims) = lex_action(behind)?;
        if let Some(tokens) = action {
            pieces.push(Piece::Action(tokens));
        }
        (rest, trim_next) = (after, trims);
    }
    push_text(
        &mut pieces,
        if trim_next { rest.trim_start() } else { rest },
    );
    Ok(pieces)
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

fn starts_blank(text: &str) -> bool {
    text.starts_with([' ', '\t', '\r', '\n'])
}

fn syntax<T>(what: impl Into<String>) -> Result<T> {
    Err(TemplateError::Syntax(what.into()))
}

/// The tokens up to the closing braces, what follows these, and whether it is trimmed. A comment
/// has no tokens.
fn lex_action(text: &str) -> Result<(Option<Vec<Token>>, &str, bool)> {
    let mut rest = text;
    let mut tokens = Vec::new();
    let inner = rest.trim_start();
    if let Some(comment) = inner.strip_prefix("/*") {
        let Some((_, behind)) = comment.split_once("*/") else {
            return syntax("a comment has no end");
        };
        let trimmed = behind.trim_start();
        return match (trimmed.strip_prefix("-}}"), behind.strip_prefix("}}")) {
            (Some(after), _) if starts_blank(behind) => Ok((None, after, true)),
            (_, Some(after)) => Ok((None, after, false)),
            _ => syntax("a comment stands alone between braces"),
        };
    }
    loop {
        let trimmed = rest.trim_start();
        let joined = trimmed.len() == rest.len();
        if let Some(after) = trimmed.strip_prefix("}}") {
            return Ok((Some(tokens), after, false));
        }
        if let Some(after) = trimmed.strip_prefix("-}}").filter(|_| !joined) {
            return Ok((Some(tokens), after, true));
        }
        if trimmed.is_empty() {
            return syntax("an action has no end");
        }
        let (kind, length) = token(trimmed)?;
        tokens.push(Token { kind, joined });
        rest = &trimmed[length..];
    }
}

/// The first token of `text`, which is not empty, and its length.
fn token(text: &str) -> Result<(TokenKind, usize)> {
    let name_length = |text: &str| {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        end.unwrap_or(text.len())
    };
    let first = text.chars().next().unwrap_or('\0');
    match first {
        '|' => Ok((TokenKind::Pipe, 1)),
        ',' => Ok((TokenKind::Comma, 1)),
        '(' => Ok((TokenKind::Open, 1)),
        ')' => Ok((TokenKind::Close, 1)),
        ':' if text.starts_with(":=") => Ok((TokenKind::Declare, 2)),
        '=' => Ok((TokenKind::Assign, 1)),
        '"' => quoted(text),
        '`' => match text[1..].split_once('`') {
            Some((raw, _)) => Ok((TokenKind::Literal(raw.into()), raw.len() + 2)),
            None => syntax("a text has no end"),
        },
        '\'' => character(text),
        '.' if !text[1..].starts_with(|c: char| c.is_ascii_digit()) => {
            let name = &text[1..1 + name_length(&text[1..])];
            match name {
                "" => Ok((TokenKind::Dot, 1)),
                name => Ok((TokenKind::Field(name.to_owned()), 1 + name.len())),
            }
        }
        '$' => {
            let name = &text[1..1 + name_length(&text[1..])];
            Ok((TokenKind::Variable(name.to_owned()), 1 + name.len()))
        }
        '+' | '-' | '.' | '0'..='9' => number(text),
        c if c.is_alphabetic() || c == '_' => {
            let word = &text[..name_length(text)];
            let kind = match word {
                "true" => TokenKind::Literal(true.into()),
                "false" => TokenKind::Literal(false.into()),
                "nil" => TokenKind::Literal(Value::Null),
                word => TokenKind::Word(word.to_owned()),
            };
            Ok((kind, word.len()))
        }
        c => syntax(format!("`{}` is unexpected", c.escape_debug())),
    }
}

/// Reads `"text"` with Go's common escapes.
fn quoted(text: &str) -> Result<(TokenKind, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Ok((TokenKind::Literal(value.into()), at + 1)),
            '\n' => break,
            '\\' => match characters.next() {
                Some((_, escaped)) => value.push(unescaped(escaped)?),
                None => break,
            },
            c => value.push(c),
        }
    }
    syntax("a text has no end")
}

/// Reads `'c'`, which is a number as in Go.
fn character(text: &str) -> Result<(TokenKind, usize)> {
    let characters: Vec<char> = text.chars().take(4).collect();
    let (c, length) = match characters.as_slice() {
        ['\'', '\\', escaped, '\''] => (unescaped(*escaped)?, 3 + escaped.len_utf8()),
        ['\'', c, '\'', ..] => (*c, 2 + c.len_utf8()),
        _ => return syntax("a character has no end"),
    };
    Ok((TokenKind::Literal(u32::from(c).into()), length))
}

fn unescaped(c: char) -> Result<char> {
    match c {
        'n' => Ok('\n'),
        't' => Ok('\t'),
        'r' => Ok('\r'),
        '\\' | '"' | '\'' => Ok(c),
        other => syntax(format!("`\\{other}` is not understood")),
    }
}

fn number(text: &str) -> Result<(TokenKind, usize)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
    let sign = usize::from(text.starts_with(['+', '-']));
    let end = text[sign..].find(|c| !is_part(c)).map(|end| end + sign);
    let word = &text[..end.unwrap_or(text.len())];
    let digits = word.trim_start_matches('+').replace('_', "");
    let hexadecimal = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    let value = match hexadecimal {
        Some(digits) => i64::from_str_radix(digits, 16).ok().map(Number::from),
        None => match digits.parse::<i64>() {
            Ok(whole) => Some(Number::from(whole)),
            Err(_) => digits.parse().ok().and_then(Number::from_f64),
        },
    };
    match value {
        Some(value) => Ok((TokenKind::Literal(Value::Number(value)), word.len())),
        None => syntax(format!("`{word}` is not a number")),
    }
}
