//! Machines by QEMU, with KVM where the host's KVM can run a kernel and with emulation elsewhere.
//!
//! The runtime makes one [`QemuBackend`] per accelerator and uses it through the backend
//! contract. A machine is one QEMU process of the `microvm` kind, started through
//! `cofferdam-jail` with its channels as inherited, connected sockets: nothing listens, connects
//! or polls.
//!
//! | file | holds |
//! |---|---|
//! | `backend` | the `impl Backend` |
//! | `probe` | which QEMU is here, and whether it can be used |
//! | `map` | a spec to the devices of a machine, and what is refused |
//! | `argv` | devices to arguments; pure |
//! | `spawn` | arguments to a process |
//! | `control`, `qmp` | the control channel |
//! | `machine`, `controlled` | the `impl Machine`, and what it shares with captures |
//! | `snapshot`, `stream` | the files' format, and capture in a pause |
//! | `capture` | capture of a machine that lives on |
//! | `diagnose` | QEMU's error sentences |
//! | `record` | what tells other processes of a machine |
//! | `logs` | what the guest and QEMU print, kept at a bounded size |
//!
//! Source: QEMU 7.2 `qemu-system-x86_64(1)`, `docs/interop/qmp-spec.txt`,
//! `docs/system/i386/microvm.rst`, `docs/devel/migration.rst`.

mod accel;
mod argv;
mod backend;
mod capture;
mod control;
mod controlled;
mod diagnose;
mod firmware;
mod kernel;
mod logs;
mod machine;
mod map;
mod probe;
mod process;
mod processor;
mod qmp;
mod record;
mod snapshot;
mod spawn;
mod stream;
#[cfg(test)]
mod testing;

pub use backend::{KvmUsable, QemuBackend};
