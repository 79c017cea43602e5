//! What executes the code of a guest.

/// What executes guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    /// The processor, by KVM.
    Kvm,
    /// QEMU's translator.
    Tcg,
}
