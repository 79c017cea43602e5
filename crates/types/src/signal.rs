//! Linux signals by name and number.
//!
//! Source: signal(7), the x86/ARM column; real-time signals are `SIGRTMIN+n` with SIGRTMIN 34 as
//! the C libraries present it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A signal number from 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Signal(u8);

/// The text names no signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseSignalError(String);

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const RTMIN: u8 = 34;
const MAX: u8 = 64;

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self(1);
    /// SIGINT.
    pub const INT: Self = Self(2);
    /// SIGQUIT.
    pub const QUIT: Self = Self(3);
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);

    /// The number, 1 to 64.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Signal {
    type Error = ParseSignalError;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        if (1..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(ParseSignalError(number.to_string()))
        }
    }
}

impl From<Signal> for u8 {
    fn from(signal: Signal) -> Self {
        signal.0
    }
}

impl FromStr for Signal {
    type Err = ParseSignalError;

    /// Accepts `TERM`, `sigterm`, `15`, `RTMIN+3` and `RTMAX-1`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseSignalError(text.chars().take(40).collect());
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Ok(number) = name.parse::<u8>() {
            return Self::try_from(number).map_err(|_| error());
        }
        if let Some((_, number)) = (1_u8..)
            .zip(NAMES)
            .map(|(n, s)| (s, n))
            .find(|(s, _)| *s == name)
        {
            return Ok(Self(number));
        }
        let real_time = match name {
            "POLL" => return Ok(Self(29)),
            "IOT" => return Ok(Self(6)),
            "RTMIN" => Some(RTMIN),
            "RTMAX" => Some(MAX),
            _ => {
                let offset = |rest: &str| rest.parse::<u8>().ok();
                if let Some(rest) = name.strip_prefix("RTMIN+") {
                    offset(rest).and_then(|n| RTMIN.checked_add(n))
                } else if let Some(rest) = name.strip_prefix("RTMAX-") {
                    offset(rest)
                        .and_then(|n| MAX.checked_sub(n))
                        .filter(|n| *n >= RTMIN)
                } else {
                    None
                }
            }
        };
        real_time
            .and_then(|n| Self::try_from(n).ok())
            .ok_or_else(error)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0) - 1) {
            Some(name) => write!(f, "SIG{name}"),
            None if self.0 >= RTMIN => write!(f, "SIGRTMIN+{}", self.0 - RTMIN),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for ParseSignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a signal such as `TERM`, `SIGKILL` or `9`",
            self.0
        )
    }
}

impl std::error::Error for ParseSignalError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_survives_display_and_parse() {
        for number in 1..=64 {
            let signal = Signal::try_from(number).unwrap();
            assert_eq!(signal.to_string().parse(), Ok(signal), "{signal}");
        }
    }

    #[test]
    fn well_known_numbers_are_right() {
        for (text, number) in [
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("WINCH", 28),
            ("2", 2),
            ("RTMIN+1", 35),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number);
        }
    }

    #[test]
    fn unknown_names_are_refused_not_mapped_to_term() {
        for text in ["", "0", "65", "NOPE", "SIG", "RTMIN+99", "RTMAX-40", "-9"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
