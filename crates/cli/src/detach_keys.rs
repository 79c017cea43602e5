//! Keys that leave a session without ending it: Ctrl-P Ctrl-Q, or others by `--detach-keys`.
//!
//! Source: docker-attach(1): letters, or `ctrl-` and one of `a-z @ [ \ ] ^ _`, split by commas.

use cofferdam::{Error, ErrorKind, Result};

/// Looks for the keys in what is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them were typed last, and are held back.
    typed: usize,
}

impl DetachKeys {
    /// Docker's default.
    pub(crate) const DEFAULT: &'static str = "ctrl-p,ctrl-q";

    /// The keys of a list; an empty one has none, so nothing detaches.
    ///
    /// # Errors
    /// When an item is no key.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let items = text.split(',').filter(|_| !text.is_empty());
        let keys = items.map(|item| {
            key(item).ok_or_else(|| {
                Error::new(ErrorKind::InvalidSpec, format!("`{item}` is not a key"))
                    .hint("Write keys as `ctrl-p,ctrl-q` or `ctrl-]`")
            })
        });
        Ok(Self {
            keys: keys.collect::<Result<_>>()?,
            typed: 0,
        })
    }

    /// What of `bytes` goes to the sandbox, and whether the keys were typed; then the rest is gone.
    pub(crate) fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            loop {
                if self.keys.get(self.typed) == Some(byte) {
                    self.typed += 1;
                    if self.typed == self.keys.len() {
                        return (out, true);
                    }
                    break;
                }
                if self.typed == 0 {
                    out.push(*byte);
                    break;
                }
                // It was no detaching: the longest held end that may still become one stays held.
                let held = &self.keys[..self.typed];
                let kept = (1..self.typed).find(|from| self.keys.starts_with(&held[*from..]));
                let gone = kept.unwrap_or(self.typed);
                out.extend_from_slice(&held[..gone]);
                self.typed -= gone;
            }
        }
        (out, false)
    }
}

fn key(text: &str) -> Option<u8> {
    match text.strip_prefix("ctrl-").map(str::as_bytes) {
        // ASCII: the control characters are their letters without bit 0x40.
        Some([letter @ (b'a'..=b'z')]) => Some(letter - b'a' + 1),
        Some([sign @ (b'@' | b'['..=b'_')]) => Some(sign & 0x1f),
        Some(_) => None,
        None => match text.as_bytes() {
            [byte] if byte.is_ascii_graphic() || *byte == b' ' => Some(*byte),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(keys: &str, parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = DetachKeys::parse(keys).unwrap();
        let mut out = Vec::new();
        for part in parts {
            let (passed, detached) = keys.filter(part);
            out.extend(passed);
            if detached {
                return (out, true);
            }
        }
        (out, false)
    }

    #[test]
    fn the_keys_detach_in_one_read_or_in_two() {
        let keys = DetachKeys::DEFAULT;
        assert_eq!(filter(keys, &[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(filter(keys, &[b"a\x10", b"\x11"]), (b"a".to_vec(), true));
    }

    #[test]
    fn a_beginning_without_its_end_is_passed_on_whole() {
        let keys = DetachKeys::DEFAULT;
        assert_eq!(filter(keys, &[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(filter(keys, &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(filter("a,a,b", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(filter("a,b,a,c", &[b"ababac"]), (b"ab".to_vec(), true));
        assert_eq!(filter("", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }

    #[test]
    fn keys_are_spelt_as_docker_spells_them() {
        for (text, keys) in [
            ("ctrl-p,ctrl-q", &[0x10, 0x11][..]),
            ("ctrl-]", &[0x1d]),
            ("ctrl-@,ctrl-\\,ctrl-_", &[0, 0x1c, 0x1f]),
            ("a,Z", b"aZ"),
        ] {
            assert_eq!(DetachKeys::parse(text).unwrap().keys, keys, "{text}");
        }
        for bad in ["ctrl-", "ctrl-P", "ctrl-pp", "ab", "a,", "é"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }
}
