//! The backend contract, kept by QEMU with the real kernel: by its emulation, or by KVM where
//! `COFFER_TEST_BACKEND` says so.

mod guest;

mod contract {
    cofferdam_backend::backend_contract!(
        harness = super::guest::harness,
        run = super::guest::block_on
    );
}
