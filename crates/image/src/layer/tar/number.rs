//! Numbers in PAX records: decimal digits.
//!
//! *Source:* POSIX.1-2017 pax §pax Header Block.

use crate::{
    error::{Error, Result},
    layer::{corrupt, quoted},
};

/// Decimal digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// The value of the record `key` as a size or an offset, which off_t can hold.
pub(super) fn unsigned(key: &[u8], value: &[u8]) -> Result<u64> {
    decimal(value)
        .filter(|&value| value <= i64::MAX.unsigned_abs())
        .ok_or_else(|| bad_value(key))
}

/// The value of the record `key` as an owner, which may be negative.
pub(super) fn signed(key: &[u8], value: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(value).map_err(|_| bad_value(key))?;
    text.parse().map_err(|_| bad_value(key))
}

/// The record `key` holds no number.
pub(super) fn bad_value(key: &[u8]) -> Error {
    corrupt(format!("The PAX record {} has a bad value", quoted(key)))
}
