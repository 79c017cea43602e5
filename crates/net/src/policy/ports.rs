//! Sets of ports: `443`, `8000-8099`, `80,443,8000-8099`.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use crate::error::{Error, ErrorKind};

/// Ranges that one set may have.
const MAX_RANGES: usize = 64;

/// A set of ports. The empty set of ranges means every port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    /// Every port.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Whether it is every port.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `port` is in it.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.is_all() || self.0.iter().any(|range| range.contains(&port))
    }
}

impl FromStr for Ports {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::new(
                ErrorKind::InvalidRule,
                format!("`{text}` is no set of ports"),
            )
            .hint("Write `443`, `8000-8099` or a list of these with commas")
        };
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(invalid()),
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = port(first)?..=port(last)?;
            if range.is_empty() || ranges.len() == MAX_RANGES {
                return Err(invalid());
            }
            ranges.push(range);
        }
        Ok(Self(ranges))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, range) in self.0.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_contain_their_ends_only() {
        let ports: Ports = "80,8000-8099".parse().unwrap();
        for (port, inside) in [(79, false), (80, true), (81, false), (7999, false)] {
            assert_eq!(ports.contains(port), inside);
        }
        assert!(ports.contains(8000) && ports.contains(8099) && !ports.contains(8100));
        assert!(Ports::all().contains(1));
        assert_eq!(ports.to_string(), "80,8000-8099");
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", "0", "65536", "9-8", "a", "1,", "-", "1-", "-2", "1-2-3"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
        let many = vec!["1"; MAX_RANGES + 1].join(",");
        assert!(many.parse::<Ports>().is_err());
    }
}
