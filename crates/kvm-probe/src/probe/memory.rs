//! The probe guest's memory: one anonymous mapping given to KVM.
//!
//! Invariant: the guest runs only inside `KVM_RUN` on the thread that owns the mapping, so no
//! borrow of it is ever alive while the guest writes.

use std::{io, ptr::NonNull};

use super::layout::MEMORY_BYTES;

/// An anonymous private mapping of [`MEMORY_BYTES`] zeroed bytes, page-aligned.
#[derive(Debug)]
pub(super) struct GuestMemory(NonNull<[u8; MEMORY_BYTES]>);

impl GuestMemory {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address that the kernel chooses touches no
        // memory that this program knows of; the arguments hold no pointers.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MEMORY_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast())
            .map(Self)
            .ok_or_else(|| io::Error::other("mmap returned the null page"))
    }

    /// Where the mapping is in this process.
    pub(super) fn host_address(&self) -> u64 {
        self.0.addr().get() as u64
    }

    pub(super) fn bytes(&self) -> &[u8; MEMORY_BYTES] {
        // SAFETY: bounds, init ← the mapping is `MEMORY_BYTES` long and zero-filled by the kernel;
        // alignment ← u8; aliasing ← writers are `bytes_mut`, which needs `&mut self`, and the
        // guest, which runs only while the owning thread is inside KVM_RUN, where no borrow from
        // here is alive; lifetime ← unmapped in `drop` only.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; MEMORY_BYTES] {
        // SAFETY: as in `bytes`, and `&mut self` excludes every other borrow.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what `new` mapped, and no borrow outlives `self`. A KVM
        // memory slot over it that is still alive faults in the guest, not in this process.
        unsafe {
            libc::munmap(self.0.as_ptr().cast(), MEMORY_BYTES);
        }
    }
}
