//! From tokens to a tree. Recursion is bounded by [`MAX_DEPTH`].

use std::{collections::VecDeque, vec};

use serde_json::Value;

use super::{
    Result, TemplateError, functions,
    lexer::{Piece, Token, TokenKind},
};

/// Deepest nesting of actions, and of parentheses.
const MAX_DEPTH: usize = 64;

/// One step of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
}

/// A condition, or what is ranged over, and what depends on it.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) pipeline: Pipeline,
    pub(super) body: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

/// Commands, each with the value of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// Variables that get the value; two for a `range`.
    pub(super) variables: Vec<String>,
    /// Whether the variables are new.
    pub(super) declares: bool,
    pub(super) commands: Vec<Command>,
}

/// A function or a value with its arguments.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) first: Operand,
    pub(super) arguments: Vec<Operand>,
}

/// A value and the fields that are taken of it.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) base: Base,
    pub(super) fields: Vec<String>,
}

/// Where a value comes from.
#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Function(String),
    Pipeline(Box<Pipeline>),
}

impl Node {
    /// The last name of the first field that it prints.
    pub(super) fn first_field(&self) -> Option<&str> {
        match self {
            Self::Print(pipeline) => pipeline.first_field(),
            Self::If(branch) => branch.body.iter().find_map(Self::first_field),
            _ => None,
        }
    }
}

impl Pipeline {
    fn first_field(&self) -> Option<&str> {
        let operands = self
            .commands
            .iter()
            .flat_map(|command| std::iter::once(&command.first).chain(&command.arguments));
        let mut operands = operands;
        operands.find_map(|operand| match &operand.base {
            Base::Pipeline(inner) => inner.first_field(),
            _ => operand.fields.last().map(String::as_str),
        })
    }
}

/// Reads a whole template.
pub(super) fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>> {
    let mut parser = Parser {
        pieces: pieces.into_iter(),
        // `$` is there from the beginning.
        variables: vec![String::new()],
        loops: 0,
    };
    let (nodes, end) = parser.nodes(0)?;
    match end {
        None => Ok(nodes),
        Some(_) => syntax("`else` or `end` without a beginning"),
    }
}

fn syntax<T>(what: impl Into<String>) -> Result<T> {
    Err(TemplateError::Syntax(what.into()))
}

/// What ends a list of nodes.
enum End {
    End,
    Else(Words),
}

type Words = VecDeque<Token>;

struct Parser {
    pieces: vec::IntoIter<Piece>,
    /// Names that are known here.
    variables: Vec<String>,
    loops: usize,
}

impl Parser {
    /// Nodes up to an `else` or `end`, or the template's end.
    fn nodes(&mut self, depth: usize) -> Result<(Vec<Node>, Option<End>)> {
        if depth > MAX_DEPTH {
            return syntax(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let mut words: Words = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens.into(),
            };
            let keyword = match words.front().map(|token| &token.kind) {
                Some(TokenKind::Word(word)) => word.clone(),
                _ => String::new(),
            };
            match keyword.as_str() {
                "end" | "else" | "break" | "continue" | "if" | "with" | "range" => {
                    words.pop_front();
                }
                "define" | "template" | "block" => {
                    return syntax(format!("`{keyword}` is not supported"));
                }
                _ => {}
            }
            match keyword.as_str() {
                "end" => {
                    expect_none(&words)?;
                    return Ok((nodes, Some(End::End)));
                }
                "else" => return Ok((nodes, Some(End::Else(words)))),
                "break" | "continue" => {
                    expect_none(&words)?;
                    if self.loops == 0 {
                        return syntax(format!("`{keyword}` outside of a `range`"));
                    }
                    nodes.push(match keyword.as_str() {
                        "break" => Node::Break,
                        _ => Node::Continue,
                    });
                }
                "if" | "with" | "range" => nodes.push(self.branch(&keyword, words, depth + 1)?),
                _ => nodes.push(Node::Print(self.whole_pipeline(words, false)?)),
            }
        }
        Ok((nodes, None))
    }

    fn branch(&mut self, keyword: &str, words: Words, depth: usize) -> Result<Node> {
        let known = self.variables.len();
        let pipeline = self.whole_pipeline(words, keyword == "range")?;
        self.loops += usize::from(keyword == "range");
        let body = self.nodes(depth);
        self.loops -= usize::from(keyword == "range");
        let (body, end) = body?;
        let otherwise = match end {
            Some(End::End) => Vec::new(),
            Some(End::Else(words)) => self.otherwise(words, depth)?,
            None => return syntax(format!("`{keyword}` has no `end`")),
        };
        self.variables.truncate(known);
        let branch = Branch {
            pipeline,
            body,
            otherwise,
        };
        Ok(match keyword {
            "if" => Node::If(branch),
            "with" => Node::With(branch),
            _ => Node::Range(branch),
        })
    }

    /// What stands behind an `else`, to the `end`.
    fn otherwise(&mut self, mut words: Words, depth: usize) -> Result<Vec<Node>> {
        if let Some(token) = words.pop_front() {
            return match token.kind {
                TokenKind::Word(word) if word == "if" || word == "with" => {
                    // It shares the `end` with what it belongs to.
                    Ok(vec![self.nested(&word, words, depth + 1)?])
                }
                _ => syntax("`else` is followed by something else than `if`"),
            };
        }
        match self.nodes(depth)? {
            (nodes, Some(End::End)) => Ok(nodes),
            _ => syntax("`else` has no `end`"),
        }
    }

    fn nested(&mut self, word: &str, words: Words, depth: usize) -> Result<Node> {
        if depth > MAX_DEPTH {
            return syntax(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        self.branch(word, words, depth)
    }

    /// A pipeline that is all of an action.
    fn whole_pipeline(&mut self, mut words: Words, is_range: bool) -> Result<Pipeline> {
        let pipeline = self.pipeline(&mut words, is_range, 0)?;
        expect_none(&words)?;
        Ok(pipeline)
    }

    fn pipeline(&mut self, words: &mut Words, is_range: bool, depth: usize) -> Result<Pipeline> {
        if depth > MAX_DEPTH {
            return syntax(format!("parentheses are nested more than {MAX_DEPTH} deep"));
        }
        let (variables, declares) = targets(words, is_range)?;
        let mut commands = Vec::new();
        loop {
            commands.push(self.command(words, depth)?);
            match words.front().map(|token| &token.kind) {
                Some(TokenKind::Pipe) => {
                    words.pop_front();
                }
                _ => break,
            }
        }
        if declares {
            self.variables.extend(variables.iter().cloned());
        } else if let Some(unknown) = variables.iter().find(|name| !self.variables.contains(name)) {
            return syntax(format!("variable `${unknown}` is not declared"));
        }
        Ok(Pipeline {
            variables,
            declares,
            commands,
        })
    }

    fn command(&mut self, words: &mut Words, depth: usize) -> Result<Command> {
        let Some(first) = self.operand(words, depth)? else {
            return syntax("a value is missing");
        };
        let mut arguments = Vec::new();
        while let Some(argument) = self.operand(words, depth)? {
            arguments.push(argument);
        }
        Ok(Command { first, arguments })
    }

    /// The next value, if there is one before the next `|` or `)`.
    fn operand(&mut self, words: &mut Words, depth: usize) -> Result<Option<Operand>> {
        let base = match words.front().map(|token| &token.kind) {
            None | Some(TokenKind::Pipe | TokenKind::Close) => return Ok(None),
            Some(TokenKind::Open) => {
                words.pop_front();
                let inner = self.pipeline(words, false, depth + 1)?;
                match words.pop_front().map(|token| token.kind) {
                    Some(TokenKind::Close) => Base::Pipeline(Box::new(inner)),
                    _ => return syntax("a parenthesis is not closed"),
                }
            }
            Some(TokenKind::Field(_)) => Base::Dot,
            Some(_) => self.simple(words)?,
        };
        let mut fields = Vec::new();
        // A field that begins the operand belongs to the dot, however it is spaced.
        let mut is_first = matches!(base, Base::Dot);
        while let Some(Token {
            kind: TokenKind::Field(name),
            joined,
        }) = words.front()
        {
            if !*joined && !is_first {
                break;
            }
            fields.push(name.clone());
            words.pop_front();
            is_first = false;
        }
        Ok(Some(Operand { base, fields }))
    }

    fn simple(&self, words: &mut Words) -> Result<Base> {
        match words.pop_front().map(|token| token.kind) {
            Some(TokenKind::Dot) => Ok(Base::Dot),
            Some(TokenKind::Variable(name)) if self.variables.contains(&name) => {
                Ok(Base::Variable(name))
            }
            Some(TokenKind::Variable(name)) => {
                syntax(format!("variable `${name}` is not declared"))
            }
            Some(TokenKind::Literal(value)) => Ok(Base::Literal(value)),
            Some(TokenKind::Word(name)) if functions::is_known(&name) => Ok(Base::Function(name)),
            Some(TokenKind::Word(name)) => syntax(format!("there is no function `{name}`")),
            _ => syntax("a value is missing"),
        }
    }
}

fn expect_none(words: &Words) -> Result<()> {
    match words.front() {
        None => Ok(()),
        Some(_) => syntax("an action has too many words"),
    }
}

/// The variables in front of `:=` or `=`, and whether they are new.
fn targets(words: &mut Words, is_range: bool) -> Result<(Vec<String>, bool)> {
    let kinds: Vec<&TokenKind> = words.iter().take(4).map(|token| &token.kind).collect();
    let (names, declares) = match kinds.as_slice() {
        [
            TokenKind::Variable(one),
            end @ (TokenKind::Declare | TokenKind::Assign),
            ..,
        ] => (vec![one.clone()], **end == TokenKind::Declare),
        [
            TokenKind::Variable(one),
            TokenKind::Comma,
            TokenKind::Variable(two),
            end @ (TokenKind::Declare | TokenKind::Assign),
        ] if is_range => (vec![one.clone(), two.clone()], **end == TokenKind::Declare),
        _ => return Ok((Vec::new(), false)),
    };
    if names.iter().any(String::is_empty) {
        return syntax("`$` cannot be set");
    }
    words.drain(..names.len() * 2);
    Ok((names, declares))
}
