//! The probe's VM up to the first instruction: memory, one vCPU, the state of a PVH entry.
//!
//! Called by [`super::run`]. Every refusal of the kernel is a [`SetupFailure`] that names the step.

use std::io;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::{guest, layout, memory::GuestMemory};

/// Where KVM on Intel keeps three pages of its own; any hole below 4 GiB will do.
/// Source: Linux Documentation/virt/kvm/api.rst §4.34 (KVM_SET_TSS_ADDR).
const TSS_HOLE: usize = 0xfffb_d000;

/// CR0 of a PVH entry: protection on, paging off, extension type fixed to 1.
/// Source: Xen docs/misc/pvh.pandoc.
const CR0_PVH: u64 = 0x11;

/// A step before the first instruction that the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SetupFailure {
    /// The system call or ioctl.
    pub(super) step: &'static str,
    pub(super) errno: i32,
}

impl SetupFailure {
    pub(super) fn of_kvm(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self {
            step,
            errno: error.errno(),
        }
    }

    pub(super) fn of_io(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self {
            step,
            errno: error.raw_os_error().unwrap_or(0),
        }
    }
}

/// A VM with the guest loaded. The fields are dropped in order: the vCPU and the VM before the
/// memory that they use.
#[derive(Debug)]
pub(super) struct ProbeVm {
    pub(super) vcpu: VcpuFd,
    _vm: VmFd,
    pub(super) memory: GuestMemory,
}

impl ProbeVm {
    pub(super) fn new(kvm: &Kvm) -> Result<Self, SetupFailure> {
        let vm = kvm
            .create_vm()
            .map_err(SetupFailure::of_kvm("KVM_CREATE_VM"))?;
        let mut memory = GuestMemory::new().map_err(SetupFailure::of_io("mmap"))?;
        layout::write(memory.bytes_mut(), guest::code(), &guest::handlers());
        // Only KVM on old Intel processors has a use for it; others may refuse it.
        let _ = vm.set_tss_address(TSS_HOLE);
        give_memory(&vm, &memory)?;
        let vcpu = vm
            .create_vcpu(0)
            .map_err(SetupFailure::of_kvm("KVM_CREATE_VCPU"))?;
        prepare(kvm, &vcpu)?;
        Ok(Self {
            vcpu,
            _vm: vm,
            memory,
        })
    }
}

fn give_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), SetupFailure> {
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: layout::MEMORY_BYTES as u64,
        userspace_addr: memory.host_address(),
    };
    // SAFETY: bounds ← the region is the whole of one mapping of that length; lifetime ← both end
    // up in one `ProbeVm`, which drops the vCPU and the VM first, and no guest instruction runs
    // before that; aliasing ← the guest runs only inside `KVM_RUN`, which `run` calls with
    // no borrow of the memory alive.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(SetupFailure::of_kvm("KVM_SET_USER_MEMORY_REGION"))
}

/// Puts the vCPU into the state of a PVH entry, with the CPUID that this host supports.
fn prepare(kvm: &Kvm, vcpu: &VcpuFd) -> Result<(), SetupFailure> {
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(SetupFailure::of_kvm("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(SetupFailure::of_kvm("KVM_SET_CPUID2"))?;
    let mut sregs = vcpu
        .get_sregs()
        .map_err(SetupFailure::of_kvm("KVM_GET_SREGS"))?;
    let data = flat_segment(layout::KERNEL_DATA, 0x3);
    sregs.cs = flat_segment(layout::BOOT_CODE, 0xb);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.cr0 = CR0_PVH;
    sregs.cr4 = 0;
    sregs.efer = 0;
    vcpu.set_sregs(&sregs)
        .map_err(SetupFailure::of_kvm("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: layout::CODE,
        rflags: 2, // bit 1 is always set
        ..Default::default()
    };
    vcpu.set_regs(&regs)
        .map_err(SetupFailure::of_kvm("KVM_SET_REGS"))
}

/// A 32-bit segment over all 4 GiB; `type_` as in Intel SDM volume 3 table 3-1.
fn flat_segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}
