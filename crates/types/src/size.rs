//! Byte sizes as people write them: `512m`, `2g`, `10GiB`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A size in bytes. Suffixes are powers of 1024, as in Docker's `--memory`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ByteSize(u64);

/// The text is no size, or too large for 64 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseSizeError(String);

impl ByteSize {
    /// A size of `bytes` bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of `mib` MiB.
    #[must_use]
    pub const fn from_mib(mib: u32) -> Self {
        Self((mib as u64) << 20)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The size in whole MiB, rounded up.
    #[must_use]
    pub const fn mib_rounded_up(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseSizeError(text.chars().take(40).collect());
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(lower.len());
        let (number, suffix) = lower.split_at(digits);
        let shift = match suffix {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    /// One decimal and a binary unit, such as `187.3 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = 0;
        let mut rest = self.0;
        while rest >= 1024 * 1024 && unit + 1 < UNITS.len() {
            rest >>= 10;
            unit += 1;
        }
        write!(
            f,
            "{}.{} {}",
            rest >> 10,
            (rest & 1023) * 10 / 1024,
            UNITS[unit]
        )
    }
}

impl fmt::Display for ParseSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a size such as `512m` or `2g`", self.0)
    }
}

impl std::error::Error for ParseSizeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("7b", 7),
            ("1k", 1024),
            ("512m", 512 << 20),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::from_bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense_and_overflow_are_refused() {
        for text in ["", "m", "-1", "1.5g", "1x", "18446744073709551615k"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn display_uses_one_decimal() {
        assert_eq!(ByteSize::from_bytes(1023).to_string(), "1023 B");
        assert_eq!(ByteSize::from_bytes(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteSize::from_mib(512).to_string(), "512.0 MiB");
        assert_eq!(ByteSize::from_mib(3 * 1024).to_string(), "3.0 GiB");
    }
}
