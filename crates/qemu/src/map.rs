//! From a spec to the devices of a machine, and what is refused before anything starts.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use cofferdam_backend::{
    BlockDevice, Error, ErrorKind, MAX_MTU, MIN_MTU, MachineSpec, MemoryBacking, NetworkInterface,
    Result, unsupported,
};

use cofferdam_types::CpuCount;

use crate::{accel::Accel, kernel};

/// `microvm` without its second I/O APIC has eight virtio-mmio slots (QEMU
/// `hw/i386/microvm.c`, `VIRTIO_NUM_TRANSPORTS`); entropy, balloon and console take three. A network
/// interface takes one more.
///
/// With ACPI and `ioapic2=on` there are 24 slots. QEMU then needs no more time to its first answer
/// (31.5 and 31.6 ms), and a boot 17 ms more in another firmware. But the guest kernel has no ACPI,
/// and without it finds neither the second I/O APIC nor these devices; nor a PCI bus (`pcie=on`).
pub(crate) const MAX_DISKS: usize = 5;

/// The guest kernel's; `microvm` has 288.
pub(crate) const MAX_VCPUS: u8 = CpuCount::MAX_VCPUS;

/// A kernel of 16 MiB, its tables and the agent do not fit in less.
const MIN_MEMORY_MIB: u32 = 64;

/// Virtio 1.2 §5.2.6, `VIRTIO_BLK_T_GET_ID`.
const MAX_SERIAL_BYTES: usize = 20;

/// A machine as QEMU is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Name for people who look at the host's processes.
    pub(crate) name: String,
    pub(crate) accel: Accel,
    pub(crate) vcpus: u8,
    pub(crate) memory_mib: u32,
    pub(crate) memory: Memory,
    pub(crate) disks: Vec<BlockDevice>,
    pub(crate) network: Option<NetworkInterface>,
    pub(crate) file_channel: bool,
    pub(crate) begin: Begin,
}

/// Where guest memory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// No file.
    Anonymous,
    /// This file is the memory.
    Shared(PathBuf),
    /// What the guest has not written is read from this file, which others use too.
    CopyOnWrite(PathBuf),
}

/// How a machine begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// By its kernel.
    Boot {
        kernel: PathBuf,
        initrd: Option<PathBuf>,
        cmdline: String,
        /// Rate of the guest's time-stamp counter, where the guest must be told.
        tsc_khz: Option<u32>,
    },
    /// By devices and memory as they were captured.
    Restore,
}

/// The plan for a first start.
///
/// # Blocking
/// 20 ms under emulation, to measure the host's counter.
pub(crate) fn boot(accel: Accel, spec: &MachineSpec) -> Result<Plan> {
    kernel::check(&spec.kernel)?;
    if let Some(initrd) = &spec.initrd {
        open(initrd, "initial file system", false)?;
    }
    let memory = match &spec.memory {
        MemoryBacking::Private => Memory::Anonymous,
        MemoryBacking::SharedFile(path) => {
            make_memory_file(path, memory_bytes(spec))?;
            Memory::Shared(path.clone())
        }
    };
    let begin = Begin::Boot {
        kernel: spec.kernel.clone(),
        initrd: spec.initrd.clone(),
        cmdline: spec.cmdline.clone(),
        tsc_khz: match accel {
            // KVM's guests have a clock of its own.
            Accel::Kvm => None,
            // An emulated counter is the host's.
            Accel::Tcg => cofferdam_kvm_probe::host_tsc_khz(),
        },
    };
    plan(accel, spec, memory, begin)
}

/// The plan for a start from the memory file `captured`.
pub(crate) fn restore(accel: Accel, spec: &MachineSpec, captured: &Path) -> Result<Plan> {
    let memory = match &spec.memory {
        MemoryBacking::Private => Memory::CopyOnWrite(captured.to_owned()),
        MemoryBacking::SharedFile(path) => Memory::Shared(path.clone()),
    };
    if let Memory::Shared(path) | Memory::CopyOnWrite(path) = &memory {
        check_memory_file(path, memory_bytes(spec))?;
    }
    plan(accel, spec, memory, Begin::Restore)
}

/// Refuses what cannot be done at all, without looking at any file.
pub(crate) fn check(spec: &MachineSpec) -> Result<()> {
    refuse_unsupported(spec)?;
    if spec.vcpus == 0 || spec.vcpus > MAX_VCPUS {
        return Err(invalid(format!(
            "`{}` processors are not between 1 and {MAX_VCPUS}",
            spec.vcpus
        )));
    }
    if spec.memory_mib < MIN_MEMORY_MIB {
        return Err(invalid(format!(
            "`{}` MiB of memory are less than the {MIN_MEMORY_MIB} MiB that a guest needs",
            spec.memory_mib
        )));
    }
    check_host_memory(spec.memory_mib)?;
    check_network(spec)?;
    check_disks(spec)
}

fn check_network(spec: &MachineSpec) -> Result<()> {
    match &spec.network {
        Some(network) if !network.has_valid_mtu() => Err(invalid(format!(
            "The MTU `{}` is not between {MIN_MTU} and {MAX_MTU} bytes",
            network.mtu
        ))),
        _ => Ok(()),
    }
}

fn check_disks(spec: &MachineSpec) -> Result<()> {
    let most = MAX_DISKS - usize::from(spec.network.is_some());
    if spec.block_devices.len() > most {
        return Err(invalid(format!(
            "`{}` disks are more than the {most} that such a machine has slots for",
            spec.block_devices.len()
        )));
    }
    for (index, disk) in spec.block_devices.iter().enumerate() {
        let before = &spec.block_devices[..index];
        if disk.id.is_empty() || disk.id.len() > MAX_SERIAL_BYTES {
            return Err(invalid(format!(
                "The disk id `{}` is not of 1 to {MAX_SERIAL_BYTES} bytes",
                disk.id
            )));
        }
        if before.iter().any(|other| other.id == disk.id) {
            return Err(invalid(format!("Two disks have the id `{}`", disk.id)));
        }
    }
    Ok(())
}

fn refuse_unsupported(spec: &MachineSpec) -> Result<()> {
    if spec.confidential.is_some() {
        return Err(unsupported(
            "Confidential computing",
            "disks, a network interface, the agent channel, a console, entropy and a balloon",
            "Leave it out, or use another backend",
        ));
    }
    Ok(())
}

fn plan(accel: Accel, spec: &MachineSpec, memory: Memory, begin: Begin) -> Result<Plan> {
    for disk in &spec.block_devices {
        open(&disk.path, "disk", !disk.read_only)?;
    }
    Ok(Plan {
        name: format!("coffer-{}", spec.id.short()),
        accel,
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        memory,
        disks: spec.block_devices.clone(),
        network: spec.network.clone(),
        file_channel: spec.file_channel,
        begin,
    })
}

fn memory_bytes(spec: &MachineSpec) -> u64 {
    u64::from(spec.memory_mib) << 20
}

/// Memory is given out as it is touched, so a host may hold more guests than memory; but one
/// guest that is larger than the host is a mistake.
fn check_host_memory(memory_mib: u32) -> Result<()> {
    let pages = rustix::system::sysinfo();
    let host_mib = (pages.totalram * u64::from(pages.mem_unit)) >> 20;
    if u64::from(memory_mib) <= host_mib {
        return Ok(());
    }
    Err(invalid(format!(
        "`{memory_mib}` MiB of memory are more than the host's {host_mib} MiB"
    ))
    .hint("Ask for less with `--memory`"))
}

/// Makes the file that is to be guest memory, with room for all of it: a guest that writes to
/// memory which the file system cannot hold is killed by a bus error.
fn make_memory_file(path: &Path, bytes: u64) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |what: &str| {
        let what = format!("The memory file `{}` {what}", path.display());
        Error::new(ErrorKind::Io, what)
    };
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed("cannot be made").because(error))?;
    let result = file
        .set_len(bytes)
        .map_err(|error| failed("cannot be sized").because(error));
    let result = result.and_then(|()| {
        let room = rustix::fs::fstatvfs(&file)
            .map_err(|error| failed("is on an unknown file system").because(error))?;
        if room.f_bavail.saturating_mul(room.f_frsize) < bytes {
            return Err(failed("does not fit on its file system").hint("Free some space"));
        }
        Ok(())
    });
    if result.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(path);
    }
    result
}

fn check_memory_file(path: &Path, bytes: u64) -> Result<()> {
    let bad = |what: String| Error::new(ErrorKind::BadSnapshot, what);
    let meta = fs::metadata(path).map_err(|error| {
        bad(format!(
            "The memory file `{}` cannot be opened",
            path.display()
        ))
        .because(error)
    })?;
    // QEMU would lengthen a short file, and the guest would find zeroes where its memory was.
    if meta.len() != bytes {
        return Err(bad(format!(
            "The memory file `{}` has {} bytes, not the machine's {bytes}",
            path.display(),
            meta.len()
        )));
    }
    Ok(())
}

/// Opens a file only to see that it can be; QEMU's own message would name no reason in time.
fn open(path: &Path, what: &str, write: bool) -> Result<()> {
    let opened = File::options().read(true).write(write).open(path);
    let usable = opened.and_then(|file| file.metadata()).and_then(|meta| {
        if meta.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        Ok(())
    });
    usable.map_err(|error| {
        invalid(format!("The {what} `{}` cannot be opened", path.display())).because(error)
    })
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::InvalidSpec, what)
}

#[cfg(test)]
mod tests {
    use cofferdam_backend::ConfidentialConfig;

    use super::*;
    use crate::testing;

    fn refusal(change: impl FnOnce(&mut MachineSpec)) -> Error {
        let mut spec = testing::spec(Path::new("/r"));
        change(&mut spec);
        check(&spec).unwrap_err()
    }

    #[test]
    fn a_plain_spec_is_accepted() {
        check(&testing::spec(Path::new("/r"))).unwrap();
    }

    #[test]
    fn what_the_backend_lacks_is_unsupported() {
        let confidential = ConfidentialConfig {
            kind: "snp".into(),
            config: "/c".into(),
        };
        let error = refusal(|spec| spec.confidential = Some(confidential));
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.hint_text().is_some());
    }

    #[test]
    fn sizes_out_of_range_are_invalid() {
        for error in [
            refusal(|spec| spec.vcpus = 0),
            refusal(|spec| spec.vcpus = MAX_VCPUS + 1),
            refusal(|spec| spec.memory_mib = 1),
            refusal(|spec| spec.memory_mib = u32::MAX),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error:?}");
        }
    }

    #[test]
    fn disk_ids_are_unique_and_fit_the_serial_number() {
        let disk = |id: &str| BlockDevice {
            id: id.to_owned(),
            path: "/d".into(),
            read_only: true,
        };
        for ids in [
            vec!["a", "a"],
            vec![""],
            vec!["123456789012345678901"],
            vec!["x"; 6],
        ] {
            let error =
                refusal(|spec| spec.block_devices = ids.iter().map(|id| disk(id)).collect());
            assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{ids:?}");
        }
    }

    #[test]
    fn a_network_interface_takes_the_slot_of_a_disk() {
        let mut spec = testing::spec(Path::new("/r"));
        spec.block_devices = (0..MAX_DISKS)
            .map(|number| BlockDevice {
                id: format!("disk{number}"),
                path: "/d".into(),
                read_only: true,
            })
            .collect();
        check(&spec).unwrap();
        spec.network = Some(testing::network());
        assert_eq!(check(&spec).unwrap_err().kind(), ErrorKind::InvalidSpec);
        spec.block_devices.pop();
        check(&spec).unwrap();
    }

    #[test]
    fn an_mtu_of_no_interface_is_invalid() {
        let network = NetworkInterface {
            mtu: 100,
            ..testing::network()
        };
        let error = refusal(|spec| spec.network = Some(network));
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    }

    #[test]
    fn a_missing_disk_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = testing::spec(dir.path());
        spec.kernel = testing::kernel(dir.path());
        spec.block_devices.push(BlockDevice {
            id: "root".into(),
            path: "/nonexistent/disk".into(),
            read_only: true,
        });
        let error = boot(Accel::Tcg, &spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert!(error.to_string().contains("/nonexistent/disk"));
    }

    #[test]
    fn a_memory_file_of_another_size_is_a_bad_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let memory = dir.path().join("memory");
        fs::write(&memory, b"short").unwrap();
        let error = restore(Accel::Tcg, &testing::spec(dir.path()), &memory).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadSnapshot);
        assert_eq!(fs::read(&memory).unwrap(), b"short");
    }
}
