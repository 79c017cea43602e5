//! Random bytes from the kernel.

use crate::base::error::{Error, ErrorKind, Result};

/// `N` random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(ErrorKind::Io, "The host has no random numbers").because(error)
    })?;
    Ok(bytes)
}
