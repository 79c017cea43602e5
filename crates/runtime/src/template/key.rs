//! What must match for a template to fit.

use cofferdam_proto::ProcessSpec;
use cofferdam_types::{Digest, ResourceLimits, SandboxSpec, TmpfsMount, UpperSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::FORMAT_VERSION;
use crate::host::{guest::GuestFiles, needs::Need};

/// The parts of a machine that its guest saw before any image was known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineShape {
    pub(crate) vcpus: u8,
    pub(crate) memory_mib: u32,
    pub(crate) root_bytes: u64,
    pub(crate) upper_bytes: u64,
    /// MTU of the network interface in bytes; `None` for no interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u16>,
}

/// What an image template's root is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootShape {
    pub(crate) manifest: Digest,
}

/// A workload that a template holds, with what cannot change under it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldWorkload<'a> {
    pub(crate) process: &'a ProcessSpec,
    pub(crate) limits: &'a ResourceLimits,
    pub(crate) shm_bytes: u64,
    pub(crate) read_only: bool,
}

impl MachineShape {
    /// The shape of a sandbox's machine. A read-only root has a disk of the usual size, so that its
    /// machine can come from the template of all others; nothing can be written to it.
    pub(crate) fn of(spec: &SandboxSpec, root_bytes: u64) -> Self {
        let upper = match spec.upper {
            UpperSpec::ReadOnly => UpperSpec::default(),
            disk @ UpperSpec::Disk(_) => disk,
        };
        Self {
            vcpus: spec.cpus.vcpus(),
            memory_mib: u32::try_from(spec.memory.mib_rounded_up()).unwrap_or(u32::MAX),
            root_bytes,
            upper_bytes: match upper {
                UpperSpec::Disk(size) => size.bytes(),
                UpperSpec::ReadOnly => 0,
            },
            mtu: crate::network::mtu(&spec.network),
        }
    }
}

impl MachineShape {
    /// What a machine of this shape needs of a backend.
    pub(crate) const fn needs(&self) -> Need {
        Need::Machine {
            vcpus: self.vcpus,
            network: self.mtu.is_some(),
        }
    }
}

/// Whether something that is mounted at `target` covers the generation file.
fn hides_generation_file(target: &str) -> bool {
    std::path::Path::new(cofferdam_proto::GENERATION_FILE).starts_with(target)
}

impl RootShape {
    /// The root of a sandbox; `None` when it has a mount that cannot be made after a template's
    /// restore: over the generation file, which is mounted with the root.
    pub(crate) fn of(spec: &SandboxSpec, manifest: Digest) -> Option<Self> {
        let hides_file = |mount: &TmpfsMount| hides_generation_file(&mount.target);
        let fits = !spec.tmpfs.iter().any(hides_file);
        fits.then_some(Self { manifest })
    }
}

/// The lines that make the key of a base template.
fn base_lines(guest: &GuestFiles, backend: &str, shape: &MachineShape) -> Vec<String> {
    let mut lines = vec![
        format!("format {FORMAT_VERSION}"),
        format!("wire {}", cofferdam_proto::GENERATION),
        guest.key.clone(),
        format!("backend {backend}"),
        format!("vcpus {} memory {} MiB", shape.vcpus, shape.memory_mib),
        format!("disks {} {}", shape.root_bytes, shape.upper_bytes),
    ];
    lines.extend(shape.mtu.map(|mtu| format!("network MTU {mtu}")));
    lines
}

/// A base template's key and what it is made of.
pub(crate) fn base_key(
    guest: &GuestFiles,
    backend: &str,
    shape: &MachineShape,
) -> (String, Vec<String>) {
    key(base_lines(guest, backend, shape))
}

/// An image template's key and what it is made of.
pub(crate) fn image_key(
    guest: &GuestFiles,
    backend: &str,
    shape: &MachineShape,
    root: &RootShape,
) -> (String, Vec<String>) {
    let mut lines = base_lines(guest, backend, shape);
    lines.push(format!("image {}", root.manifest));
    key(lines)
}

/// The key of a template that holds a workload running, and what it is made of.
pub(crate) fn workload_key(
    guest: &GuestFiles,
    backend: &str,
    shape: &MachineShape,
    root: &RootShape,
    workload: HeldWorkload<'_>,
) -> (String, Vec<String>) {
    let mut lines = image_key(guest, backend, shape, root).1;
    // The host name is each sandbox's own.
    let mut process = workload.process.clone();
    process.env.retain(|entry| !entry.starts_with("HOSTNAME="));
    let rest = (workload.limits, workload.shm_bytes, workload.read_only);
    // Neither holds a map with keys that are no text, so both can be written.
    let text = serde_json::to_string(&(process, rest)).unwrap_or_default();
    let digest = Digest::from_sha256(Sha256::digest(text).into());
    lines.push(format!("workload {digest}"));
    key(lines)
}

fn key(lines: Vec<String>) -> (String, Vec<String>) {
    let hash = Digest::from_sha256(Sha256::digest(lines.join("\n")).into());
    (hash.hex(), lines)
}

#[cfg(test)]
mod tests {
    use cofferdam_types::ByteSize;

    use super::*;

    fn guest(key: &str) -> GuestFiles {
        GuestFiles {
            kernel: "/k".into(),
            initrd: "/i".into(),
            key: key.to_owned(),
        }
    }

    #[test]
    fn every_part_of_a_key_changes_it() {
        let shape = MachineShape {
            vcpus: 2,
            memory_mib: 512,
            root_bytes: 1,
            upper_bytes: 2,
            mtu: None,
        };
        let root = RootShape {
            manifest: Digest::from_sha256([1; 32]),
        };
        let all = [
            base_key(&guest("a"), "q", &shape).0,
            base_key(&guest("b"), "q", &shape).0,
            base_key(&guest("a"), "r", &shape).0,
            base_key(
                &guest("a"),
                "q",
                &MachineShape {
                    vcpus: 1,
                    ..shape.clone()
                },
            )
            .0,
            base_key(
                &guest("a"),
                "q",
                &MachineShape {
                    memory_mib: 1,
                    ..shape.clone()
                },
            )
            .0,
            base_key(
                &guest("a"),
                "q",
                &MachineShape {
                    root_bytes: 9,
                    ..shape.clone()
                },
            )
            .0,
            base_key(
                &guest("a"),
                "q",
                &MachineShape {
                    upper_bytes: 9,
                    ..shape.clone()
                },
            )
            .0,
            base_key(
                &guest("a"),
                "q",
                &MachineShape {
                    mtu: Some(1500),
                    ..shape.clone()
                },
            )
            .0,
            base_key(
                &guest("a"),
                "q",
                &MachineShape {
                    mtu: Some(9000),
                    ..shape.clone()
                },
            )
            .0,
            image_key(&guest("a"), "q", &shape, &root).0,
            image_key(
                &guest("a"),
                "q",
                &shape,
                &RootShape {
                    manifest: Digest::from_sha256([2; 32]),
                },
            )
            .0,
        ];
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn sizes_and_mounts_that_can_be_made_later_need_no_template_of_their_own() {
        let manifest = Digest::from_sha256([1; 32]);
        let tmpfs = TmpfsMount {
            target: "/t".to_owned(),
            size: Some(ByteSize::from_mib(1)),
            mode: 0o1777,
            read_only: false,
            exec: false,
            uid: None,
            gid: None,
        };
        let plain = SandboxSpec::default();
        let other = SandboxSpec {
            shm_size: ByteSize::from_mib(1),
            tmpfs: vec![tmpfs.clone()],
            ..SandboxSpec::default()
        };
        let root = RootShape::of(&plain, manifest);
        assert!(root.is_some());
        assert_eq!(RootShape::of(&other, manifest), root);
        let read_only = SandboxSpec {
            upper: UpperSpec::ReadOnly,
            tmpfs: vec![tmpfs],
            ..SandboxSpec::default()
        };
        assert_eq!(RootShape::of(&read_only, manifest), root);
        assert_eq!(MachineShape::of(&read_only, 1), MachineShape::of(&plain, 1));
        for (target, fits) in [("/run", false), ("/run/", false), ("/run/lock", true)] {
            let mut over = other.clone();
            over.tmpfs[0].target = target.to_owned();
            assert_eq!(RootShape::of(&over, manifest).is_some(), fits, "{target}");
        }
    }
}
