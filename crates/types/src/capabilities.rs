//! What a family of hosts can offer in principle: a pure table, testable on any machine.
//!
//! A capability here is no probe: `doctor` lays the live findings of the backends over it.

use serde::{Deserialize, Serialize};

/// The family of operating systems that a host belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostFamily {
    /// Linux.
    Linux,
    /// Apple macOS.
    Macos,
    /// Microsoft Windows.
    Windows,
    /// Anything else.
    Other,
}

/// What runs a machine's vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmBackend {
    /// The Linux kernel's KVM, with QEMU's emulation where KVM cannot run a kernel.
    Kvm,
    /// QEMU's emulation only.
    Emulated,
    /// Nothing.
    Unsupported,
}

/// How host and guest talk, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestChannel {
    /// A unix socket.
    UnixSocket,
    /// A named pipe.
    NamedPipe,
    /// None.
    Unsupported,
}

/// What joins guests to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BridgeBackend {
    /// A network stack in user space.
    UserSpace,
    /// None in this version.
    Unsupported,
}

/// What a host family offers this version of Cofferdam.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformCapabilities {
    /// Operating system family.
    pub os: HostFamily,
    /// Architecture by its OCI name.
    pub architecture: String,
    /// What runs machines.
    pub vm_backend: VmBackend,
    /// How host and guest talk.
    pub host_guest_channel: GuestChannel,
    /// Whether clients reach supervisors by unix sockets.
    pub unix_sockets: bool,
    /// Whether clients reach supervisors by named pipes.
    pub named_pipes: bool,
    /// What joins guests to a network.
    pub bridge_network_backend: BridgeBackend,
    /// Whether that network reaches the outside.
    pub bridge_outbound_nat: bool,
    /// Whether guest ports can be published on the host.
    pub published_ports: bool,
    /// Whether a guest can prove what it runs on.
    pub attestation: bool,
    /// Whether data can be sealed to a measured guest.
    pub sealed_storage: bool,
    /// Whether a terminal can be attached.
    pub interactive_pty: bool,
}

impl PlatformCapabilities {
    /// The table's row for `os` and an architecture by its OCI name.
    ///
    /// Networking, attestation and sealing are `false` until the features exist.
    #[must_use]
    pub fn for_host(os: HostFamily, architecture: &str) -> Self {
        let supported = os == HostFamily::Linux && architecture == "amd64";
        Self {
            os,
            architecture: architecture.to_owned(),
            vm_backend: if supported {
                VmBackend::Kvm
            } else {
                VmBackend::Unsupported
            },
            host_guest_channel: if supported {
                GuestChannel::UnixSocket
            } else {
                GuestChannel::Unsupported
            },
            unix_sockets: os != HostFamily::Windows,
            named_pipes: os == HostFamily::Windows,
            bridge_network_backend: BridgeBackend::Unsupported,
            bridge_outbound_nat: false,
            published_ports: false,
            attestation: false,
            sealed_storage: false,
            interactive_pty: supported,
        }
    }

    /// The row for the host that this program was built for.
    #[must_use]
    pub fn current() -> Self {
        let os = match std::env::consts::OS {
            "linux" => HostFamily::Linux,
            "macos" => HostFamily::Macos,
            "windows" => HostFamily::Windows,
            _ => HostFamily::Other,
        };
        Self::for_host(os, crate::Platform::host().architecture())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_linux_on_amd64_runs_machines_in_this_version() {
        for os in [
            HostFamily::Linux,
            HostFamily::Macos,
            HostFamily::Windows,
            HostFamily::Other,
        ] {
            for architecture in ["amd64", "arm64", "riscv64"] {
                let row = PlatformCapabilities::for_host(os, architecture);
                let runs = row.vm_backend != VmBackend::Unsupported;
                assert_eq!(runs, os == HostFamily::Linux && architecture == "amd64");
                assert_eq!(runs, row.interactive_pty);
                assert_ne!(row.unix_sockets, row.named_pipes);
            }
        }
    }

    #[test]
    fn nothing_that_this_version_lacks_is_claimed() {
        let row = PlatformCapabilities::for_host(HostFamily::Linux, "amd64");
        assert!(!row.attestation && !row.sealed_storage && !row.published_ports);
        assert!(!row.bridge_outbound_nat);
    }
}
