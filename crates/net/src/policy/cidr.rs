//! Networks: an address and the length of its prefix.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use crate::error::{Error, ErrorKind};

/// A network of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The first address of the network.
    address: IpAddr,
    /// Bits of the prefix.
    bits: u8,
}

impl Cidr {
    /// A network; none if the address has bits past the prefix or the prefix is too long.
    #[must_use]
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        let cidr = Self { address, bits };
        (bits <= width && masked(address, bits) == number(address)).then_some(cidr)
    }

    /// The network of one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Self { address, bits }
    }

    /// Whether `address` is in it. Families never mix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && masked(address, self.bits) == number(self.address)
    }

    /// Bits of the prefix.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }
}

/// The address as a number whose highest bit is the address's first bit.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

fn masked(address: IpAddr, bits: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    number(address) & mask
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            Error::new(
                ErrorKind::InvalidRule,
                format!("`{text}` is no network: {why}"),
            )
            .hint("Write it like `192.0.2.0/24` or `2001:db8::/32`")
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| invalid("the address does not parse"))?;
        let Some(bits) = bits else {
            return Ok(Self::host(address));
        };
        let bits: u8 = bits
            .parse()
            .map_err(|_| invalid("the length of the prefix is no number"))?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        if bits > width {
            return Err(invalid("the prefix is longer than the address"));
        }
        Self::new(address, bits).ok_or_else(|| invalid("the address has bits past the prefix"))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::host(self.address) {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_first_and_last_address_and_no_neighbour() {
        let contains = |cidr: &str, address: &str| {
            let cidr: Cidr = cidr.parse().unwrap();
            cidr.contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.0.0.0"));
        assert!(contains("10.0.0.0/8", "10.255.255.255"));
        assert!(!contains("10.0.0.0/8", "9.255.255.255"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("0.0.0.0/0", "255.1.2.3"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(!contains("::/0", "1.2.3.4"));
        assert!(contains("fc00::/7", "fdff:ffff::1"));
        assert!(!contains("fc00::/7", "fe00::"));
        assert!(contains("1.2.3.4", "1.2.3.4"));
    }

    #[test]
    fn what_is_no_network_is_refused_with_the_reason() {
        for (text, why) in [
            ("10.0.0.0/33", "longer"),
            ("10.0.0.1/8", "bits past"),
            ("10.0.0.0/x", "no number"),
            ("10.0.0/8", "does not parse"),
            ("::/129", "longer"),
            ("", "does not parse"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_network_is_printed_as_it_was_read() {
        for text in ["10.0.0.0/8", "1.2.3.4", "fc00::/7", "::1", "::/0"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
    }
}
