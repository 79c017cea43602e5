//! What the probe guest did: its own report, read back and held against what the host saw.

use std::time::Duration;

use super::{
    guest::{self, stage},
    layout::{self, report},
};

/// What the host saw of the guest from outside.
#[derive(Debug, Default)]
pub(super) struct Witness {
    pub(super) port_question: bool,
    pub(super) mmio_question: bool,
    pub(super) mmio_answered: bool,
    /// The guest came out of the stretch that holds its ring 0 loop.
    pub(super) ring0_left: bool,
    /// Processor time in that stretch so far.
    pub(super) ring0_time: Duration,
    pub(super) exits: u32,
}

/// How the guest's run came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The guest reported that all is done.
    Done,
    /// The guest met a fault that it did not expect.
    Fault,
    /// The guest used up `run::STRETCH_BUDGET`.
    Budget,
    /// The guest reached `run::WALL_LIMIT` with processor time left.
    Starved,
    /// KVM gave up on the guest: `KVM_EXIT_INTERNAL_ERROR` with this suberror.
    InternalError(u32),
    /// The vCPU exited in a way that nothing in the guest asks for.
    Exit(String),
    /// `KVM_RUN` failed with this error number.
    Failed(i32),
}

/// What the guest did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) end: End,
    /// Last stage that the guest finished, a number of [`guest::stage`].
    pub(super) stage: u64,
    /// Finished stages that left something else behind than they must have.
    pub(super) wrong: Vec<u64>,
    /// Rounds of the ring 0 loop.
    pub(super) loops: u64,
    /// Processor time of the stretch with that loop.
    pub(super) ring0_time: Duration,
    /// Times that the vCPU asked this program for something.
    pub(super) exits: u32,
}

impl Record {
    pub(super) fn new(memory: &[u8; layout::MEMORY_BYTES], end: End, witness: &Witness) -> Self {
        let read = |slot: u64| layout::get(memory, layout::REPORT + slot);
        let finished = read(report::STAGE);
        let wrong = [
            stage::PAGING,
            stage::CPUID,
            stage::PORT,
            stage::MMIO,
            stage::RING0,
            stage::RING3,
            stage::INTERRUPT,
        ]
        .into_iter()
        .filter(|&stage| stage <= finished && !is_right(stage, &read, witness))
        .collect();
        Self {
            end,
            stage: finished,
            wrong,
            loops: read(report::RING0_LOOPS),
            ring0_time: witness.ring0_time,
            exits: witness.exits,
        }
    }

    /// Whether the guest finished `stage` with the right result.
    pub(super) fn passed(&self, stage: u64) -> bool {
        self.stage >= stage && !self.wrong.contains(&stage)
    }
}

/// Whether a finished stage left behind what a processor would have.
fn is_right(stage: u64, read: &dyn Fn(u64) -> u64, witness: &Witness) -> bool {
    match stage {
        stage::PAGING => {
            read(report::KERNEL_FAULTS) == 1 && read(report::DEMAND_VALUE) == guest::DEMAND_VALUE
        }
        // Bit 29 of CPUID 0x8000_0001 EDX: long mode (Intel SDM volume 2, CPUID).
        stage::CPUID => {
            read(report::CPUID_VENDOR) != 0 && read(report::CPUID_FEATURES) >> 29 & 1 == 1
        }
        stage::PORT => {
            witness.port_question && read(report::PORT_VALUE) == u64::from(guest::PORT_ANSWER)
        }
        stage::MMIO => {
            witness.mmio_question && read(report::MMIO_VALUE) == u64::from(guest::MMIO_ANSWER)
        }
        stage::RING0 => {
            read(report::RING0_LOOPS) == guest::RING0_LOOPS
                && read(report::RING0_SUM) == guest::ring0_sum()
        }
        stage::RING3 => {
            read(report::USER_LOOPS) == guest::USER_LOOPS
                && read(report::SYSCALLS) == 1
                && read(report::TRAPS) == 1
                && read(report::USER_FAULTS) == 1
                && read(report::FAULT_ADDRESS) == layout::KERNEL_BASE + layout::REPORT
        }
        stage::INTERRUPT => read(report::INTERRUPTS) == 1,
        _ => true,
    }
}
