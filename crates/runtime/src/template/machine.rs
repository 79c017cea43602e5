//! The machine that sandboxes and templates have in common.

use std::{collections::BTreeMap, path::PathBuf};

use cofferdam_backend::{BlockDevice, MachineSpec, MemoryBacking};
use cofferdam_proto::{ROOT_DISK_SERIAL, UPPER_DISK_SERIAL};
use cofferdam_types::{ResourceLimits, SandboxId};

use super::MachineShape;
use crate::host::guest::GuestFiles;

/// The machine that every sandbox and template has, less its own files.
pub(crate) fn machine_spec(
    id: SandboxId,
    guest: &GuestFiles,
    shape: &MachineShape,
    root: PathBuf,
    upper: PathBuf,
) -> MachineSpec {
    let disk = |id: &str, path, read_only| BlockDevice {
        id: id.to_owned(),
        path,
        read_only,
    };
    MachineSpec {
        id,
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        memory: MemoryBacking::Private,
        kernel: guest.kernel.clone(),
        initrd: Some(guest.initrd.clone()),
        cmdline: String::new(),
        block_devices: vec![
            disk(ROOT_DISK_SERIAL, root, true),
            disk(UPPER_DISK_SERIAL, upper, false),
        ],
        shares: Vec::new(),
        network: None,
        ports: Vec::new(),
        console_log: PathBuf::new(),
        vmm_log: PathBuf::new(),
        run_dir: PathBuf::new(),
        entrypoint: None,
        workdir: "/".to_owned(),
        user: None,
        limits: ResourceLimits::default(),
        confidential: None,
        labels: BTreeMap::new(),
    }
}
