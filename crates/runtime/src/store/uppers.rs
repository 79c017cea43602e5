//! Fresh upper disks: a blank one for each size is kept and copied.

use std::path::Path;

use cofferdam_base::fs;

use crate::{
    base::error::{Result, io, lift},
    store::layout::Layout,
};

/// Changes when a blank upper becomes another: 2 takes large extended attributes.
const FORM: u32 = 2;

/// Makes a fresh upper of `bytes` bytes at `path`.
pub(crate) fn make(layout: &Layout, bytes: u64, path: &Path) -> Result<()> {
    let blank = layout.cache().join(format!("upper-{FORM}-{bytes}.ext4"));
    if !blank.is_file() {
        let staging = fs::staging_path(&blank);
        lift(cofferdam_disk::create_upper(&staging, bytes))?;
        // Two processes make the same bytes: whichever rename is last, the file is right.
        std::fs::rename(&staging, &blank)
            .map_err(|error| io(format!("Could not make `{}`", blank.display()), error))?;
    }
    lift(cofferdam_disk::copy_sparse(&blank, path))
}
