//! The result of a system call. Async-signal-safe.

use std::io;

/// Minus one is an error, which `errno` names. `io::Error::last_os_error` allocates nothing.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
