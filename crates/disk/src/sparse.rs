//! Sparse files and copies of them.
//!
//! A copy shares blocks with its source where the file system can (`FICLONE`); elsewhere only
//! the source's data is copied, never its holes, and within the kernel unless the two are on
//! different file systems. Source: lseek(2) `SEEK_DATA`, ioctl_ficlone(2).

use std::{
    fs::File,
    io,
    num::NonZeroU64,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    slice,
};

use rustix::{
    fs::{Advice, SeekFrom, copy_file_range, fadvise, ioctl_ficlone, seek},
    io::Errno,
};

use crate::error::{Result, io as io_error, is_full};

/// Buffer of a copy that the kernel does not make: large beside the cost of a call, small beside
/// the cache.
const BUFFER_BYTES: usize = 256 << 10;

/// Makes a file of `bytes` bytes that uses no space. Mode 0600; the file must not exist.
///
/// # Errors
/// The file system's.
pub fn create_sparse(path: &Path, bytes: u64) -> Result<File> {
    create_new(path)
        .and_then(|file| file.set_len(bytes).map(|()| file))
        .map_err(|error| {
            io_error(
                format!("Could not make the disk `{}`", path.display()),
                error,
            )
        })
}

/// Copies `from` to `to`, which must not exist; holes stay holes. On failure `to` is removed.
///
/// # Errors
/// The file system's.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        let source = File::open(from)?;
        let target = create_new(to)?;
        let result = copy_into(&source, &target);
        if result.is_err() {
            // The first error is the one to report.
            let _ = std::fs::remove_file(to);
        }
        result
    };
    copy().map_err(|error| {
        let what = if is_full(&error) {
            no_room(from, to)
        } else {
            format!("Could not copy `{}` to `{}`", from.display(), to.display())
        };
        io_error(what, error)
    })
}

/// What is needed for a copy and what is free, now that the part that was copied is gone again.
fn no_room(from: &Path, to: &Path) -> String {
    let mib = |bytes: Option<u64>| {
        bytes.map_or_else(
            || "unknown".to_owned(),
            |bytes| format!("{}.{}", bytes >> 20, ((bytes & ((1 << 20) - 1)) * 10) >> 20),
        )
    };
    let free = to.parent().and_then(|parent| {
        let stat = rustix::fs::statvfs(parent).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    });
    format!(
        "There is no room for `{}`: it needs {} MiB, and {} MiB are free",
        to.display(),
        mib(allocated_bytes(from).ok()),
        mib(free)
    )
}

/// Has the kernel begin to read a file's data, if it is not in memory yet: what of it is in
/// `wanted`, which is in order and apart, or all. Holes are left alone: read ahead, they would
/// fill memory with zeroes.
///
/// # Errors
/// The file system's.
pub fn read_ahead(path: &Path, wanted: Option<&[Range<u64>]>) -> Result<()> {
    let advise = || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let all = 0..length;
        let wanted = wanted.unwrap_or_else(|| slice::from_ref(&all));
        for data in data_ranges(&file, length, 1) {
            let data = data?;
            for part in overlaps(&data, wanted) {
                let bytes = NonZeroU64::new(part.end - part.start);
                fadvise(&file, part.start, bytes, Advice::WillNeed)?;
            }
        }
        Ok(())
    };
    advise().map_err(|error: io::Error| {
        io_error(
            format!("Could not read ahead in `{}`", path.display()),
            error,
        )
    })
}

/// What `data` and the ranges of `wanted`, which are in order and apart, have in common.
fn overlaps(data: &Range<u64>, wanted: &[Range<u64>]) -> impl Iterator<Item = Range<u64>> {
    let (start, end) = (data.start, data.end);
    let first = wanted.partition_point(|range| range.end <= start);
    wanted[first..]
        .iter()
        .take_while(move |range| range.start < end)
        .map(move |range| range.start.max(start)..range.end.min(end))
}

/// Bytes that a file uses on its disk.
///
/// # Errors
/// The file system's.
pub fn allocated_bytes(path: &Path) -> Result<u64> {
    std::fs::metadata(path)
        // Linux counts `st_blocks` in units of 512 bytes whatever the block size; stat(3type).
        .map(|metadata| metadata.blocks() * 512)
        .map_err(|error| io_error(format!("Could not read `{}`", path.display()), error))
}

fn create_new(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn copy_into(source: &File, target: &File) -> io::Result<()> {
    if ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut buffer = None;
    for range in data_ranges(source, length, 1) {
        copy_range(source, target, range?, &mut buffer)?;
    }
    Ok(())
}

/// The ranges of the first `length` bytes of `file` outside which there are only holes. They
/// ascend, are not empty, and start and end at multiples of `align` or at the end. Moves the
/// file's position.
///
/// # Errors
/// The file system's; the last item then.
pub fn data_ranges(
    file: &File,
    length: u64,
    align: u64,
) -> impl Iterator<Item = io::Result<Range<u64>>> {
    let mut position = 0;
    let next = move || -> io::Result<Option<Range<u64>>> {
        if position >= length {
            return Ok(None);
        }
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) if start < length => start,
            // ENXIO: no data from here to the end.
            Ok(_) | Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.next_multiple_of(align);
        // Not before `position`, which is a multiple of `align` too.
        let start = start - start % align;
        position = end.min(length);
        Ok(Some(start..position))
    };
    let mut next = Some(next);
    std::iter::from_fn(move || {
        let result = next.as_mut()?().transpose();
        if !matches!(result, Some(Ok(_))) {
            next = None;
        }
        result
    })
}

/// Copies a range, in the kernel where it can. `buffer` is there once it has said that it cannot.
fn copy_range(
    source: &File,
    target: &File,
    range: Range<u64>,
    buffer: &mut Option<Vec<u8>>,
) -> io::Result<()> {
    let (mut from, mut to) = (range.start, range.start);
    while from < range.end && buffer.is_none() {
        let rest = usize::try_from(range.end - from).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), rest) {
            Ok(0) => return Err(became_shorter()),
            Ok(_) => {}
            Err(error) if is_no_way(error) => *buffer = Some(vec![0; BUFFER_BYTES]),
            Err(error) => return Err(error.into()),
        }
    }
    let Some(buffer) = buffer else {
        return Ok(());
    };
    while from < range.end {
        let rest = usize::try_from(range.end - from).unwrap_or(usize::MAX);
        let bytes = &mut buffer[..rest.min(BUFFER_BYTES)];
        source.read_exact_at(bytes, from)?;
        target.write_all_at(bytes, from)?;
        from += bytes.len() as u64;
    }
    Ok(())
}

/// Whether `copy_file_range` cannot serve these two files at all: they are on different file
/// systems, or a file system, a seccomp filter or the kernel does not have it;
/// copy_file_range(2).
fn is_no_way(error: Errno) -> bool {
    matches!(
        error,
        Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM
    )
}

fn became_shorter() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "file became shorter while it was copied",
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn reading_ahead_takes_holes_and_empty_files_and_names_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = create_sparse(&path, 64 << 20).unwrap();
        read_ahead(&path, None).unwrap();
        file.write_all_at(b"middle", 33 << 20).unwrap();
        read_ahead(&path, None).unwrap();
        read_ahead(&path, Some(&[0..1, 32 << 20..34 << 20])).unwrap();
        assert!(allocated_bytes(&path).unwrap() < 1 << 20);
        let error = read_ahead(&dir.path().join("b"), None).unwrap_err();
        assert!(error.to_string().contains("read ahead"), "{error}");
    }

    #[test]
    fn what_is_wanted_is_cut_to_where_data_is() {
        let wanted = [0..4, 6..10, 12..14, 20..30];
        let of = |data: Range<u64>| overlaps(&data, &wanted).collect::<Vec<_>>();
        assert_eq!(of(0..40), wanted);
        assert_eq!(of(2..7), [2..4, 6..7]);
        assert_eq!(of(22..23), [22..23, 0..0][..1]);
        // Ends that touch have nothing in common.
        assert_eq!(of(10..12), [0..0; 0]);
        assert_eq!(of(30..40), [0..0; 0]);
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_no_more_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let file = create_sparse(&from, 64 << 20).unwrap();
        file.write_all_at(b"head", 0).unwrap();
        file.write_all_at(b"middle", 33 << 20).unwrap();
        file.sync_all().unwrap();
        copy_sparse(&from, &to).unwrap();
        let copy = File::open(&to).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), 64 << 20);
        let mut buffer = [0; 6];
        copy.read_exact_at(&mut buffer, 33 << 20).unwrap();
        assert_eq!(&buffer, b"middle");
        copy.read_exact_at(&mut buffer[..4], 0).unwrap();
        assert_eq!(&buffer[..4], b"head");
        assert!(allocated_bytes(&to).unwrap() < 1 << 20);
    }

    #[test]
    fn an_existing_target_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        create_sparse(&from, 4096).unwrap();
        std::fs::write(&to, b"mine").unwrap();
        assert!(copy_sparse(&from, &to).is_err());
        assert_eq!(std::fs::read(&to).unwrap(), b"mine");
    }

    #[test]
    fn a_copy_to_another_file_system_has_the_same_bytes_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("copy");
        // A memfd lives on a file system of the kernel's own.
        let source = File::from(memfd_create("source", MemfdFlags::CLOEXEC).unwrap());
        source.set_len(64 << 20).unwrap();
        source.write_all_at(&[7; 1 << 20], 5 << 20).unwrap();
        source.write_all_at(b"end", (64 << 20) - 3).unwrap();
        let from = format!("/proc/self/fd/{}", source.as_raw_fd());
        copy_sparse(Path::new(&from), &to).unwrap();
        assert!(content(&File::open(&to).unwrap()) == content(&source));
        assert!(allocated_bytes(&to).unwrap() < 4 << 20);
    }

    #[test]
    fn ranges_of_data_are_widened_to_the_alignment_and_never_overlap() {
        let file = File::from(memfd_create("ranges", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(100 << 12).unwrap();
        for page in [0, 1, 9, 11, 12, 40, 99] {
            file.write_all_at(b"x", page << 12).unwrap();
        }
        let ranges = |length, align| -> Vec<_> {
            data_ranges(&file, length, align)
                .map(|range| range.map(|range| (range.start >> 12, range.end >> 12)))
                .collect::<io::Result<_>>()
                .unwrap()
        };
        let pages = [(0, 2), (9, 10), (11, 13), (40, 41), (99, 100)];
        assert_eq!(ranges(100 << 12, 1), pages);
        let widened = [(0, 8), (8, 16), (40, 48), (96, 100)];
        assert_eq!(ranges(100 << 12, 8 << 12), widened);
        assert_eq!(ranges(11 << 12, 1), pages[..2]);
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}
