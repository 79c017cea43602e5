//! Who the machine is: clock, entropy, host name, machine id.
//!
//! Taken on before any user process runs: of two machines forked from one template, neither must
//! repeat the other's random numbers. Source: random(4), drivers/char/random.c.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
};

use cofferdam_proto::{FailureKind, GuestNetwork, Identity};
use rustix::{
    system::sethostname,
    time::{ClockId, Timespec, clock_settime},
};

use crate::failure::{OrFail, Result, failure};

/// `_IOW('R', 0x03, int[2])` of linux/random.h.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;

/// `_IO('R', 0x07)` of linux/random.h.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Most entropy taken at once; the kernel's pool has 32 bytes.
const MAX_ENTROPY_BYTES: usize = 512;

/// `HOST_NAME_MAX` of linux/utsname.h.
const MAX_HOSTNAME_BYTES: usize = 64;

/// The names of the machine, as the files of `/etc` show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// Host name.
    pub(crate) hostname: String,
    /// 32 lower-case hex digits.
    pub(crate) machine_id: String,
    /// Servers and names of the network.
    pub(crate) network: Option<Rc<NetworkNames>>,
}

/// What the files of `/etc` say about the network.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NetworkNames {
    /// The address that the host name stands for.
    pub(crate) own_address: Option<String>,
    /// Further lines of `/etc/hosts`.
    pub(crate) hosts: String,
    /// All of `/etc/resolv.conf`; resolv.conf(5).
    pub(crate) resolvers: String,
}

impl NetworkNames {
    pub(crate) fn of(network: &GuestNetwork) -> Self {
        let own = network.addresses.first();
        let line = |(address, name): &(IpAddr, String)| format!("{address}\t{name}\n");
        let servers = network.dns_servers.iter();
        let servers = servers.map(|server| format!("nameserver {server}\n"));
        let lists = [
            ("search", &network.dns_search),
            ("options", &network.dns_options),
        ];
        let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
        let lists = lists.map(|(word, list)| format!("{word} {}\n", list.join(" ")));
        Self {
            own_address: own.map(|(address, _)| address.to_string()),
            hosts: network.hosts.iter().map(line).collect(),
            resolvers: servers.chain(lists).collect(),
        }
    }
}

impl Default for Names {
    /// What a machine is called until it is told; a template stays like this.
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            machine_id: "uninitialized".to_owned(),
            network: None,
        }
    }
}

impl Names {
    /// The names in `identity`, checked, and those of its network.
    pub(crate) fn of(identity: &Identity, network: Option<Rc<NetworkNames>>) -> Result<Self> {
        let Identity {
            hostname,
            machine_id,
            ..
        } = identity;
        let hostname_fits = (1..=MAX_HOSTNAME_BYTES).contains(&hostname.len())
            && hostname
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if !hostname_fits {
            let message = format!("`{}` is not a host name", hostname.escape_debug());
            return Err(failure(FailureKind::Identity, message));
        }
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if machine_id.len() != 32 || !machine_id.bytes().all(hex) {
            let message = format!("`{}` is not a machine id", machine_id.escape_debug());
            return Err(failure(FailureKind::Identity, message));
        }
        Ok(Self {
            hostname: hostname.clone(),
            machine_id: machine_id.clone(),
            network,
        })
    }
}

/// Sets the wall clock, to nanoseconds since the Unix epoch.
pub(crate) fn set_clock(unix_ns: u64) -> Result<()> {
    let kind = FailureKind::Identity;
    let nanos_per_second = 1_000_000_000;
    let failed = || "Could not set the clock";
    let now = Timespec {
        tv_sec: i64::try_from(unix_ns / nanos_per_second).or_fail(kind, failed)?,
        tv_nsec: i64::try_from(unix_ns % nanos_per_second).or_fail(kind, failed)?,
    };
    clock_settime(ClockId::Realtime, now).or_fail(kind, failed)
}

/// Opens what [`adopt`] needs; kept open, since a fork is in a hurry.
pub(crate) fn open_entropy() -> Result<OwnedFd> {
    let random = File::options().write(true).open("/dev/urandom");
    random
        .map(OwnedFd::from)
        .or_fail(FailureKind::Internal, || "Could not open `/dev/urandom`")
}

/// Sets the rest of the kernel's part of `identity`: random numbers, through what
/// [`open_entropy`] opened, and host name.
pub(crate) fn adopt(identity: &Identity, random: &OwnedFd) -> Result<()> {
    let kind = FailureKind::Identity;
    reseed(&identity.entropy, random)
        .or_fail(kind, || "Could not reseed the random number generator")?;
    sethostname(identity.hostname.as_bytes()).or_fail(kind, || "Could not set the host name")
}

/// `struct rand_pool_info` of linux/random.h with its buffer.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    size_bytes: i32,
    buffer: [u8; MAX_ENTROPY_BYTES],
}

fn reseed(entropy: &[u8], random: &OwnedFd) -> std::io::Result<()> {
    let entropy = entropy.get(..MAX_ENTROPY_BYTES).unwrap_or(entropy);
    let size_bytes = i32::try_from(entropy.len()).unwrap_or_default();
    let mut info = PoolInfo {
        entropy_bits: size_bytes * 8,
        size_bytes,
        buffer: [0; MAX_ENTROPY_BYTES],
    };
    for (to, from) in info.buffer.iter_mut().zip(entropy) {
        *to = *from;
    }
    // SAFETY: `RNDADDENTROPY` reads the header and then `size_bytes` bytes of `buffer`, which is
    // never shorter; `info` lives through the call; `random` is open.
    if unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: `RNDRESEEDCRNG` takes no argument; `random` is open.
    if unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG, 0) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(hostname: &str, machine_id: &str) -> Identity {
        Identity {
            unix_ns: 0,
            entropy: Vec::new(),
            machine_id: machine_id.to_owned(),
            hostname: hostname.to_owned(),
            cause: cofferdam_proto::IdentityCause::Start,
            generation: "0".repeat(32),
            fork_index: None,
            network: None,
        }
    }

    #[test]
    fn names_that_would_break_the_files_of_etc_are_refused() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            Names::of(&identity("web-1.example", id), None)
                .unwrap()
                .hostname,
            "web-1.example"
        );
        for hostname in ["", "a b", "a\n127.0.0.1 evil", &"x".repeat(65)] {
            assert!(
                Names::of(&identity(hostname, id), None).is_err(),
                "{hostname}"
            );
        }
        for id in [
            "",
            "0123",
            &id.to_uppercase(),
            "0123456789abcdef0123456789abcde\n",
        ] {
            assert!(Names::of(&identity("web", id), None).is_err(), "{id}");
        }
    }
}
