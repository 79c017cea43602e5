//! What a user asks of a sandbox.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ByteSize, LeaseSpec, NetworkSpec, Platform, Privileges, Signal};

/// A sandbox as asked for, before an image's defaults are merged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxSpec {
    /// Image reference as the user wrote it.
    pub image: String,
    /// Name; a random one is made when absent.
    pub name: Option<String>,
    /// Host name in the guest; the short id when absent.
    pub hostname: Option<String>,
    /// Replaces the image's entrypoint; `Some(vec![])` clears it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command; empty keeps it unless `entrypoint` is set.
    pub command: Vec<String>,
    /// `KEY=VALUE`, later ones win; added over the image's.
    pub env: Vec<String>,
    /// Working directory; the image's when absent.
    pub workdir: Option<String>,
    /// `uid`, `uid:gid`, `user` or `user:group`; the image's when absent.
    pub user: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Processors, whole or fractional.
    pub cpus: CpuCount,
    /// Guest memory.
    pub memory: ByteSize,
    /// How writes to the root are kept.
    pub upper: UpperSpec,
    /// Extra tmpfs mounts.
    pub tmpfs: Vec<TmpfsMount>,
    /// Size of `/dev/shm`.
    pub shm_size: ByteSize,
    /// Signal that asks the workload to end; the image's, else SIGTERM, when absent.
    pub stop_signal: Option<Signal>,
    /// Seconds between the stop signal and SIGKILL.
    pub stop_timeout_s: u32,
    /// Platform of the image; the host's when absent.
    pub platform: Option<Platform>,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// A guest kernel of the user's own.
    pub kernel: Option<String>,
    /// Name of a backend; chosen by what the host can do when absent.
    pub backend: Option<String>,
    /// Keep standard input open for the workload.
    pub stdin: bool,
    /// Give the workload a terminal.
    pub tty: bool,
    /// Remove the sandbox when it stops.
    pub auto_remove: bool,
    /// A command for `/bin/sh -c` in the guest. It runs in each fork, in each restore and in each
    /// start from a template that holds the workload, after the new identity is set and before the
    /// workload's processes go on. If it fails, so does the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_fork: Option<String>,
    /// Run no program of the image ahead, in templates and standbys.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_warm: bool,
    /// Keep one standby for the next sandbox like this one, once it has started.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_standby: bool,
    /// Limits inside the guest.
    pub limits: ResourceLimits,
    /// What the workload and all execs may do beside what their user may.
    pub privileges: Privileges,
    /// Whether an init is process 1, which hands signals on and reaps zombies.
    pub init: bool,
    /// How long it may run.
    #[serde(skip_serializing_if = "LeaseSpec::is_default")]
    pub lease: LeaseSpec,
    /// Its network. What was written down without one has none.
    #[serde(
        default = "NetworkSpec::none",
        skip_serializing_if = "NetworkSpec::is_none"
    )]
    pub network: NetworkSpec,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            image: String::new(),
            name: None,
            hostname: None,
            entrypoint: None,
            command: Vec::new(),
            env: Vec::new(),
            workdir: None,
            user: None,
            labels: BTreeMap::new(),
            cpus: CpuCount::default(),
            memory: ByteSize::from_mib(512),
            upper: UpperSpec::default(),
            tmpfs: Vec::new(),
            shm_size: ByteSize::from_mib(64),
            stop_signal: None,
            stop_timeout_s: 10,
            platform: None,
            pull: PullPolicy::default(),
            kernel: None,
            backend: None,
            stdin: false,
            tty: false,
            auto_remove: false,
            on_fork: None,
            no_warm: false,
            keep_standby: false,
            limits: ResourceLimits::default(),
            privileges: Privileges::default(),
            init: false,
            lease: LeaseSpec::default(),
            network: NetworkSpec::default(),
        }
    }
}

/// How writes to the root file system are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpperSpec {
    /// On a sparse ext4 disk of this size that lives as long as the sandbox.
    Disk(ByteSize),
    /// The root is read-only.
    ReadOnly,
}

impl Default for UpperSpec {
    fn default() -> Self {
        Self::Disk(ByteSize::from_mib(10 * 1024))
    }
}

/// A tmpfs in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TmpfsMount {
    /// Absolute path in the guest.
    pub target: String,
    /// Size limit; half of the guest's memory when absent.
    pub size: Option<ByteSize>,
    /// Permission bits of its root.
    pub mode: u32,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Whether programs on it may run; Docker's default is no.
    pub exec: bool,
    /// User that owns its root; 0 when absent.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Group that owns its root; 0 when absent.
    #[serde(default)]
    pub gid: Option<u32>,
}

/// When to ask the registry for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// Always, and use what it says now.
    Always,
    /// Only when the image is not in the store.
    #[default]
    Missing,
    /// Never.
    Never,
}

impl FromStr for PullPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "always" => Ok(Self::Always),
            "missing" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            other => Err(format!("`{other}` is not `always`, `missing` or `never`")),
        }
    }
}

/// A number of processors in thousandths, such as 1500 for `1.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct CpuCount(u32);

impl CpuCount {
    /// The largest number of processors a sandbox may have (the guest kernel's `NR_CPUS`).
    pub const MAX_VCPUS: u8 = 32;

    /// A count from thousandths of a processor; at least 0.01 and at most [`Self::MAX_VCPUS`].
    #[must_use]
    pub const fn from_millis(millis: u32) -> Option<Self> {
        if millis >= 10 && millis <= Self::MAX_VCPUS as u32 * 1000 {
            Some(Self(millis))
        } else {
            None
        }
    }

    /// Whole virtual processors that hold this count.
    #[must_use]
    pub fn vcpus(self) -> u8 {
        u8::try_from(self.0.div_ceil(1000)).unwrap_or(Self::MAX_VCPUS)
    }

    /// Thousandths of a processor.
    #[must_use]
    pub const fn millis(self) -> u32 {
        self.0
    }

    /// Thousandths of a processor when the count is fractional and needs a quota.
    #[must_use]
    pub const fn quota_millis(self) -> Option<u32> {
        if self.0.is_multiple_of(1000) {
            None
        } else {
            Some(self.0)
        }
    }
}

impl Default for CpuCount {
    fn default() -> Self {
        Self(2000)
    }
}

impl TryFrom<u32> for CpuCount {
    type Error = String;

    fn try_from(millis: u32) -> Result<Self, Self::Error> {
        Self::from_millis(millis).ok_or_else(|| {
            format!(
                "{millis} thousandths are not from 0.01 to {} processors",
                Self::MAX_VCPUS
            )
        })
    }
}

impl FromStr for CpuCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
        let parsed = (digits(whole) && digits(fraction) && fraction.len() <= 3 && !text.is_empty())
            .then(|| format!("0{whole}{fraction:0<3}").parse().ok())
            .flatten();
        parsed.and_then(Self::from_millis).ok_or_else(|| {
            format!(
                "`{text}` is not a number of processors from 0.01 to {}",
                Self::MAX_VCPUS
            )
        })
    }
}

impl fmt::Display for CpuCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
        }
    }
}

/// Limits that the guest's kernel enforces on the workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceLimits {
    /// Most processes and threads; half of what the guest's kernel allows when absent, as many as
    /// it allows for 0.
    pub pids: Option<u32>,
    /// Relative processor weight, 2 to 262144, as Docker's `--cpu-shares`.
    pub cpu_shares: Option<u32>,
    /// Processor quota in thousandths of a processor.
    pub cpu_quota_millis: Option<u32>,
    /// Processors the workload may use, such as `0-1`.
    pub cpuset: Option<String>,
    /// Memory kept for the workload under pressure.
    pub memory_reservation: Option<ByteSize>,
    /// Most memory, below that of the guest.
    pub memory: Option<ByteSize>,
    /// POSIX resource limits.
    pub rlimits: Vec<Rlimit>,
}

/// One POSIX resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// Linux's number of the resource, such as 7 for `RLIMIT_NOFILE`; see getrlimit(2).
    pub resource: u8,
    /// Soft limit; `u64::MAX` is no limit.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is no limit.
    pub hard: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called `exit` with this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

impl ExitStatus {
    /// The shell's rendering: the code, or 128 + the signal's number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_counts_round_up_to_vcpus_and_keep_the_fraction() {
        for (text, vcpus, quota) in [
            ("1", 1, None),
            ("2", 2, None),
            ("1.5", 2, Some(1500)),
            ("0.25", 1, Some(250)),
        ] {
            let cpus: CpuCount = text.parse().unwrap();
            assert_eq!(
                (cpus.vcpus(), cpus.quota_millis()),
                (vcpus, quota),
                "{text}"
            );
        }
        for text in ["", "0", ".", "-1", "33", "1.2345", "two", "0.001"] {
            assert!(text.parse::<CpuCount>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_stored_number_of_processors_is_checked_too() {
        assert_eq!(
            serde_json::from_str::<CpuCount>("1500").unwrap(),
            CpuCount(1500)
        );
        for text in ["0", "9", "32001", "4294967295"] {
            assert!(serde_json::from_str::<CpuCount>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_spec_rejects_unknown_fields_and_defaults_absent_ones() {
        let spec: SandboxSpec = serde_json::from_str(r#"{"image":"x"}"#).unwrap();
        assert_eq!(
            spec,
            SandboxSpec {
                image: "x".to_owned(),
                network: NetworkSpec::none(),
                ..SandboxSpec::default()
            }
        );
        assert!(serde_json::from_str::<SandboxSpec>(r#"{"imgae":"x"}"#).is_err());
    }

    #[test]
    fn a_signalled_exit_is_128_plus_its_number() {
        assert_eq!(ExitStatus::Signal(9).code(), 137);
        assert_eq!(ExitStatus::Code(42).code(), 42);
    }
}
