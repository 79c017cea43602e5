//! A timer that makes `KVM_RUN` return on the thread that started it, and that thread's clock.
//!
//! The signal is blocked in the thread and let through by KVM's own mask only while the guest
//! runs, so no handler exists, nothing of the process's signal set-up changes, and a signal that
//! comes a moment before `KVM_RUN` still ends it. SIGURG is used as its default action is to be
//! ignored.
//!
//! Source: Linux Documentation/virt/kvm/api.rst §4.27 (KVM_SET_SIGNAL_MASK), timer_create(2).

use std::{io, marker::PhantomData, mem::MaybeUninit, os::fd::AsRawFd, ptr, time::Duration};

use kvm_ioctls::VcpuFd;

const SIGNAL: libc::c_int = libc::SIGURG;

/// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)`; kvm-ioctls has no call for it.
const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;

/// `struct kvm_signal_mask` with the kernel's 8-byte signal set.
#[repr(C, packed)]
struct KvmSignalMask {
    len: u32,
    set: u64,
}

/// A running interval timer of the calling thread; it may not move to another.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: libc::timer_t,
    _of_this_thread: PhantomData<*mut ()>,
}

impl Alarm {
    /// Blocks every signal in the calling thread, then interrupts it every `period`.
    pub(super) fn start(period: Duration) -> io::Result<Self> {
        block_all_signals()?;
        // SAFETY: all-zero is a valid `sigevent`.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGNAL;
        // SAFETY: takes no arguments, cannot fail.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: both pointers are to live locals of the right types.
        check(unsafe {
            libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer)
        })?;
        let alarm = Self {
            timer,
            _of_this_thread: PhantomData,
        };
        let interval = libc::timespec {
            tv_sec: 0,
            tv_nsec: i64::from(period.subsec_nanos()),
        };
        let setting = libc::itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        // SAFETY: `timer` was just created; `setting` is a live local; the old value is not asked.
        check(unsafe { libc::timer_settime(alarm.timer, 0, &raw const setting, ptr::null_mut()) })?;
        Ok(alarm)
    }

    /// Lets the signal through while `vcpu` runs its guest.
    pub(super) fn interrupts(&self, vcpu: &VcpuFd) -> io::Result<()> {
        let mask = KvmSignalMask {
            len: 8,
            set: !(1 << (SIGNAL - 1)),
        };
        // SAFETY: the fd is a vCPU; the kernel reads `len` and then 8 bytes of set, all inside
        // the live local `mask`.
        check(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &raw const mask) })
    }

    /// Takes a signal that has come, so that the next `KVM_RUN` does not return at once.
    pub(super) fn acknowledge(&self) {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `set` is a live local that the call fills in.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialised by the call before; the signal number is valid.
        unsafe { libc::sigaddset(set.as_mut_ptr(), SIGNAL) };
        let at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: reads two live locals, writes nothing (no siginfo asked). Its failure means that
        // no signal was pending.
        unsafe { libc::sigtimedwait(set.as_ptr(), ptr::null_mut(), &raw const at_once) };
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer was created in `start` and is deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}

/// Processor time that the calling thread has used, its guest's included. A host that is busy with
/// other things does not advance it.
pub(super) fn thread_time() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one live local; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

fn block_all_signals() -> io::Result<()> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `all` is a live local that the call fills in.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was just initialised; the old mask is not asked for. Only the calling thread
    // is concerned, which exists for the probe alone.
    let code = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut()) };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code))
    }
}

fn check(code: libc::c_int) -> io::Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
