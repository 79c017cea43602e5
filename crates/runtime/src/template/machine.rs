//! The machine that sandboxes and templates have in common.

use std::path::PathBuf;

use cofferdam_backend::{BlockDevice, MachineSpec, MemoryBacking, NetworkInterface};
use cofferdam_proto::{ROOT_DISK_SERIAL, UPPER_DISK_SERIAL};
use cofferdam_types::SandboxId;

use super::MachineShape;
use crate::{host::guest::GuestFiles, network::UNSET_MAC};

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
        network: shape.mtu.map(|mtu| NetworkInterface {
            mac: UNSET_MAC,
            mtu,
        }),
        console_log: PathBuf::new(),
        vmm_log: PathBuf::new(),
        run_dir: PathBuf::new(),
        file_channel: false,
        confidential: None,
    }
}
