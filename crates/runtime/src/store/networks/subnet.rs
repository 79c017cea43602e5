//! Subnets of IPv4, and those that networks have by default.
//!
//! The defaults are below 198.19.0.0/16. RFC 2544 sets 198.18.0.0/15 aside for tests of networks,
//! so that no real network has these addresses, and the link of a sandbox uses the other half. The
//! usual private networks (RFC 1918) would hide a network of the user's that has the same addresses.
//! The IPv6 subnets have the prefix of the link (RFC 4193) and another last group.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, ErrorKind};

/// Shortest and longest prefix: 65,533 members, or two.
const BITS: std::ops::RangeInclusive<u8> = 16..=29;

/// An IPv4 subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: Ipv4Addr,
    bits: u8,
}

/// Where no network can be, and why.
pub(super) const RESERVED: [(Subnet, &str); 6] = [
    (Subnet::of([0, 0, 0, 0], 8), "which no host can have"),
    (Subnet::of([127, 0, 0, 0], 8), "the loopback"),
    (Subnet::of([169, 254, 0, 0], 16), "which is link-local"),
    (Subnet::of([198, 18, 0, 0], 16), "the links of sandboxes"),
    (Subnet::of([224, 0, 0, 0], 4), "which is multicast"),
    (Subnet::of([240, 0, 0, 0], 4), "which is reserved"),
];

impl Subnet {
    const fn of(first: [u8; 4], bits: u8) -> Self {
        let [a, b, c, d] = first;
        Self {
            first: Ipv4Addr::new(a, b, c, d),
            bits,
        }
    }

    /// Those of networks for which none is asked: 198.19.0.0/24 to 198.19.255.0/24.
    pub(super) fn defaults() -> impl Iterator<Item = Self> {
        (0..=255).map(|third| Self::of([198, 19, third, 0], 24))
    }

    /// The IPv6 subnets beside them; 0 is that of the link.
    pub(super) fn defaults_v6() -> impl Iterator<Item = Ipv6Addr> {
        (1..=u16::MAX).map(|last| Ipv6Addr::new(0xfd63, 0x6f66, 0x6665, last, 0, 0, 0, 0))
    }

    /// The first address.
    #[must_use]
    pub const fn first(&self) -> Ipv4Addr {
        self.first
    }

    /// Bits of the prefix.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0)
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let mask = self.mask() & other.mask();
        self.first.to_bits() & mask == other.first.to_bits() & mask
    }

    /// The numbers that members may have. The first address is the network's and the last one is
    /// for broadcasts. The second is left out: it is a gateway's in most networks, and users expect
    /// none of their own there.
    pub(super) fn numbers(&self) -> std::ops::Range<u32> {
        2..!self.mask()
    }

    /// The number of an address that a member may have.
    pub(super) fn number_of(&self, address: Ipv4Addr) -> Option<u32> {
        let number = address.to_bits().checked_sub(self.first.to_bits())?;
        self.numbers().contains(&number).then_some(number)
    }

    /// The address of a number.
    #[must_use]
    pub fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits().wrapping_add(number))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl FromStr for Subnet {
    type Err = Error;

    /// Reads `ADDRESS/BITS`, where the address has no bit past the prefix.
    fn from_str(text: &str) -> Result<Self, Error> {
        let error = |why: &str| {
            let what = format!("`{text}` is no subnet: {why}");
            Error::new(ErrorKind::InvalidSpec, what).hint("Write it like `10.77.0.0/24`")
        };
        let (first, bits) = text.split_once('/').ok_or_else(|| error("it has no `/`"))?;
        let first: Ipv4Addr = first
            .parse()
            .map_err(|_| error("the address is not IPv4"))?;
        let bits: u8 = bits.parse().map_err(|_| error("the prefix is no number"))?;
        if !BITS.contains(&bits) {
            return Err(error("the prefix is not between 16 and 29"));
        }
        let subnet = Self { first, bits };
        if first.to_bits() & !subnet.mask() != 0 {
            return Err(error("the address has bits past the prefix"));
        }
        Ok(subnet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_subnet_is_refused_with_the_reason() {
        for (text, why) in [
            ("10.0.0.0", "`/`"),
            ("fd00::/64", "IPv4"),
            ("10.0.0.0/x", "number"),
            ("10.0.0.0/8", "between"),
            ("10.0.0.0/30", "between"),
            ("10.0.0.1/24", "past"),
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn subnets_overlap_where_one_is_in_the_other() {
        let read = |text: &str| text.parse::<Subnet>().unwrap();
        let wide = read("10.1.0.0/16");
        assert!(wide.overlaps(&read("10.1.7.0/24")) && read("10.1.7.0/24").overlaps(&wide));
        assert!(!wide.overlaps(&read("10.2.0.0/24")));
        assert_eq!(wide.numbers(), 2..65_535);
        assert_eq!(read("10.1.7.8/29").numbers(), 2..7);
        let small = read("10.1.7.8/29");
        let number = |last| small.number_of(Ipv4Addr::new(10, 1, 7, last));
        let expected = [None, None, Some(2), Some(6), None, None];
        assert_eq!([8, 9, 10, 14, 15, 16].map(number), expected);
        assert_eq!(small.address(2), Ipv4Addr::new(10, 1, 7, 10));
    }
}
