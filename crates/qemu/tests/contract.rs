//! The backend contract, kept by QEMU's emulation with the real kernel and agent.

mod guest;

mod contract {
    cofferdam_backend::backend_contract!(
        harness = super::guest::harness,
        run = super::guest::block_on
    );
}
