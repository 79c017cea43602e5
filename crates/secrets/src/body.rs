//! Bodies on their way: values put in, placeholders for other hosts found, repeated values masked.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use crate::{
    find::{find, partial},
    rule::Rule,
};

/// Why a body ends early.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A placeholder in a body that its host may not have.
#[derive(Debug)]
pub(crate) struct Misplaced(pub(crate) String);

impl std::fmt::Display for Misplaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "The body has the placeholder of the secret `{}`", self.0)
    }
}

impl std::error::Error for Misplaced {}

/// What is done with the words of a body.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    words: Vec<Vec<u8>>,
    actions: Vec<Action>,
    /// The end of what came, while it may be the beginning of a word.
    held: Vec<u8>,
}

#[derive(Debug)]
enum Action {
    Replace(Vec<u8>),
    /// The name of the secret.
    Refuse(String),
}

impl Filter {
    /// For the body of a request to `host`.
    pub(crate) fn of_request(rules: &[Rule], host: &str) -> Self {
        let mut filter = Self::default();
        for rule in rules {
            let action = match (rule.spec.allows(host), rule.spec.body) {
                (false, _) => Action::Refuse(rule.spec.name.clone()),
                (true, true) => Action::Replace(rule.value.expose().into()),
                (true, false) => continue,
            };
            filter.words.push(rule.spec.placeholder.clone().into());
            filter.actions.push(action);
        }
        filter
    }

    /// For an answer that must not repeat `masked`.
    pub(crate) fn of_answer(masked: Vec<Vec<u8>>) -> Self {
        let stars = |word: &Vec<u8>| Action::Replace(vec![b'*'; word.len()]);
        Self {
            actions: masked.iter().map(stars).collect(),
            words: masked,
            held: Vec::new(),
        }
    }

    /// Whether it can change the length of a body.
    pub(crate) fn changes_length(&self) -> bool {
        let mut pairs = self.words.iter().zip(&self.actions);
        pairs.any(|(word, action)| match action {
            Action::Replace(text) => text.len() != word.len(),
            Action::Refuse(_) => false,
        })
    }

    /// Takes a piece and returns what may go on.
    pub(crate) fn push(&mut self, piece: Bytes) -> Result<Bytes, Misplaced> {
        if self.words.is_empty() {
            return Ok(piece);
        }
        if self.held.is_empty() && find(&piece, &self.words).is_none() {
            let held = partial(&piece, &self.words);
            self.held = piece[piece.len() - held..].to_vec();
            return Ok(piece.slice(..piece.len() - held));
        }
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(&piece);
        let (mut out, mut rest) = (Vec::new(), bytes.as_slice());
        while let Some((at, index)) = find(rest, &self.words) {
            match &self.actions[index] {
                Action::Refuse(name) => return Err(Misplaced(name.clone())),
                Action::Replace(text) => {
                    out.extend_from_slice(&rest[..at]);
                    out.extend_from_slice(text);
                }
            }
            rest = &rest[at + self.words[index].len()..];
        }
        let (done, held) = rest.split_at(rest.len() - partial(rest, &self.words));
        out.extend_from_slice(done);
        self.held = held.to_vec();
        Ok(out.into())
    }

    /// What was held back, at the end.
    pub(crate) fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }
}

/// A body that goes through a filter.
pub(crate) struct Filtered<F> {
    inner: Incoming,
    filter: Filter,
    /// Called with the name of a secret whose placeholder is refused.
    refused: F,
    /// What comes after the bytes that were held back.
    trailers: Option<Frame<Bytes>>,
}

impl<F: Fn(&str)> Filtered<F> {
    pub(crate) fn new(inner: Incoming, filter: Filter, refused: F) -> Self {
        Self {
            inner,
            filter,
            refused,
            trailers: None,
        }
    }
}

impl<F: Fn(&str) + Unpin> Body for Filtered<F> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(trailers) = self.trailers.take() {
                return Poll::Ready(Some(Ok(trailers)));
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => {
                    let held = self.filter.finish();
                    let last = (!held.is_empty()).then(|| Ok(Frame::data(held)));
                    return Poll::Ready(last);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Err(trailers) => {
                        self.trailers = Some(trailers);
                        let held = self.filter.finish();
                        if !held.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(held))));
                        }
                    }
                    Ok(data) => match self.filter.push(data) {
                        Ok(data) if data.is_empty() => {}
                        Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                        Err(misplaced) => {
                            (self.refused)(&misplaced.0);
                            return Poll::Ready(Some(Err(misplaced.into())));
                        }
                    },
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() && self.filter.held.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.size_hint();
        match inner.exact() {
            Some(length) if length == 0 || !self.filter.changes_length() => {
                SizeHint::with_exact(length + self.filter.held.len() as u64)
            }
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<Rule> {
        let mut spec = cofferdam_types::SecretSpec::parse(text).unwrap();
        spec.placeholder = "coffer-secret-T-00ff".to_owned();
        vec![Rule {
            value: spec.value.take().unwrap(),
            spec,
        }]
    }

    fn through(mut filter: Filter, body: &[u8], size: usize) -> Result<Vec<u8>, Misplaced> {
        let mut out = Vec::new();
        for piece in body.chunks(size) {
            out.extend(filter.push(Bytes::copy_from_slice(piece))?);
        }
        out.extend(filter.finish());
        Ok(out)
    }

    #[test]
    fn a_word_is_found_however_the_body_is_cut() {
        let body = b"{\"k\":\"coffer-secret-T-00ff\"}coffer-secret-T-00ffcoffer-secret-T-00f";
        let expected = b"{\"k\":\"the value\"}the valuecoffer-secret-T-00f";
        for size in 1..=body.len() {
            let filter = Filter::of_request(&rules("T=the value:a.org,body"), "a.org");
            assert!(filter.changes_length());
            assert_eq!(through(filter, body, size).unwrap(), expected, "{size}");
            let filter = Filter::of_request(&rules("T=the value:a.org"), "b.org");
            assert!(!filter.changes_length());
            assert_eq!(through(filter, body, size).unwrap_err().0, "T", "{size}");
            let filter = Filter::of_request(&rules("T=the value:a.org"), "a.org");
            assert_eq!(through(filter, body, size).unwrap(), body, "{size}");
        }
    }

    #[test]
    fn an_answer_keeps_its_length() {
        let body = b"you sent: the value, the valu";
        for size in 1..=body.len() {
            let filter = Filter::of_answer(vec![b"the value".to_vec()]);
            assert!(!filter.changes_length());
            let out = through(filter, body, size).unwrap();
            assert_eq!(out, b"you sent: *********, the valu", "{size}");
        }
    }
}
