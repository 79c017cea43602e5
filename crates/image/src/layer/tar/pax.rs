//! PAX extended headers: records that override fields of the header that follows.
//!
//! *Source:* POSIX.1-2017 pax §pax Header Block; `SCHILY.xattr.` is star's, as all tars write it;
//! `GNU.sparse.` is in the GNU tar manual, "Storing Sparse Files".

use super::{
    number::{bad_value, decimal, signed, unsigned},
    sparse::PaxSparse,
};
use crate::{error::Result, layer::corrupt, tree::Timestamp};

/// Prefix of the records that hold extended attributes.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What the extended headers before one entry said.
#[derive(Debug, Default)]
pub(super) struct PaxHeader {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Timestamp>,
    /// Full names and values in the order of the records.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

impl PaxHeader {
    /// Parses the payload of an `x` header.
    pub(super) fn parse(payload: &[u8]) -> Result<Self> {
        let mut header = Self::default();
        let mut rest = payload;
        while !rest.is_empty() {
            let (key, value, after) =
                record(rest).ok_or_else(|| corrupt("A PAX header has a malformed record"))?;
            header.set(key, value)?;
            rest = after;
        }
        Ok(header)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let names_a_path = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
        let poisoned = if names_a_path { value } else { key };
        if poisoned.contains(&0) {
            return Err(corrupt("A PAX header has a NUL where none may be"));
        }
        if self.sparse.set(key, value)? || value.is_empty() {
            // An empty value means that the record says nothing (POSIX pax).
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(unsigned(key, value)?),
            b"uid" => self.uid = Some(signed(key, value)?),
            b"gid" => self.gid = Some(signed(key, value)?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(|| bad_value(key))?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Splits `LENGTH KEY=VALUE\n` off the front; `LENGTH` counts the whole record.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
    if len > bytes.len() {
        return None;
    }
    let (record, after) = bytes.split_at(len);
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    (!key.is_empty()).then_some((key, value, after))
}

/// Decimal seconds with an optional sign and fraction; digits past nanoseconds are cut.
fn time(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, index| {
        let digit = fraction.get(index).map_or(0, |digit| digit - b'0');
        nanos * 10 + u32::from(digit)
    });
    Some(match (negative, nanos) {
        (false, _) => Timestamp { seconds, nanos },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanos,
        },
        // Nanoseconds count forward from the second before.
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanos: u32) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos })
    }

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(time(b"12"), at(12, 0));
        assert_eq!(time(b"12.5"), at(12, 500_000_000));
        assert_eq!(time(b"1.123456789999"), at(1, 123_456_789));
        assert_eq!(time(b"-1.5"), at(-2, 500_000_000));
        assert_eq!(time(b"-3"), at(-3, 0));
        for bad in [
            &b""[..],
            b"-",
            b"1.x",
            b"x",
            b"1e9",
            b"99999999999999999999",
        ] {
            assert_eq!(time(bad), None);
        }
    }

    #[test]
    fn records_carry_their_own_length() {
        let header = PaxHeader::parse(b"9 path=a\n19 SCHILY.xattr.u=b\n").err();
        assert!(header.is_some(), "the second length is wrong");
        let header = PaxHeader::parse(b"9 path=a\n20 SCHILY.xattr.u=b\n11 uid=123\n").unwrap();
        assert_eq!(header.path.as_deref(), Some(&b"a"[..]));
        assert_eq!(header.uid, Some(123));
        assert_eq!(header.xattrs, [(b"u".to_vec(), b"b".to_vec())]);
    }

    #[test]
    fn malformed_records_are_corrupt() {
        for bad in [
            &b"x"[..],
            b"9 path=a",
            b"99 path=a\n",
            b"2 \n",
            b"7 path\n",
            b"9 =path\n",
        ] {
            assert!(PaxHeader::parse(bad).is_err(), "{bad:?}");
        }
        assert!(PaxHeader::parse(b"11 path=a\0b\n").is_err());
        assert!(PaxHeader::parse(b"11 size=-10\n").is_err());
    }
}
