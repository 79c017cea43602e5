//! The 512-byte tar header block.
//!
//! Everything in it is an allegation: numbers are parsed with overflow checks, the checksum is
//! compared before anything else is looked at.
//! *Source:* POSIX.1-2017 pax §ustar; GNU tar manual, "Basic Tar Format"; star(5) for its prefix.

use super::super::corrupt;
use crate::error::Result;

/// Size of a header and unit of padding (POSIX pax §ustar).
pub(super) const BLOCK_BYTES: usize = 512;

/// Which dialect a header's magic names; decides how the bytes after the magic are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Before POSIX: no magic, no prefix.
    V7,
    /// `ustar\0`: prefix of 155 bytes. PAX archives are this too.
    Ustar,
    /// `ustar\0` with `tar\0` at the end: prefix of 131 bytes, then times.
    Star,
    /// `ustar  \0`: no prefix.
    Gnu,
}

/// One header block with a good checksum.
pub(super) struct Header<'a>(&'a [u8; BLOCK_BYTES]);

impl<'a> Header<'a> {
    /// Takes a block; `None` if it is all zeros, which is half of the end mark.
    pub(super) fn parse(block: &'a [u8; BLOCK_BYTES]) -> Result<Option<Self>> {
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = Self(block);
        let stored = header.number(148..156, "checksum")?;
        // The field itself counts as spaces. Old programs summed signed bytes.
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, &byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&index) {
                b' '
            } else {
                byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(i8::from_ne_bytes([byte]));
        }
        if stored != unsigned && stored != signed {
            return Err(corrupt("A tar header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn mode(&self) -> Result<i64> {
        self.number(100..108, "mode")
    }

    pub(super) fn uid(&self) -> Result<i64> {
        self.number(108..116, "uid")
    }

    pub(super) fn gid(&self) -> Result<i64> {
        self.number(116..124, "gid")
    }

    pub(super) fn size(&self) -> Result<i64> {
        self.number(124..136, "size")
    }

    pub(super) fn mtime(&self) -> Result<i64> {
        self.number(136..148, "mtime")
    }

    pub(super) fn link(&self) -> &'a [u8] {
        self.text(157..257)
    }

    /// Device major and minor number.
    pub(super) fn device(&self) -> Result<(i64, i64)> {
        if self.dialect() == Dialect::V7 {
            return Ok((0, 0));
        }
        let major = self.number(329..337, "device major")?;
        Ok((major, self.number(337..345, "device minor")?))
    }

    /// Path with its prefix.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(0..100);
        let prefix = match self.dialect() {
            Dialect::V7 => &[][..],
            Dialect::Ustar => self.text(345..500),
            Dialect::Star => self.text(345..476),
            Dialect::Gnu => self.misplaced_prefix(),
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    /// Go before 1.8, and so the Docker of that time, wrote GNU headers with a ustar prefix where
    /// GNU has its access time. Such a prefix is ASCII and no number.
    fn misplaced_prefix(&self) -> &'a [u8] {
        let is_time = |range| self.number(range, "time").is_ok();
        let prefix = self.text(345..500);
        if is_time(345..357) && is_time(357..369) || !prefix.is_ascii() {
            return &[];
        }
        prefix
    }

    pub(super) fn dialect(&self) -> Dialect {
        match (&self.0[257..263], &self.0[263..265]) {
            (b"ustar\0", _) if &self.0[508..512] == b"tar\0" => Dialect::Star,
            (b"ustar\0", _) => Dialect::Ustar,
            (b"ustar ", b" \0") => Dialect::Gnu,
            _ => Dialect::V7,
        }
    }

    /// The bytes of a field, for the sparse map.
    pub(super) fn field(&self, range: std::ops::Range<usize>) -> &'a [u8] {
        &self.0[range]
    }

    fn text(&self, range: std::ops::Range<usize>) -> &'a [u8] {
        until_nul(&self.0[range])
    }

    fn number(&self, range: std::ops::Range<usize>, what: &str) -> Result<i64> {
        number(&self.0[range])
            .ok_or_else(|| corrupt(format!("A tar header's {what} is not a number")))
    }
}

/// The bytes before the first NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A numeric field: octal text, or base 256 if its top bit is set (GNU, "Basic Tar Format").
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(&first) if first & 0x80 != 0 => base256(field, first),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte));
    let Some(start) = start else { return Some(0) };
    let digits = until_nul(&field[start..]).trim_ascii_end();
    digits.iter().try_fold(0_i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn base256(field: &[u8], first: u8) -> Option<i64> {
    // Two's complement over the whole field; bit 6 of the first byte is the sign.
    let negative = first & 0x40 != 0;
    let start = if negative { -1_i64 } else { 0 };
    let first = if negative { first | 0x80 } else { first & 0x7f };
    let fill = if negative { 0xff } else { 0 };
    let bytes = std::iter::once(first).chain(field[1..].iter().copied());
    // Sign bytes in front lose nothing; after them every step is checked.
    bytes
        .skip_while(|&byte| byte == fill)
        .try_fold(start, |value, byte| {
            value.checked_mul(256)?.checked_add(i64::from(byte))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields_may_be_padded_or_empty() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777777"), Some(0o77_777_777_777));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"-000001\0"), None);
    }

    #[test]
    fn base_256_fields_are_signed_and_checked() {
        assert_eq!(number(&[0x80, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xfe]), Some(-2));
        let mut largest = [0xff_u8; 12];
        largest[..5].copy_from_slice(&[0x80, 0, 0, 0, 0x7f]);
        assert_eq!(number(&largest), Some(i64::MAX));
        largest[4] = 0x80;
        assert_eq!(number(&largest), None);
    }
}
