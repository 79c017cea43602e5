//! What a stack has to know of a named network: its addresses, its sockets and its members.
//!
//! A member has a number, and its number is all of its identity on the network: its addresses are
//! those of the subnets at that number, and its socket has the number as its file's name. The
//! caller gives each number to one member at a time.

use std::{
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

/// A sandbox of a named network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub number: u32,
    /// The names by which others find it; the first is its own.
    pub names: Vec<String>,
}

/// The members of a network, running or not.
pub trait Directory: Debug + Send + Sync {
    /// The members now, with the caller's own.
    ///
    /// # Blocking
    /// It runs on the stack's thread for DNS queries, so it may read a small file at most.
    fn members(&self) -> Arc<[Member]>;
}

/// A named network as one member sees it.
#[derive(Clone, Debug)]
pub struct NamedNetwork {
    /// Its name.
    pub name: String,
    /// The first address of the IPv4 subnet and the bits of its prefix.
    pub v4: (Ipv4Addr, u8),
    /// The first address of the IPv6 subnet, whose prefix has 64 bits.
    pub v6: Ipv6Addr,
    /// The member's number.
    pub number: u32,
    /// Whether its members reach nothing else by it.
    pub internal: bool,
    /// The directory of the members' sockets. Only the user may enter it.
    pub sockets: PathBuf,
    /// The members.
    pub directory: Arc<dyn Directory>,
}

impl NamedNetwork {
    /// The IPv4 address of a number.
    #[must_use]
    pub fn v4_of(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.v4.0.to_bits().wrapping_add(number))
    }

    /// The IPv6 address of a number.
    #[must_use]
    pub fn v6_of(&self, number: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.v6.to_bits().wrapping_add(number.into()))
    }

    /// The member's address of the family of `other`.
    #[must_use]
    pub fn own_like(&self, other: IpAddr) -> IpAddr {
        self.like(other, self.number)
    }

    /// The address of a number in the family of `other`.
    #[must_use]
    pub fn like(&self, other: IpAddr, number: u32) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.v4_of(number).into(),
            IpAddr::V6(_) => self.v6_of(number).into(),
        }
    }

    /// Whether `address` is the member's own.
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own_like(address) == address
    }

    /// Whether `address` is in a subnet, also where no member can have it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.offset(address).is_some(),
            IpAddr::V6(address) => address.to_bits() >> 64 == self.v6.to_bits() >> 64,
        }
    }

    /// The number of an address; none where no member can have it.
    #[must_use]
    pub fn number_of(&self, address: IpAddr) -> Option<u32> {
        let number = match address {
            IpAddr::V4(address) => self.offset(address)?,
            IpAddr::V6(address) if self.contains(address.into()) => {
                u32::try_from(address.to_bits() - self.v6.to_bits()).ok()?
            }
            IpAddr::V6(_) => return None,
        };
        // The first is the network's, and the last is for broadcasts.
        (number > 0 && number < self.last()).then_some(number)
    }

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        let offset = address.to_bits().checked_sub(self.v4.0.to_bits())?;
        (offset <= self.last()).then_some(offset)
    }

    /// The number of the broadcast address.
    fn last(&self) -> u32 {
        u32::MAX.checked_shr(self.v4.1.into()).unwrap_or(0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Members that never change.
    #[derive(Debug)]
    pub(crate) struct Fixed(pub(crate) Arc<[Member]>);

    impl Directory for Fixed {
        fn members(&self) -> Arc<[Member]> {
            Arc::clone(&self.0)
        }
    }

    pub(crate) fn network(number: u32, sockets: PathBuf) -> NamedNetwork {
        NamedNetwork {
            name: "lan".to_owned(),
            v4: (Ipv4Addr::new(198, 19, 7, 0), 24),
            v6: "fd63:6f66:6665:7::".parse().unwrap(),
            number,
            internal: false,
            sockets,
            directory: Arc::new(Fixed(Arc::new([]))),
        }
    }

    #[test]
    fn a_number_has_one_address_of_each_family_and_back() {
        let network = network(3, PathBuf::new());
        for (address, number) in [
            ("198.19.7.0", None),
            ("198.19.7.1", Some(1)),
            ("198.19.7.254", Some(254)),
            ("198.19.7.255", None),
            ("198.19.8.1", None),
            ("fd63:6f66:6665:7::", None),
            ("fd63:6f66:6665:7::fe", Some(254)),
            ("fd63:6f66:6665:7::ff", None),
            ("fd63:6f66:6665:7:1::1", None),
            ("fd63:6f66:6665:8::1", None),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(network.number_of(address), number, "{address}");
            if let Some(number) = number {
                assert_eq!(network.like(address, number), address);
            }
        }
        assert!(network.is_own("198.19.7.3".parse().unwrap()));
        assert!(network.contains("198.19.7.255".parse().unwrap()));
        assert!(network.contains("fd63:6f66:6665:7:1::1".parse().unwrap()));
    }
}
