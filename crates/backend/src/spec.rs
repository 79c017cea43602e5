//! A machine as asked for, in terms that no backend owns.
//!
//! A backend honours every field or refuses it. Unknown fields are errors; absent optional ones take
//! their defaults. What the guest learns from its agent, such as addresses, is no part of a machine.

use std::path::PathBuf;

use cofferdam_types::{MacAddress, SandboxId};
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
    /// The guest's network interface; `None` for no interface at all.
    #[serde(default)]
    pub network: Option<NetworkInterface>,
    /// Whether the guest has a second port beside the agent's, for the content of files.
    #[serde(default)]
    pub file_channel: bool,
    /// File for the guest's console, kept at a bounded size.
    pub console_log: PathBuf,
    /// File for what the VMM prints, kept at a bounded size.
    pub vmm_log: PathBuf,
    /// Directory for the machine's sockets and its record; private to the user.
    pub run_dir: PathBuf,
    /// Confidential computing.
    #[serde(default)]
    pub confidential: Option<ConfidentialConfig>,
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

/// The guest's network interface. The host's end is [`crate::Machine::network_channel`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Its address when the machine boots. A restored guest has the captured address until its agent
    /// sets another, whatever this is.
    pub mac: MacAddress,
    /// Largest IP packet that the guest is offered, in bytes: [`MIN_MTU`] to [`MAX_MTU`]. A restored
    /// machine must have the MTU of the captured one.
    pub mtu: u16,
}

impl NetworkInterface {
    /// Whether the MTU is one that an interface can have.
    #[must_use]
    pub const fn has_valid_mtu(&self) -> bool {
        MIN_MTU <= self.mtu && self.mtu <= MAX_MTU
    }
}

/// Least MTU in bytes: the least of IPv6. Source: RFC 8200, section 5.
pub const MIN_MTU: u16 = 1280;

/// Largest MTU in bytes: what the guest's driver has room for with an Ethernet header before it.
/// Source: Linux `drivers/net/virtio_net.c`, `MAX_MTU`; QEMU's `host_mtu` takes up to 65535.
pub const MAX_MTU: u16 = 65520;

/// Bytes of an Ethernet header ahead of an IP packet.
pub const ETHERNET_HEADER_BYTES: usize = 14;

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
        assert!(spec.network.is_none() && spec.confidential.is_none());
        let again = serde_json::from_str(&serde_json::to_string(&spec).unwrap());
        assert_eq!(spec, again.unwrap());
    }

    #[test]
    fn unknown_fields_are_errors() {
        let text = minimal().replace("{\"id\"", "{\"memroy_mib\":1,\"id\"");
        assert!(serde_json::from_str::<MachineSpec>(&text).is_err());
    }

    #[test]
    fn an_mtu_is_within_what_interfaces_have() {
        for (mtu, valid) in [
            (0, false),
            (1279, false),
            (1280, true),
            (65520, true),
            (65535, false),
        ] {
            let text = format!(r#"{{"mac":"02:00:00:00:00:01","mtu":{mtu}}}"#);
            let network: NetworkInterface = serde_json::from_str(&text).unwrap();
            assert_eq!(network.has_valid_mtu(), valid, "{mtu}");
        }
    }
}
