//! Files as they are written, and every way in which they can be wrong.

use std::{fs, io::Write, os::unix::net::UnixStream};

use super::*;

/// Memory's first and last section without any page, and what stands for devices.
const STREAM: &[u8] = b"QEVM\0\0\0\x03\
    \x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x10\x7e\0\0\0\x02\
    \x03\0\0\0\x02\0\0\0\0\0\0\0\x10\x7e\0\0\0\x02\
    \x04devices";

fn shape() -> Shape {
    Shape {
        compatibility: "qemu".to_owned(),
        vcpus: 1,
        memory_mib: 64,
        disks: vec![true, false],
        mtu: None,
        file_channel: false,
    }
}

fn written(dir: &Path) -> SnapshotFiles {
    let files = SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    };
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(STREAM).unwrap();
    drop(theirs);
    write(&ours, &files, &shape(), MemoryFile::Write).unwrap();
    files
}

#[test]
fn a_written_state_opens_at_its_stream() {
    let dir = tempfile::tempdir().unwrap();
    let files = written(dir.path());
    let mut stream = Vec::new();
    open(&files.state, &shape())
        .unwrap()
        .read_to_end(&mut stream)
        .unwrap();
    assert_eq!(stream, STREAM);
    assert_eq!(fs::metadata(&files.memory).unwrap().len(), 64 << 20);
}

#[test]
fn every_changed_or_missing_byte_that_matters_is_a_bad_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let files = written(dir.path());
    let whole = fs::read(&files.state).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&files.state, bytes).unwrap();
        let error = open(&files.state, &shape()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadSnapshot);
    };
    for length in [0, 7, 11, 4095, 4096, whole.len() - 1] {
        refused(&whole[..length]);
    }
    for at in [0, 8, 12, 4096, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        refused(&changed);
    }
    refused(&[whole, vec![0]].concat());
}

#[test]
fn another_shape_is_a_bad_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let files = written(dir.path());
    let shape = shape();
    for other in [
        Shape {
            compatibility: "other".to_owned(),
            ..shape.clone()
        },
        Shape {
            vcpus: 2,
            ..shape.clone()
        },
        Shape {
            memory_mib: 128,
            ..shape.clone()
        },
        Shape {
            disks: vec![true],
            ..shape.clone()
        },
        Shape {
            disks: vec![true, true],
            ..shape
        },
    ] {
        let error = open(&files.state, &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadSnapshot);
    }
}

#[test]
fn a_failed_capture_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = SnapshotFiles {
        memory: dir.path().join("memory"),
        state: dir.path().join("state"),
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(write(&ours, &files, &shape(), MemoryFile::Write).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn files_that_exist_are_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let files = written(dir.path());
    let before = fs::read(&files.state).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = write(&ours, &files, &shape(), MemoryFile::Write).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    assert_eq!(fs::read(&files.state).unwrap(), before);
}
