//! The way to take rights from the threads of a stack.
//!
//! The threads read what a guest, its servers and its resolvers send. What they may do is decided
//! outside of this crate, which has no unsafe code for it.

use std::{fmt, io};

/// Takes rights from threads. Each method is called on the thread that it is about, before that
/// thread does anything else; the thread ends at once if it fails.
pub trait Confine: Send + Sync + fmt::Debug {
    /// The thread that moves packets. It makes sockets, reads the [`Directory`] of each named
    /// network, and makes and removes the names in the directory of their sockets.
    ///
    /// # Errors
    /// The kernel's.
    ///
    /// [`Directory`]: crate::Directory
    fn stack(&self) -> io::Result<()>;

    /// The thread that writes a capture to a file that is open.
    ///
    /// # Errors
    /// The kernel's.
    fn capture(&self) -> io::Result<()>;
}
