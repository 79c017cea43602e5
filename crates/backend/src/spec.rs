//! A machine as asked for, in terms that no backend owns.
//!
//! Every policy is here with its safe value as the default, so that no conversion can drop one.
//! Unknown fields are errors; absent optional ones take their defaults.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use cofferdam_types::{ResourceLimits, SandboxId};
use serde::{Deserialize, Serialize};

/// A machine as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// The sandbox it belongs to.
    pub id: SandboxId,
    /// Virtual processors, at least 1.
    #[serde(default = "default_vcpus")]
    pub vcpus: u8,
    /// Guest memory in MiB.
    #[serde(default = "default_memory_mib")]
    pub memory_mib: u32,
    /// Where guest memory lives on the host.
    #[serde(default)]
    pub memory: MemoryBacking,
    /// Uncompressed kernel (`vmlinux`, ELF with a PVH note) or `bzImage`.
    pub kernel: PathBuf,
    /// Initial file system, a cpio archive.
    pub initrd: Option<PathBuf>,
    /// Words added to the kernel's command line.
    #[serde(default)]
    pub cmdline: String,
    /// Disks, in order.
    #[serde(default)]
    pub block_devices: Vec<BlockDevice>,
    /// Host directories for the guest.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// The guest's network; none is no interface at all.
    #[serde(default)]
    pub network: Option<NetworkSpec>,
    /// Guest ports reachable on the host.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// File for the guest's console, kept at a bounded size.
    pub console_log: PathBuf,
    /// File for what the VMM prints, kept at a bounded size.
    pub vmm_log: PathBuf,
    /// Directory for the machine's sockets and its record; private to the user.
    pub run_dir: PathBuf,
    /// What the agent runs.
    #[serde(default)]
    pub entrypoint: Option<AgentEntrypoint>,
    /// Working directory of the entrypoint.
    #[serde(default = "default_workdir")]
    pub workdir: String,
    /// `uid`, `uid:gid`, `user` or `user:group`; root when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// Limits inside the guest.
    #[serde(default)]
    pub limits: ResourceLimits,
    /// Confidential computing.
    #[serde(default)]
    pub confidential: Option<ConfidentialConfig>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Where guest memory lives on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MemoryBacking {
    /// Anonymous memory; for a restore, the snapshot's file mapped privately, copy on write.
    #[default]
    Private,
    /// This file, mapped shared: what the guest writes is in the file. It is the memory of a
    /// later snapshot, which then copies nothing. For a restore it must be a copy of the
    /// snapshot's memory file.
    SharedFile(PathBuf),
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockDevice {
    /// Serial number that the guest sees; at most 20 bytes (virtio 1.2 §5.2.6).
    pub id: String,
    /// A raw file. Its format is never probed.
    pub path: PathBuf,
    /// Whether the guest may not write.
    pub read_only: bool,
}

/// A host directory for the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Tag that the guest mounts.
    pub tag: String,
    /// Directory on the host.
    pub path: PathBuf,
    /// Whether the guest may not write; enforced on the host.
    #[serde(default = "yes")]
    pub read_only: bool,
}

/// The guest's network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// MAC address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Guest addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Gateways.
    pub gateways: Vec<IpAddr>,
    /// DNS servers.
    #[serde(default)]
    pub dns_servers: Vec<IpAddr>,
}

/// A guest port reachable on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// Address on the host.
    pub host_address: IpAddr,
    /// Port on the host.
    pub host_port: u16,
    /// Port in the guest.
    pub guest_port: u16,
    /// Whether it is UDP; else TCP.
    #[serde(default)]
    pub udp: bool,
}

/// What the agent runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentEntrypoint {
    /// Program.
    pub executable: String,
    /// Arguments without the program's name.
    #[serde(default)]
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
}

/// Confidential computing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfidentialConfig {
    /// Technology, such as `snp`.
    pub kind: String,
    /// Its configuration file.
    pub config: PathBuf,
}

const fn default_vcpus() -> u8 {
    2
}

const fn default_memory_mib() -> u32 {
    512
}

fn default_workdir() -> String {
    "/".to_owned()
}

const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str =
        r#"{"id":"ID","kernel":"/k","console_log":"/c","vmm_log":"/v","run_dir":"/r"}"#;

    fn minimal() -> String {
        MINIMAL.replace("ID", &"0".repeat(64))
    }

    #[test]
    fn absent_optional_fields_take_the_safe_defaults() {
        let spec: MachineSpec = serde_json::from_str(&minimal()).unwrap();
        assert_eq!((spec.vcpus, spec.memory_mib), (2, 512));
        assert!(spec.network.is_none() && spec.ports.is_empty() && spec.shares.is_empty());
        assert_eq!(spec.workdir, "/");
        let again = serde_json::from_str(&serde_json::to_string(&spec).unwrap());
        assert_eq!(spec, again.unwrap());
    }

    #[test]
    fn unknown_fields_are_errors() {
        let text = minimal().replace("{\"id\"", "{\"memroy_mib\":1,\"id\"");
        assert!(serde_json::from_str::<MachineSpec>(&text).is_err());
    }

    #[test]
    fn a_share_is_read_only_unless_it_says_otherwise() {
        let share: Share = serde_json::from_str(r#"{"tag":"t","path":"/p"}"#).unwrap();
        assert!(share.read_only);
    }
}
