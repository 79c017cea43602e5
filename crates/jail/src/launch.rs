//! What a caller asks for: a program, and what it may have.

use std::{
    ffi::OsString,
    os::fd::{OwnedFd, RawFd},
    path::PathBuf,
};

use crate::holes::Holes;

/// What to start.
#[derive(Debug)]
pub struct Launch {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Its arguments without its name.
    pub args: Vec<OsString>,
    /// Descriptors that it gets, each with the number that it has in the child; the numbers are
    /// different from each other and above 2. It gets no other.
    pub fds: Vec<(OwnedFd, RawFd)>,
    /// Its standard output and error; its standard input is empty.
    pub output: OwnedFd,
    /// Has this process decide which holes it may punch into files; `None` lets it punch any. For
    /// a program that maps a file privately which others map too: giving back guest memory must
    /// drop its own pages only, never the file's.
    pub holes: Option<Holes>,
    /// Gives it pages of the smallest size only. For a program that writes a little in many
    /// places, where a huge page is mostly memory that nobody uses.
    pub small_pages: bool,
}
