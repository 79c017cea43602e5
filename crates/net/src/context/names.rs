//! Which names the guest was given an address for, so that rules on names hold for addresses.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::policy::Name;

/// Pairs of address and name that are kept; the oldest leaves first.
const MAX_PAIRS: usize = 16_384;

/// Names kept for one address.
const MAX_NAMES: usize = 32;

/// An answer is kept at least this long after its time to live: programs keep addresses longer
/// than that, and connect again to what worked.
const GRACE: Duration = Duration::from_secs(60);

/// The longest time that an answer is kept, whatever its time to live says.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Addresses and the names that they were given for.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_address: HashMap<IpAddr, Vec<(Name, Instant)>>,
    /// Pairs in the order in which they came.
    order: VecDeque<(IpAddr, Name)>,
}

impl Names {
    /// Remembers that the guest was given `address` for `name`.
    pub(crate) fn pin(&mut self, name: &Name, address: IpAddr, ttl: Duration, now: Instant) {
        let until = now + ttl.min(MAX_TTL) + GRACE;
        let names = self.by_address.entry(address).or_default();
        if let Some(pair) = names.iter_mut().find(|(known, _)| known == name) {
            pair.1 = pair.1.max(until);
            return;
        }
        names.push((name.clone(), until));
        self.order.push_back((address, name.clone()));
        if names.len() > MAX_NAMES {
            let oldest = names[0].0.clone();
            self.forget(address, &oldest);
        }
        while self.order.len() > MAX_PAIRS {
            self.forget_oldest();
        }
    }

    /// The names that hold for `address` now.
    pub(crate) fn of(&self, address: IpAddr, now: Instant) -> Vec<Name> {
        let names = self.by_address.get(&address);
        let names = names.into_iter().flatten();
        names
            .filter(|(_, until)| *until > now)
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn forget_oldest(&mut self) {
        if let Some((address, name)) = self.order.pop_front() {
            self.remove(address, &name);
        }
    }

    fn forget(&mut self, address: IpAddr, name: &Name) {
        self.order
            .retain(|(known, other)| *known != address || other != name);
        self.remove(address, name);
    }

    fn remove(&mut self, address: IpAddr, name: &Name) {
        if let Some(names) = self.by_address.get_mut(&address) {
            names.retain(|(known, _)| known != name);
            if names.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_holds_for_its_time_to_live_and_the_grace() {
        let now = Instant::now();
        let address: IpAddr = "1.2.3.4".parse().unwrap();
        let mut names = Names::default();
        names.pin(&name("a.org"), address, Duration::from_secs(10), now);
        names.pin(&name("b.org"), address, Duration::ZERO, now);
        assert_eq!(names.of(address, now), [name("a.org"), name("b.org")]);
        let later = now + GRACE;
        assert_eq!(names.of(address, later), [name("a.org")]);
        let later = later + Duration::from_secs(10);
        assert!(names.of(address, later).is_empty());
        assert!(names.of("1.2.3.5".parse().unwrap(), now).is_empty());
    }

    #[test]
    fn a_flood_of_names_is_bounded() {
        let now = Instant::now();
        let mut names = Names::default();
        for number in 0..40_000u32 {
            let address = std::net::Ipv4Addr::from_bits(number / 3).into();
            names.pin(
                &name(&format!("n{number}.org")),
                address,
                Duration::ZERO,
                now,
            );
        }
        assert_eq!(names.order.len(), MAX_PAIRS);
        let kept: usize = names.by_address.values().map(Vec::len).sum();
        assert_eq!(kept, MAX_PAIRS);
        let one: IpAddr = "9.9.9.9".parse().unwrap();
        for number in 0..100 {
            names.pin(&name(&format!("m{number}.org")), one, Duration::ZERO, now);
        }
        assert_eq!(names.of(one, now).len(), MAX_NAMES);
    }
}
