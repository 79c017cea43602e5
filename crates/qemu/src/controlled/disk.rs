//! The disks that a guest may write to.

use std::{fs::File, sync::Arc};

use cofferdam_backend::{Error, ErrorKind, MachineSpec, Result};

use crate::argv;

/// A writable disk of a machine.
#[derive(Clone, Debug)]
pub(crate) struct WritableDisk {
    /// Name of its node in QEMU.
    pub(crate) node: String,
    /// Name of its device in QEMU.
    pub(crate) device: String,
    /// Its file, whatever becomes of the path.
    pub(crate) file: Arc<File>,
}

impl WritableDisk {
    /// The disks that a guest may write to, by the names of their nodes.
    pub(crate) fn all(spec: &MachineSpec) -> Result<Vec<Self>> {
        let writable = spec.block_devices.iter().enumerate();
        let writable = writable.filter(|(_, disk)| !disk.read_only);
        let opened = writable.map(|(index, disk)| {
            let file = File::open(&disk.path).map_err(|error| {
                let what = format!("The disk `{}` cannot be opened", disk.path.display());
                Error::new(ErrorKind::InvalidSpec, what).because(error)
            })?;
            Ok(Self {
                node: argv::disk_node(index),
                device: argv::disk_device(index),
                file: Arc::new(file),
            })
        });
        opened.collect()
    }
}
