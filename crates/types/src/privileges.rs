//! What a process may do in its guest: groups, capabilities, new privileges.
//!
//! Source: capabilities(7), linux/capability.h, prctl(2).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Linux's capabilities by number, without `CAP_`. Source: linux/capability.h of Linux 6.12.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One Linux capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability(u8);

/// A set of Linux capabilities. Serialized as a list of names such as `CAP_CHOWN`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct CapabilitySet(u64);

/// What a process may do beside what its user may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Privileges {
    /// Supplementary groups beside those of the user, by name or number.
    pub groups: Vec<String>,
    /// Capabilities that the process and its children can ever have; all when absent.
    pub capabilities: Option<CapabilitySet>,
    /// Whether programs with set-user-id bits or file capabilities give no privileges.
    pub no_new_privileges: bool,
}

/// The text names no capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseCapabilityError(String);

impl Capability {
    /// Linux's number of it.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for Capability {
    type Err = ParseCapabilityError;

    /// Reads `CHOWN`, `cap_chown` and the like.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = (0..).zip(NAMES).find(|(_, known)| *known == name);
        number
            .map(|(number, _)| Self(number))
            .ok_or_else(|| ParseCapabilityError(text.to_owned()))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.get(usize::from(self.0)).unwrap_or(&"");
        write!(f, "CAP_{name}")
    }
}

impl CapabilitySet {
    /// Every capability that this version knows.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// No capability.
    pub const NONE: Self = Self(0);

    /// Whether `number` is in it; numbers that no capability has are not.
    #[must_use]
    pub const fn contains(self, number: u8) -> bool {
        number < 64 && self.0 & (1 << number) != 0
    }

    /// Adds a capability.
    pub const fn insert(&mut self, capability: Capability) {
        self.0 |= 1 << capability.0;
    }

    /// Takes a capability away.
    pub const fn remove(&mut self, capability: Capability) {
        self.0 &= !(1 << capability.0);
    }
}

impl From<CapabilitySet> for Vec<String> {
    fn from(set: CapabilitySet) -> Self {
        let all = (0..64).filter(|number| set.contains(*number));
        all.map(|number| Capability(number).to_string()).collect()
    }
}

impl TryFrom<Vec<String>> for CapabilitySet {
    type Error = ParseCapabilityError;

    fn try_from(names: Vec<String>) -> Result<Self, Self::Error> {
        let mut set = Self::NONE;
        for name in names {
            set.insert(name.parse()?);
        }
        Ok(set)
    }
}

impl fmt::Display for ParseCapabilityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a capability of Linux", self.0)
    }
}

impl std::error::Error for ParseCapabilityError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_linuxs_numbers_in_every_spelling() {
        for (text, number) in [
            ("CHOWN", 0),
            ("cap_net_raw", 13),
            ("Cap_Sys_Admin", 21),
            ("CAP_CHECKPOINT_RESTORE", 40),
        ] {
            let capability: Capability = text.parse().unwrap();
            assert_eq!(capability.number(), number, "{text}");
        }
        for text in ["", "ALL", "CAP_", "CAP_CAP_CHOWN", "NET RAW"] {
            assert!(text.parse::<Capability>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_set_is_stored_by_names() {
        let mut set = CapabilitySet::ALL;
        set.remove("NET_RAW".parse().unwrap());
        assert!(set.contains(40) && !set.contains(41) && !set.contains(13));
        let text = serde_json::to_string(&set).unwrap();
        assert!(text.contains("CAP_CHOWN") && !text.contains("NET_RAW"));
        assert_eq!(serde_json::from_str::<CapabilitySet>(&text).unwrap(), set);
        assert!(serde_json::from_str::<CapabilitySet>(r#"["CAP_NOPE"]"#).is_err());
    }
}
