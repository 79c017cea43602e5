//! Addresses of network interfaces.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The address of one network interface, such as `02:00:5e:10:00:01`. Never a group's address and
/// never all zeroes. Source: IEEE 802-2014, 8.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// The text is not six pairs of hex digits with `:` between them, or no interface can have the
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseMacError;

/// In the first byte: the address is a group's.
const GROUP: u8 = 1;
/// In the first byte: no manufacturer has given the address out.
const LOCAL: u8 = 2;

impl MacAddress {
    /// The address of these bytes; `None` if no interface can have it.
    #[must_use]
    pub const fn new(bytes: [u8; 6]) -> Option<Self> {
        let [a, b, c, d, e, f] = bytes;
        if a & GROUP != 0 || (a | b | c | d | e | f) == 0 {
            return None;
        }
        Some(Self(bytes))
    }

    /// A locally administered address of random bytes; the caller supplies the randomness.
    #[must_use]
    pub const fn from_random(mut bytes: [u8; 6]) -> Self {
        bytes[0] = bytes[0] & !GROUP | LOCAL;
        Self(bytes)
    }

    /// Its bytes as they are sent.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            // A sign would be taken for a digit.
            let digits = part.filter(|part| part.bytes().all(|b| b.is_ascii_hexdigit()));
            let digits = digits.ok_or(ParseMacError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() {
            return Err(ParseMacError);
        }
        Self::new(bytes).ok_or(ParseMacError)
    }
}

impl TryFrom<String> for MacAddress {
    type Error = ParseMacError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the address of an interface, such as `02:00:5e:10:00:01`")
    }
}

impl std::error::Error for ParseMacError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_its_text() {
        let text = "02:00:5e:10:00:ff";
        let address: MacAddress = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
        assert_eq!(address.bytes(), [2, 0, 0x5e, 0x10, 0, 0xff]);
        let json = serde_json::to_string(&address).unwrap();
        assert_eq!(serde_json::from_str::<MacAddress>(&json).unwrap(), address);
    }

    #[test]
    fn texts_and_addresses_of_no_interface_are_refused() {
        for text in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "02-00-5e-10-00-01",
            "2:0:5e:10:0:1",
            "02:00:5e:10:00:+1",
            "02:00:5e:10:00:é",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(ParseMacError), "{text}");
        }
    }

    #[test]
    fn random_bytes_make_a_local_address_of_one_interface() {
        let address = MacAddress::from_random([0xff; 6]);
        assert_eq!(address.to_string(), "fe:ff:ff:ff:ff:ff");
        assert_eq!(MacAddress::new(address.bytes()), Some(address));
    }
}
