//! Runs the probe guest once, as its devices, and stops it when its time is up.
//!
//! Called by [`super`] on a thread of its own. Invariant: the guest cannot hold that thread longer
//! than [`WALL_LIMIT`], nor compute longer than [`STRETCH_BUDGET`] without an exit, unless the
//! kernel does not leave `KVM_RUN` at a signal; against that the caller has its own limit.
//!
//! Why a budget of processor time tells a KVM that runs kernels from one that does not: the guest's
//! ring 0 loop is 0.9 million instructions. A processor that executes them takes 0.3 ms; KVM on an
//! emulated AMD processor (the lab) 2 to 12 ms, with nested or shadow paging. A KVM flavour without
//! hardware behind it (KVM-PVM, seen on Linux 6.18) takes every ring 0 instruction of a guest that
//! is not made for it through the kernel's instruction emulator at about 0.8 µs each: 0.75 s, of
//! which 4 % in the budget of 30 ms. A guest that has done a quarter by then gets four times the
//! budget. That line is 400 times slower than a processor, 10 times slower than a busy lab and 6
//! times faster than the emulator, so neither a slow machine nor a faster emulator turns the
//! verdict. It is processor time, as a busy host must not look like a bad one.

use std::{
    io,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use kvm_bindings::KVM_EXIT_INTERNAL_ERROR;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

use super::{
    alarm::{self, Alarm},
    guest, layout,
    record::{End, Record, Witness},
    setup::{ProbeVm, SetupFailure},
};

/// Processor time that the guest has from one exit to the next.
pub(super) const STRETCH_BUDGET: Duration = Duration::from_millis(30);

/// How many times [`STRETCH_BUDGET`] the ring 0 loop gets if it has done the same part of its
/// rounds within the first: then it is slow, but a processor runs it.
const SLOW_FACTOR: u32 = 4;

/// Wall time after which the guest is stopped whatever processor time a busy host gave it.
pub(super) const WALL_LIMIT: Duration = Duration::from_secs(1);

/// How often the budget is looked at.
const ALARM_PERIOD: Duration = Duration::from_millis(5);

/// `_IOW(KVMIO, 0x86, struct kvm_interrupt)`; kvm-ioctls has no call for it.
const KVM_INTERRUPT: libc::c_ulong = 0x4004_ae86;

/// What one call of `KVM_RUN` came to.
enum Step {
    /// A device of the guest did its part.
    Served,
    /// A signal came.
    Interrupted,
    Ended(End),
}

/// Makes a VM, runs the guest in it and takes it down again.
pub(super) fn run(kvm: &Kvm) -> Result<Record, SetupFailure> {
    let mut vm = ProbeVm::new(kvm)?;
    let alarm = Alarm::start(ALARM_PERIOD).map_err(SetupFailure::of_io("timer_create"))?;
    alarm
        .interrupts(&vm.vcpu)
        .map_err(SetupFailure::of_io("KVM_SET_SIGNAL_MASK"))?;
    let mut witness = Witness::default();
    let end = drive(&mut vm, &alarm, &mut witness);
    Ok(Record::new(vm.memory.bytes(), end, &witness))
}

fn drive(vm: &mut ProbeVm, alarm: &Alarm, witness: &mut Witness) -> End {
    let started = Instant::now();
    let mut stretch_start = alarm::thread_time();
    loop {
        let in_ring0_loop = witness.mmio_answered && !witness.ring0_left;
        let step = run_once(&mut vm.vcpu, witness);
        let used = alarm::thread_time().saturating_sub(stretch_start);
        if in_ring0_loop {
            witness.ring0_time = used;
        }
        match step {
            Step::Ended(end) => return end,
            Step::Interrupted => {
                let is_slow_only = in_ring0_loop && keeps_pace(vm.memory.bytes());
                let factor = if is_slow_only { SLOW_FACTOR } else { 1 };
                if used >= STRETCH_BUDGET * factor {
                    return End::Budget;
                }
            }
            Step::Served => {
                witness.exits += 1;
                witness.ring0_left |= in_ring0_loop;
                stretch_start = alarm::thread_time();
            }
        }
        if started.elapsed() >= WALL_LIMIT {
            return End::Starved;
        }
        alarm.acknowledge();
    }
}

/// Whether the guest has done one [`SLOW_FACTOR`]th of its ring 0 loop.
fn keeps_pace(memory: &[u8; layout::MEMORY_BYTES]) -> bool {
    let loops = layout::get(memory, layout::REPORT + layout::report::RING0_LOOPS);
    loops * u64::from(SLOW_FACTOR) >= guest::RING0_LOOPS
}

fn run_once(vcpu: &mut VcpuFd, witness: &mut Witness) -> Step {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(guest::PORT_ECHO, data)) => {
            witness.port_question = data == guest::PORT_QUESTION.to_le_bytes();
            Step::Served
        }
        Ok(VcpuExit::IoIn(guest::PORT_ECHO, data)) if data.len() == 4 => {
            data.copy_from_slice(&guest::PORT_ANSWER.to_le_bytes());
            Step::Served
        }
        Ok(VcpuExit::MmioWrite(layout::MMIO, data)) => {
            witness.mmio_question = data == guest::MMIO_QUESTION.to_le_bytes();
            Step::Served
        }
        Ok(VcpuExit::MmioRead(layout::MMIO, data)) if data.len() == 4 => {
            data.copy_from_slice(&guest::MMIO_ANSWER.to_le_bytes());
            witness.mmio_answered = true;
            Step::Served
        }
        Ok(VcpuExit::Hlt) => match inject_interrupt(vcpu) {
            Ok(()) => Step::Served,
            Err(error) => Step::Ended(End::Exit(format!("KVM_INTERRUPT: {error}"))),
        },
        Ok(VcpuExit::IoOut(guest::PORT_DONE, data)) => {
            let done = data == guest::DONE.to_le_bytes();
            Step::Ended(if done { End::Done } else { End::Fault })
        }
        Ok(VcpuExit::InternalError) => Step::Ended(End::InternalError(suberror(vcpu))),
        Ok(VcpuExit::Intr) => Step::Interrupted,
        Ok(other) => Step::Ended(End::Exit(format!("{other:?}"))),
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Step::Interrupted,
        Err(error) => Step::Ended(End::Failed(error.errno())),
    }
}

/// Sends the guest the one interrupt that it sleeps for. There is no interrupt controller in this
/// VM, so the vector goes straight to the vCPU.
fn inject_interrupt(vcpu: &VcpuFd) -> io::Result<()> {
    let vector = u32::from(layout::INTERRUPT_VECTOR);
    // SAFETY: the fd is a vCPU; the kernel reads a `struct kvm_interrupt`, which is one u32, from
    // a live local.
    let code = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT, &raw const vector) };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn suberror(vcpu: &mut VcpuFd) -> u32 {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return 0;
    }
    // SAFETY: init ← the exit reason says that the kernel filled in this arm of the union, and any
    // bits are valid integers; bounds, lifetime ← `run` borrows the whole mapped page.
    unsafe { run.__bindgen_anon_1.internal.suberror }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_loop_earns_more_time() {
        let mut memory = vec![0; layout::MEMORY_BYTES];
        let memory: &mut [u8; layout::MEMORY_BYTES] = memory.as_mut_slice().try_into().unwrap();
        assert!(!keeps_pace(memory));
        let slot = layout::REPORT + layout::report::RING0_LOOPS;
        layout::put(memory, slot, guest::RING0_LOOPS / 4 - 1);
        assert!(!keeps_pace(memory));
        layout::put(memory, slot, guest::RING0_LOOPS / 4);
        assert!(keeps_pace(memory));
    }
}
