//! What the host says about itself: KVM flavour, processor, nesting, WSL2, containers, groups.
//!
//! Called by the probe for the explanation of a verdict and for its fixes, and by `doctor`.
//! Invariant: every file is read below a [`HostView`], and a file that is missing or unreadable is
//! a fact that is not known, never an error.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The roots of the trees that hold the facts; tests put their own in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostView {
    /// `/sys`
    pub sys: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
    /// `/etc`
    pub etc: PathBuf,
}

impl Default for HostView {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
            etc: "/etc".into(),
        }
    }
}

/// The vendor of the processor, as far as its virtualisation extension goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuVendor {
    /// Intel and Zhaoxin: VT-x.
    Intel,
    /// AMD and Hygon: AMD-V.
    Amd,
    /// Any other, or not known.
    Other,
}

/// What is known of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The kernel module that provides KVM.
    pub flavour: Option<String>,
    /// The kernel has registered `/dev/kvm`, whether or not this process can see the node.
    pub kvm_registered: bool,
    /// The processor's vendor.
    pub vendor: CpuVendor,
    /// The processor offers VT-x or AMD-V to this kernel.
    pub has_extension: bool,
    /// This kernel runs on a hypervisor itself.
    pub is_virtual: bool,
    /// This kernel is that of WSL2.
    pub is_wsl: bool,
    /// This process seems to run in a container.
    pub in_container: bool,
    /// Mode, owner and group of `/dev/kvm`.
    pub node: Option<KvmNode>,
}

/// Who may open `/dev/kvm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmNode {
    /// Permission bits.
    pub mode: u32,
    /// Owner's user id.
    pub uid: u32,
    /// Owning group's id.
    pub gid: u32,
    /// That group's name by `/etc/group`.
    pub group: Option<String>,
}

impl HostView {
    /// Reads all facts.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        let cpuinfo = Cpuinfo::parse(&read(&self.proc.join("cpuinfo")));
        let release = read(&self.proc.join("sys/kernel/osrelease")).to_ascii_lowercase();
        HostFacts {
            flavour: self.flavour(),
            kvm_registered: self.sys.join("devices/virtual/misc/kvm").exists()
                || self.sys.join("class/misc/kvm").exists(),
            vendor: cpuinfo.vendor,
            has_extension: cpuinfo.has_extension,
            is_virtual: cpuinfo.is_virtual,
            is_wsl: release.contains("microsoft") || release.contains("wsl"),
            in_container: self.in_container(),
            node: self.node(),
        }
    }

    /// The path of the KVM device.
    #[must_use]
    pub fn kvm_path(&self) -> PathBuf {
        self.dev.join("kvm")
    }

    /// The name of the loaded module that provides KVM. The kernel lets only one be active.
    #[must_use]
    pub fn flavour(&self) -> Option<String> {
        ["kvm_pvm", "kvm_intel", "kvm_amd"]
            .into_iter()
            .find(|module| self.sys.join("module").join(module).exists())
            .map(str::to_owned)
    }

    /// Containers show in the control group's path, or in a root made of image layers.
    fn in_container(&self) -> bool {
        let groups = read(&self.proc.join("self/cgroup"));
        let named = ["docker", "kubepods", "containerd", "libpod", "lxc", "crio"];
        let overlay_root = read(&self.proc.join("self/mountinfo"))
            .lines()
            .any(is_overlay_root);
        overlay_root || named.iter().any(|name| groups.contains(name))
    }

    fn node(&self) -> Option<KvmNode> {
        let metadata = fs::metadata(self.kvm_path()).ok()?;
        let groups = read(&self.etc.join("group"));
        Some(KvmNode {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            group: group_name(&groups, metadata.gid()),
        })
    }

    /// Whether `/etc/group` has a group of this name.
    pub(crate) fn has_group(&self, name: &str) -> bool {
        read(&self.etc.join("group"))
            .lines()
            .any(|line| line.split(':').next() == Some(name))
    }
}

/// What `/proc/cpuinfo` says of the first processor.
#[derive(Debug, PartialEq, Eq)]
struct Cpuinfo {
    vendor: CpuVendor,
    has_extension: bool,
    is_virtual: bool,
}

impl Cpuinfo {
    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map_or("", |(_, value)| value.trim())
        };
        let has = |flag: &str| field("flags").split_whitespace().any(|word| word == flag);
        Self {
            vendor: match field("vendor_id") {
                "GenuineIntel" | "CentaurHauls" | "Shanghai" => CpuVendor::Intel,
                "AuthenticAMD" | "HygonGenuine" => CpuVendor::Amd,
                _ => CpuVendor::Other,
            },
            has_extension: has("vmx") || has("svm"),
            is_virtual: has("hypervisor"),
        }
    }
}

/// Whether a line of mountinfo mounts an overlay at `/`.
/// Source: proc_pid_mountinfo(5): fields 5 and, after ` - `, the type.
fn is_overlay_root(line: &str) -> bool {
    let Some((mount, source)) = line.split_once(" - ") else {
        return false;
    };
    mount.split(' ').nth(4) == Some("/") && source.starts_with("overlay ")
}

/// The name of group `gid` in the text of `/etc/group`.
fn group_name(groups: &str, gid: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?;
        (id.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

/// A small text file; empty when there is none.
fn read(path: &Path) -> String {
    fs::read(path).map_or_else(
        |_| String::new(),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_tells_vendor_extension_and_nesting() {
        let text = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svm hypervisor\n\n\
                    processor\t: 1\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu\n";
        let parsed = Cpuinfo::parse(text);
        assert_eq!(parsed.vendor, CpuVendor::Amd);
        assert!(parsed.has_extension && parsed.is_virtual);
        let bare = Cpuinfo::parse("vendor_id : GenuineIntel\nflags : fpu vmx_like\n");
        assert_eq!(bare.vendor, CpuVendor::Intel);
        assert!(!bare.has_extension && !bare.is_virtual);
    }

    #[test]
    fn only_an_overlay_at_the_root_looks_like_a_container() {
        assert!(is_overlay_root(
            "512 480 0:52 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/a"
        ));
        assert!(!is_overlay_root(
            "512 480 0:52 / /merged rw - overlay overlay rw"
        ));
        assert!(!is_overlay_root("28 1 254:0 / / rw - ext4 /dev/vda rw"));
        assert!(!is_overlay_root("nonsense"));
    }

    #[test]
    fn a_group_is_found_by_its_number() {
        let groups = "root:x:0:\nkvm:x:104:user\nbroken\n";
        assert_eq!(group_name(groups, 104).as_deref(), Some("kvm"));
        assert_eq!(group_name(groups, 105), None);
    }

    #[test]
    fn an_empty_tree_is_a_host_of_which_nothing_is_known() {
        let empty = tempfile::tempdir().unwrap();
        let view = HostView {
            sys: empty.path().join("sys"),
            proc: empty.path().join("proc"),
            dev: empty.path().join("dev"),
            etc: empty.path().join("etc"),
        };
        let facts = view.facts();
        assert_eq!(facts.flavour, None);
        assert_eq!(facts.vendor, CpuVendor::Other);
        assert_eq!(facts.node, None);
        assert!(!facts.kvm_registered && !facts.in_container && !facts.is_wsl);
    }
}
