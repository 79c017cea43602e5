//! Bundles as their callers see them: what goes in comes out, holes and all.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Cursor, Read, Write},
    os::unix::fs::{FileExt, MetadataExt},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cofferdam_disk::{BundleLimits, BundleReader, BundleWriter, ErrorKind, Result};
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

const LIMITS: BundleLimits = BundleLimits::new(1 << 30);

/// A sparse file of `length` bytes with `pieces` written at their offsets.
fn sparse(length: u64, pieces: &[(u64, &[u8])]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(length).unwrap();
    for (offset, bytes) in pieces {
        file.write_all_at(bytes, *offset).unwrap();
    }
    file
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn bundle(manifest: &[u8], files: &[(&str, &File)]) -> Vec<u8> {
    let mut writer = BundleWriter::new(Vec::new(), manifest).unwrap();
    for (name, file) in files {
        writer.add(name, file).unwrap();
    }
    writer.finish().unwrap()
}

fn unbundle(input: impl Read, limits: BundleLimits) -> Result<(Vec<u8>, BTreeMap<String, File>)> {
    let mut reader = BundleReader::open(input, limits)?;
    let mut files = BTreeMap::new();
    while let Some(file) = reader.next_file()? {
        let name = file.name().to_owned();
        let target = tempfile::tempfile().unwrap();
        file.extract(&target)?;
        files.insert(name, target);
    }
    let manifest = reader.manifest().to_vec();
    reader.finish()?;
    Ok((manifest, files))
}

#[test]
fn files_and_the_manifest_come_back() {
    let memory = sparse(10 << 20, &[(5 << 20, b"page"), ((10 << 20) - 3, b"end")]);
    let (state, empty) = (sparse(5, &[(0, b"state")]), sparse(0, &[]));
    let bytes = bundle(
        b"{}",
        &[("memory", &memory), ("state.bin", &state), ("e", &empty)],
    );
    let (manifest, files) = unbundle(bytes.as_slice(), LIMITS).unwrap();
    assert_eq!(manifest, b"{}");
    assert_eq!(files.len(), 3);
    assert!(content(&files["memory"]) == content(&memory));
    assert_eq!(content(&files["state.bin"]), b"state");
    assert_eq!(content(&files["e"]), b"");
}

#[test]
fn a_bundle_without_files_and_manifest_is_one() {
    let (manifest, files) = unbundle(bundle(b"", &[]).as_slice(), LIMITS).unwrap();
    assert!(manifest.is_empty() && files.is_empty());
}

#[test]
fn the_same_files_make_the_same_bundle() {
    let make = || {
        let file = sparse(3 << 20, &[(4096, &[7; 70_000]), (2 << 20, b"x")]);
        bundle(b"m", &[("file", &file)])
    };
    assert!(make() == make());
}

#[test]
fn holes_stay_holes_and_written_zeros_become_holes() {
    let zeros = vec![0; 8 << 20];
    let file = sparse(1 << 40, &[(1 << 30, b"data"), (1 << 31, &zeros)]);
    assert!(file.metadata().unwrap().blocks() * 512 >= 8 << 20);
    let bytes = bundle(b"", &[("upper.ext4", &file)]);
    assert!(bytes.len() < 1000);
    let (_, files) = unbundle(bytes.as_slice(), LIMITS).unwrap();
    let metadata = files["upper.ext4"].metadata().unwrap();
    assert_eq!(metadata.len(), 1 << 40);
    // One block of data, and what the file system needs to find it.
    assert!(metadata.blocks() * 512 <= 64 << 10);
}

#[test]
fn thousands_of_single_pages_come_back() {
    let file = sparse(64 << 20, &[]);
    for page in (0..(64 << 20) / 4096).step_by(3) {
        file.write_all_at(&[1, 2, 3], page * 4096 + page % 4000)
            .unwrap();
    }
    let bytes = bundle(b"", &[("memory", &file)]);
    let (_, files) = unbundle(bytes.as_slice(), LIMITS).unwrap();
    assert!(content(&files["memory"]) == content(&file));
}

#[test]
fn old_content_of_a_target_does_not_show_through_holes() {
    let file = sparse(1 << 20, &[(0, b"new")]);
    let bytes = bundle(b"", &[("file", &file)]);
    let target = sparse(2 << 20, &[(0, &[0xff; 2 << 20])]);
    let mut reader = BundleReader::open(bytes.as_slice(), LIMITS).unwrap();
    reader
        .next_file()
        .unwrap()
        .unwrap()
        .extract(&target)
        .unwrap();
    assert!(content(&target) == content(&file));
}

#[test]
fn files_that_nobody_extracts_are_passed_over() {
    let (one, two) = (sparse(9000, &[(0, b"one")]), sparse(3, &[(0, b"two")]));
    let bytes = bundle(b"m", &[("one", &one), ("two", &two)]);
    let mut reader = BundleReader::open(bytes.as_slice(), LIMITS).unwrap();
    assert_eq!(reader.next_file().unwrap().unwrap().name(), "one");
    let second = reader.next_file().unwrap().unwrap();
    assert_eq!((second.name(), second.length()), ("two", 3));
    let target = tempfile::tempfile().unwrap();
    second.extract(&target).unwrap();
    assert_eq!(content(&target), b"two");
    reader.finish().unwrap();
}

#[test]
fn finish_checks_what_was_not_read() {
    let file = sparse(9000, &[(0, b"one")]);
    let mut bytes = bundle(b"m", &[("one", &file), ("two", &file)]);
    BundleReader::open(bytes.as_slice(), LIMITS)
        .unwrap()
        .finish()
        .unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let reader = BundleReader::open(bytes.as_slice(), LIMITS).unwrap();
    assert_eq!(reader.finish().unwrap_err().kind(), ErrorKind::Damaged);
}

/// A pipe at its worst: one byte at a time.
struct Dribble<T>(T);

impl<R: Read> Read for Dribble<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = buffer.len().min(1);
        self.0.read(&mut buffer[..end])
    }
}

impl<W: Write> Write for Dribble<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn input_and_output_may_come_in_drips() {
    let file = sparse(20_000, &[(10_000, b"data")]);
    let mut writer = BundleWriter::new(Dribble(Vec::new()), b"manifest").unwrap();
    writer.add("file", &file).unwrap();
    let bytes = writer.finish().unwrap().0;
    let (_, files) = unbundle(Dribble(bytes.as_slice()), LIMITS).unwrap();
    assert_eq!(content(&files["file"]), content(&file));
}

#[test]
fn progress_ends_at_what_there_is() {
    let (first, second) = (
        sparse(5 << 20, &[(1 << 20, b"x")]),
        sparse(77, &[(0, b"y")]),
    );
    let (written, read) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let watch = |seen: &Arc<AtomicU64>| {
        let seen = Arc::clone(seen);
        move |bytes| assert!(seen.swap(bytes, Ordering::Relaxed) <= bytes)
    };
    let mut writer = BundleWriter::new(Vec::new(), b"m")
        .unwrap()
        .on_progress(watch(&written));
    writer.add("first", &first).unwrap();
    assert_eq!(written.load(Ordering::Relaxed), 5 << 20);
    writer.add("second", &second).unwrap();
    assert_eq!(written.load(Ordering::Relaxed), (5 << 20) + 77);
    let bytes = writer.finish().unwrap();
    BundleReader::open(bytes.as_slice(), LIMITS)
        .unwrap()
        .on_progress(watch(&read))
        .finish()
        .unwrap();
    assert_eq!(read.load(Ordering::Relaxed), bytes.len() as u64);
}

#[test]
fn names_that_are_no_plain_component_are_not_written() {
    let file = sparse(1, &[]);
    let mut writer = BundleWriter::new(Vec::new(), b"").unwrap();
    for name in ["", "..", "../x", "/etc/passwd", "Memory", "a b", "-x", ".x"] {
        let error = writer.add(name, &file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidName, "{name}");
    }
    writer.add("memory", &file).unwrap();
    let error = writer.add("memory", &file).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidName);
    // A refused name has written nothing.
    let bytes = writer.finish().unwrap();
    assert_eq!(unbundle(bytes.as_slice(), LIMITS).unwrap().1.len(), 1);
}

#[test]
fn what_does_not_fit_is_not_written() {
    let refused = |result: Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::TooLarge);
    refused(BundleWriter::new(Vec::new(), &vec![0; (1 << 20) + 1]).map(drop));
    let mut writer = BundleWriter::new(Vec::new(), &vec![0; 1 << 20]).unwrap();
    refused(writer.add("huge", &sparse((8 << 40) + 1, &[])));
    for number in 0..64 {
        writer
            .add(&number.to_string(), &sparse(8 << 40, &[]))
            .unwrap();
    }
    refused(writer.add("64", &sparse(1, &[])));
    let bytes = writer.finish().unwrap();
    let reader = BundleReader::open(bytes.as_slice(), LIMITS).unwrap();
    reader.finish().unwrap();
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error = BundleWriter::new(&full, b"m").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let mut buffered = BundleWriter::new(io::BufWriter::new(&full), b"m").unwrap();
    buffered.add("f", &sparse(9, &[(0, b"x")])).unwrap();
    assert_eq!(buffered.finish().unwrap_err().kind(), ErrorKind::NoSpace);
}

#[test]
fn a_target_that_refuses_is_named_and_ends_the_reading() {
    let bytes = bundle(b"", &[("file", &sparse(9000, &[(0, b"x")]))]);
    let mut reader = BundleReader::open(bytes.as_slice(), LIMITS).unwrap();
    // It can be made longer, but not written.
    let target = memfd_create("target", MemfdFlags::ALLOW_SEALING).unwrap();
    fcntl_add_seals(&target, SealFlags::WRITE).unwrap();
    let file = reader.next_file().unwrap().unwrap();
    let error = file.extract(&File::from(target)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("`file`"), "{error}");
    assert_eq!(reader.finish().unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn a_device_is_no_file_to_add() {
    let mut writer = BundleWriter::new(Vec::new(), b"").unwrap();
    let error = writer
        .add("zeros", &File::open("/dev/zero").unwrap())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

/// Takes so many bytes, then is full.
struct Quota(Vec<u8>, usize);

impl Write for Quota {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.1 - self.0.len();
        if room == 0 {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.0.write(&bytes[..bytes.len().min(room)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_fills_up_anywhere_is_noticed() {
    let file = sparse(9000, &[(0, b"x"), (5000, b"y")]);
    let whole = bundle(b"m", &[("file", &file)]).len();
    let write = |quota| {
        let mut writer = BundleWriter::new(Quota(Vec::new(), quota), b"m")?;
        writer.add("file", &file)?;
        writer.finish().map(drop)
    };
    for quota in 0..whole {
        assert_eq!(write(quota).unwrap_err().kind(), ErrorKind::NoSpace);
    }
    write(whole).unwrap();
}

#[test]
fn a_writer_whose_file_failed_does_not_end_the_bundle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, b"data").unwrap();
    let unreadable = File::options().write(true).open(&path).unwrap();
    let mut writer = BundleWriter::new(Vec::new(), b"").unwrap();
    let error = writer.add("file", &unreadable).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.chain().contains("Bad file descriptor"), "{error:?}");
    assert_eq!(writer.finish().unwrap_err().kind(), ErrorKind::Io);
}

/// Written by version 1 in November 2026. Every later program reads it.
const GOLDEN: &str = include_str!("bundle-v1.hex");

#[test]
fn the_first_bundle_is_read_forever() {
    let digits: Vec<u8> = GOLDEN.bytes().filter(u8::is_ascii_hexdigit).collect();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let (manifest, files) = unbundle(Cursor::new(bytes), LIMITS).unwrap();
    assert_eq!(manifest, b"{\"format\":1}");
    let memory = sparse(
        5 * 4096 + 100,
        &[(4096, b"second"), (5 * 4096 + 95, b"last.")],
    );
    assert!(content(&files["memory"]) == content(&memory));
    assert_eq!(content(&files["state"]), b"state");
    assert_eq!(files.len(), 2);
}

/// Lengths around blocks and parts, and pieces of some kinds of content anywhere in them.
fn any_file() -> impl Strategy<Value = (u64, Vec<(u64, Vec<u8>)>)> {
    let length = prop_oneof![
        0_u64..10_000,
        (0_u64..4, -2_i64..=2).prop_map(|(parts, off)| (parts << 20).saturating_add_signed(off)),
    ];
    length.prop_flat_map(|length| {
        let bytes = prop_oneof![
            prop::collection::vec(any::<u8>(), 1..50),
            (any::<u8>(), 1_usize..40_000).prop_map(|(byte, count)| vec![byte; count]),
            (1_usize..1_500_000).prop_map(|count| (0..count)
                .map(|number| ((number * number) >> 7).to_le_bytes()[0])
                .collect()),
        ];
        let pieces = prop::collection::vec((0..=length, bytes), 0..6);
        pieces.prop_map(move |pieces| (length, pieces))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_goes_in_comes_out(
        manifest in prop::collection::vec(any::<u8>(), 0..100),
        contents in prop::collection::vec(any_file(), 0..4),
    ) {
        let files: BTreeMap<String, File> = contents
            .iter()
            .enumerate()
            .map(|(number, (length, pieces))| {
                let file = sparse(*length, &[]);
                for (offset, bytes) in pieces {
                    file.write_all_at(bytes, *offset).unwrap();
                }
                (format!("file-{number}"), file)
            })
            .collect();
        let listed: Vec<_> = files.iter().map(|(name, file)| (name.as_str(), file)).collect();
        let bytes = bundle(&manifest, &listed);
        let (manifest_again, files_again) = unbundle(bytes.as_slice(), LIMITS).unwrap();
        prop_assert_eq!(manifest_again, manifest);
        prop_assert_eq!(files_again.len(), files.len());
        for (name, file) in &files {
            let copy = &files_again[name];
            prop_assert!(content(copy) == content(file));
            // A file system may count a file's index, of one block, with its data or later.
            let blocks = |file: &File| file.metadata().unwrap().blocks();
            prop_assert!(blocks(copy) <= blocks(file) + 8);
        }
    }
}
