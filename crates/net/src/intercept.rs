//! The way to a proxy that ends TLS flows of the guest, and the search for what must not leave.
//!
//! A sandbox with secrets has placeholders in their place. A proxy outside of this crate puts the
//! values in. It gets a flow when the guest's hello names a host that it wants: a socket with the
//! guest's bytes, and the socket that is connected already, to the address that the policy has
//! decided about. All other flows of TCP are searched for placeholders.

use std::{fmt, os::fd::OwnedFd, sync::Arc};

/// A flow that a proxy takes over, before a byte of the guest has left.
#[derive(Debug)]
pub struct Intercepted {
    /// One end of a socket pair; the guest's bytes come from it. It does not block.
    pub guest: OwnedFd,
    /// Connected to the destination. It does not block.
    pub server: OwnedFd,
    /// The name of the server in the guest's hello, in lower case.
    pub host: String,
}

/// Takes TLS flows over. It is called on the stack's thread, so it must not block.
pub trait Intercept: Send + Sync + fmt::Debug {
    /// Whether it takes a flow to `host` (in lower case) and `port`.
    fn wants(&self, host: &str, port: u16) -> bool;

    /// Takes a flow over.
    fn take(&self, flow: Intercepted);
}

/// What a stack has to know of a sandbox's secrets. It knows no values.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Names of the secrets and their placeholders.
    pub placeholders: Vec<(String, String)>,
    /// The proxy that puts values in.
    pub proxy: Arc<dyn Intercept>,
}

/// Searches the bytes of one flow for placeholders, however they are cut.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// The last bytes that were sent, fewer than the longest placeholder has.
    tail: Vec<u8>,
    /// The name of the secret whose placeholder was found.
    pub(crate) found: Option<String>,
}

impl Scanner {
    /// Whether `data`, behind what was sent, has a placeholder. Notes which.
    pub(crate) fn finds(&mut self, secrets: &Secrets, data: &[u8]) -> bool {
        let longest = longest(secrets);
        let seam: Vec<u8> = self
            .tail
            .iter()
            .chain(data.iter().take(longest))
            .copied()
            .collect();
        let found = secrets
            .placeholders
            .iter()
            .find(|(_, text)| contains(&seam, text.as_bytes()) || contains(data, text.as_bytes()));
        self.found = found.map(|(name, _)| name.clone());
        self.found.is_some()
    }

    /// Notes that `data` was sent.
    pub(crate) fn sent(&mut self, secrets: &Secrets, data: &[u8]) {
        let keep = longest(secrets).saturating_sub(1);
        let from = data.len().saturating_sub(keep);
        self.tail.extend_from_slice(&data[from..]);
        let excess = self.tail.len().saturating_sub(keep);
        self.tail.drain(..excess);
    }
}

fn longest(secrets: &Secrets) -> usize {
    let lengths = secrets.placeholders.iter().map(|(_, text)| text.len());
    lengths.max().unwrap_or(0)
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    let Some(first) = word.first() else {
        return false;
    };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(word) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nobody;

    impl Intercept for Nobody {
        fn wants(&self, _: &str, _: u16) -> bool {
            false
        }

        fn take(&self, _: Intercepted) {}
    }

    #[test]
    fn a_placeholder_is_found_however_it_is_cut() {
        let secrets = Secrets {
            placeholders: vec![
                ("T".to_owned(), "coffer-secret-T-00ff".to_owned()),
                ("U".to_owned(), "coffer-secret-U".to_owned()),
            ],
            proxy: Arc::new(Nobody),
        };
        let text = b"GET /?k=coffer-secret-T-00ff HTTP/1.1";
        for size in 1..=text.len() {
            let mut scanner = Scanner::default();
            let mut sent = 0;
            for piece in text.chunks(size) {
                if scanner.finds(&secrets, piece) {
                    break;
                }
                scanner.sent(&secrets, piece);
                sent += piece.len();
            }
            assert_eq!(scanner.found.as_deref(), Some("T"), "{size}");
            assert!(sent < text.len(), "{size}");
        }
        let mut scanner = Scanner::default();
        for piece in [&b"coffer-secret-"[..], b"T-00fe", b"", b"coffer"] {
            assert!(!scanner.finds(&secrets, piece));
            scanner.sent(&secrets, piece);
        }
    }
}
