//! What to do about a KVM that is absent, closed or unfit: pure functions over [`HostFacts`].
//!
//! Called by [`crate::KvmProbe`]. Invariant: every command may be pasted into a shell as it is and
//! does only what its sentence says.

use crate::{
    finding::Fix,
    host::{CpuVendor, HostFacts},
};

/// The module whose KVM has no hardware virtualisation behind it and runs only kernels built for it.
const PVM: &str = "kvm_pvm";

/// What working KVM brings over emulation.
const GAIN: &str = "Sandboxes run at the processor's speed in place of emulation";

/// Fixes for a host on which `/dev/kvm` does not exist or has no driver behind it.
pub(crate) fn for_absent(facts: &HostFacts) -> Vec<Fix> {
    let module = match facts.vendor {
        CpuVendor::Intel => Some("kvm_intel"),
        CpuVendor::Amd => Some("kvm_amd"),
        CpuVendor::Other => None,
    };
    if facts.kvm_registered {
        return vec![for_missing_node(facts)];
    }
    if facts.has_extension {
        let load = module.map(|module| {
            fix(
                "Load the kernel's KVM module",
                Some(&format!("sudo modprobe {module}")),
            )
        });
        // The module refuses to load when the firmware has locked the extension off.
        return load.into_iter().chain([for_firmware(facts)]).collect();
    }
    if facts.is_wsl {
        return vec![fix(
            "Set `nestedVirtualization=true` under `[wsl2]` in `%UserProfile%\\.wslconfig` on \
             Windows, then restart WSL",
            Some("wsl.exe --shutdown"),
        )];
    }
    if facts.is_virtual {
        return vec![for_outer_host(facts)];
    }
    vec![for_firmware(facts)]
}

/// Fixes for a `/dev/kvm` that this user may not open. `group_kvm` says whether the host has a
/// group of that name.
pub(crate) fn for_no_permission(facts: &HostFacts, group_kvm: bool) -> Vec<Fix> {
    let mut fixes = Vec::new();
    let open_to_group = facts
        .node
        .as_ref()
        .filter(|node| node.mode & 0o060 == 0o060 && node.gid != 0)
        .and_then(|node| node.group.as_deref());
    if let Some(group) = open_to_group {
        fixes.push(fix(
            &format!("Join the group `{group}`, then log in again"),
            Some(&format!("sudo usermod -aG {group} $USER")),
        ));
    } else if group_kvm {
        fixes.push(fix(
            "Give the device to the group `kvm` and join it, then log in again",
            Some(
                "sudo chown root:kvm /dev/kvm && sudo chmod 660 /dev/kvm && \
                 sudo usermod -aG kvm $USER",
            ),
        ));
    }
    fixes.push(fix(
        "Open the device to yourself until the host boots again",
        Some("sudo setfacl -m u:$USER:rw /dev/kvm"),
    ));
    if facts.in_container {
        fixes.push(fix(
            "Start the container with `--device /dev/kvm --group-add keep-groups` (Podman) or \
             `--device /dev/kvm --group-add` and the number of the device's group (Docker)",
            None,
        ));
    }
    fixes
}

/// Whether the host's KVM is of a kind that cannot run a stock kernel, whoever may open it.
pub(crate) fn runs_no_stock_kernel(facts: &HostFacts) -> bool {
    facts.flavour.as_deref() == Some(PVM)
}

/// Fixes for a KVM that cannot run a kernel.
pub(crate) fn for_unfit(facts: &HostFacts) -> Vec<Fix> {
    if runs_no_stock_kernel(facts) {
        return vec![fix(
            "Use a host whose KVM has hardware virtualisation behind it: KVM-PVM runs only kernels \
             built for it",
            None,
        )];
    }
    if facts.is_virtual {
        return vec![for_outer_host(facts)];
    }
    vec![for_firmware(facts)]
}

fn for_missing_node(facts: &HostFacts) -> Fix {
    if facts.in_container {
        return fix("Start the container with `--device /dev/kvm`", None);
    }
    // 10:232 is the number of the KVM device: Linux Documentation/admin-guide/devices.txt.
    fix(
        "Make the device node, which the kernel offers and nobody made",
        Some("sudo mknod -m 660 /dev/kvm c 10 232"),
    )
}

fn for_firmware(facts: &HostFacts) -> Fix {
    let name = match facts.vendor {
        CpuVendor::Intel => "Intel VT-x",
        CpuVendor::Amd => "AMD-V (SVM)",
        CpuVendor::Other => "hardware virtualisation",
    };
    fix(
        &format!("Switch {name} on in the firmware (BIOS or UEFI) set-up of this host"),
        None,
    )
}

fn for_outer_host(facts: &HostFacts) -> Fix {
    let module = match facts.vendor {
        CpuVendor::Amd => "kvm_amd",
        CpuVendor::Intel | CpuVendor::Other => "kvm_intel",
    };
    fix(
        &format!(
            "This host is a virtual machine: switch nested virtualisation on for it where it runs, \
             in the cloud by an instance type that offers it, on a KVM host by `{module} nested=1` \
             and the CPU model `host`"
        ),
        None,
    )
}

fn fix(what: &str, command: Option<&str>) -> Fix {
    Fix {
        what: what.to_owned(),
        command: command.map(str::to_owned),
        gain: GAIN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::KvmNode;

    fn intel() -> HostFacts {
        HostFacts {
            flavour: None,
            kvm_registered: false,
            vendor: CpuVendor::Intel,
            has_extension: false,
            is_virtual: false,
            is_wsl: false,
            in_container: false,
            node: None,
        }
    }

    fn node(mode: u32, gid: u32, group: Option<&str>) -> Option<KvmNode> {
        Some(KvmNode {
            mode,
            uid: 0,
            gid,
            group: group.map(str::to_owned),
        })
    }

    fn commands(fixes: &[Fix]) -> Vec<&str> {
        fixes
            .iter()
            .filter_map(|fix| fix.command.as_deref())
            .collect()
    }

    #[test]
    fn an_extension_without_a_module_asks_for_the_vendors_module_first() {
        let mut facts = intel();
        facts.has_extension = true;
        let fixes = for_absent(&facts);
        assert_eq!(commands(&fixes), ["sudo modprobe kvm_intel"]);
        assert!(fixes[1].what.contains("VT-x"));
        facts.vendor = CpuVendor::Amd;
        assert_eq!(commands(&for_absent(&facts)), ["sudo modprobe kvm_amd"]);
    }

    #[test]
    fn a_bare_machine_without_the_extension_is_sent_to_its_firmware() {
        let fixes = for_absent(&intel());
        assert_eq!(fixes.len(), 1);
        assert!(fixes[0].what.contains("firmware"));
    }

    #[test]
    fn a_virtual_machine_is_sent_to_its_own_host() {
        let mut facts = intel();
        facts.is_virtual = true;
        assert!(for_absent(&facts)[0].what.contains("nested=1"));
    }

    #[test]
    fn wsl_is_sent_to_windows_although_it_is_virtual_too() {
        let mut facts = intel();
        facts.is_virtual = true;
        facts.is_wsl = true;
        let fixes = for_absent(&facts);
        assert!(fixes[0].what.contains(".wslconfig"));
        assert_eq!(commands(&fixes), ["wsl.exe --shutdown"]);
    }

    #[test]
    fn a_registered_device_without_a_node_is_the_containers_or_the_node_makers_affair() {
        let mut facts = intel();
        facts.kvm_registered = true;
        assert!(commands(&for_absent(&facts))[0].contains("mknod"));
        facts.in_container = true;
        assert!(for_absent(&facts)[0].what.contains("--device /dev/kvm"));
    }

    #[test]
    fn a_device_of_a_group_asks_to_join_exactly_that_group() {
        let mut facts = intel();
        facts.node = node(0o660, 78, Some("virt"));
        let fixes = for_no_permission(&facts, true);
        assert_eq!(commands(&fixes)[0], "sudo usermod -aG virt $USER");
    }

    #[test]
    fn a_device_of_root_alone_is_given_to_the_group_that_exists() {
        let mut facts = intel();
        facts.node = node(0o600, 0, Some("root"));
        assert!(commands(&for_no_permission(&facts, true))[0].contains("chown root:kvm"));
        let without_group = for_no_permission(&facts, false);
        assert_eq!(
            commands(&without_group),
            ["sudo setfacl -m u:$USER:rw /dev/kvm"]
        );
    }

    #[test]
    fn nobody_is_ever_told_to_join_the_group_root() {
        let mut facts = intel();
        facts.node = node(0o660, 0, Some("root"));
        for fix in for_no_permission(&facts, true) {
            assert!(!fix.command.unwrap_or_default().contains("-aG root"));
        }
    }

    #[test]
    fn pvm_is_explained_whatever_else_is_true_of_the_host() {
        let mut facts = intel();
        facts.flavour = Some("kvm_pvm".to_owned());
        facts.is_virtual = true;
        assert!(for_unfit(&facts)[0].what.contains("KVM-PVM"));
    }
}
