//! Bundles that were damaged, and bundles that were made to do harm: none is read as anything but
//! what it is.

#![allow(clippy::unwrap_used, reason = "tests")]

mod forge;

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
};

use cofferdam_disk::{BundleLimits, BundleReader, ErrorKind};

use forge::{
    HEAD_BYTES, Part, bomb, cut, data, file, part, put_together, read, small, take_apart, zstd,
};

const LIMITS: BundleLimits = BundleLimits::new(1 << 30);

/// The places of the parts of [`small`].
const FILE: usize = 1;
const DATA: usize = 2;
const DONE: usize = 3;
const SECOND_FILE: usize = 4;
const LAST: usize = 7;

#[track_caller]
fn refusal(bundle: &[u8], limits: BundleLimits) -> cofferdam_disk::Error {
    read(bundle, limits, &tempfile::tempfile().unwrap()).unwrap_err()
}

/// Changes the parts of the small bundle, seals them again, and says how that is refused.
#[track_caller]
fn forged(change: impl FnOnce(&mut Vec<Part>)) -> ErrorKind {
    let (head, mut parts) = take_apart(&small());
    change(&mut parts);
    refusal(&put_together(&head, &parts), LIMITS).kind()
}

#[test]
fn taken_apart_and_put_together_it_is_the_same_bundle() {
    let bundle = small();
    let (head, parts) = take_apart(&bundle);
    assert_eq!(put_together(&head, &parts), bundle);
    let tags: Vec<_> = parts.iter().map(|part| &part.tag).collect();
    let expected = [
        b"MANI", b"FILE", b"DATA", b"DONE", b"FILE", b"DATA", b"DONE", b"LAST",
    ];
    assert_eq!(tags, expected);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bundle = small();
    let target = tempfile::tempfile().unwrap();
    for position in 0..bundle.len() {
        for bit in 0..8 {
            let mut flipped = bundle.clone();
            flipped[position] ^= 1 << bit;
            let kind = read(flipped.as_slice(), LIMITS, &target)
                .unwrap_err()
                .kind();
            let expected = match (position, kind) {
                (0..8, _) => ErrorKind::NotABundle,
                // A greater number is a newer version for all that one can tell.
                (8..12, ErrorKind::Newer { known: 1, .. }) => continue,
                _ => ErrorKind::Damaged,
            };
            assert_eq!(kind, expected, "bit {bit} of byte {position}");
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    let bundle = small();
    let target = tempfile::tempfile().unwrap();
    for end in 0..bundle.len() {
        let kind = read(&bundle[..end], LIMITS, &target).unwrap_err().kind();
        let expected = if end < 8 {
            ErrorKind::NotABundle
        } else {
            ErrorKind::Damaged
        };
        assert_eq!(kind, expected, "cut after {end} bytes");
    }
}

#[test]
fn what_follows_the_end_is_refused() {
    let bundle = small();
    for more in [b"\0".as_slice(), b"junk", &bundle] {
        let kind = refusal(&[&bundle, more].concat(), LIMITS).kind();
        assert_eq!(kind, ErrorKind::Damaged);
    }
}

#[test]
fn other_files_are_no_bundles() {
    for other in [
        b"".as_slice(),
        b"\x7fELF\x02\x01\x01\0",
        &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(refusal(other, LIMITS).kind(), ErrorKind::NotABundle);
    }
}

#[test]
fn a_newer_version_is_named_whatever_follows() {
    let (mut head, _) = take_apart(&small());
    head[8..12].copy_from_slice(&7_u32.to_le_bytes());
    for rest in [b"".as_slice(), b"whatever version 7 has here"] {
        let error = refusal(&[&head[..12], rest].concat(), LIMITS);
        assert_eq!(error.kind(), ErrorKind::Newer { found: 7, known: 1 });
        let text = error.to_string();
        assert!(
            text.contains("version 7") && text.contains("up to 1"),
            "{text}"
        );
    }
}

#[test]
fn version_zero_never_was() {
    let (mut head, parts) = take_apart(&small());
    head[8..12].fill(0);
    let error = refusal(&put_together(&head, &parts), LIMITS);
    assert_eq!(error.kind(), ErrorKind::Damaged);
}

#[test]
fn every_flag_is_unknown() {
    let (head, parts) = take_apart(&small());
    for bit in 0..32 {
        let mut head = head.clone();
        head[12..HEAD_BYTES].copy_from_slice(&(1_u32 << bit).to_le_bytes());
        let error = refusal(&put_together(&head, &parts), LIMITS);
        assert_eq!(error.kind(), ErrorKind::Damaged, "bit {bit}");
        assert!(error.to_string().contains("flags"), "{error}");
    }
}

#[test]
fn parts_of_an_unknown_kind_are_refused() {
    for place in 0..=LAST {
        for tag in [b"XTRA", b"\0\0\0\0", b"data"] {
            assert_eq!(
                forged(|parts| parts.insert(place, part(tag, "x"))),
                ErrorKind::Damaged
            );
        }
    }
}

#[test]
fn every_part_has_its_places() {
    let (head, parts) = take_apart(&small());
    let (manifest, done, last) = (&parts[0], &parts[DONE], &parts[LAST]);
    let (file, data) = (&parts[SECOND_FILE], &parts[SECOND_FILE + 1]);
    let places: [(&[&Part], &[&Part], &str); 5] = [
        (&[], &[file, data, done, last], "a manifest"),
        (&[manifest], &[manifest, data, done], "a file or the end"),
        (
            &[manifest, file, done],
            &[manifest, data, done],
            "a file or the end",
        ),
        (
            &[manifest, file],
            &[manifest, file, last],
            "data of a file or its end",
        ),
        (
            &[manifest, file, data],
            &[manifest, file, last],
            "data of a file or its end",
        ),
    ];
    for (before, misplaced, expected) in places {
        for part in misplaced {
            let parts: Vec<_> = before
                .iter()
                .chain([part])
                .map(|&part| part.clone())
                .collect();
            let error = refusal(&put_together(&head, &parts), LIMITS);
            let tag = String::from_utf8_lossy(&part.tag);
            let what = format!("The bundle has a `{tag}` part where {expected} should be");
            assert_eq!(
                (error.kind(), error.to_string()),
                (ErrorKind::Damaged, what)
            );
        }
    }
}

#[test]
fn every_missing_part_is_missed() {
    for place in 0..=LAST {
        // A file without its data is a file of zeros, and as good as any other.
        if place != DATA && place != 5 {
            let kind = forged(|parts| drop(parts.remove(place)));
            assert_eq!(kind, ErrorKind::Damaged, "part {place}");
        }
    }
}

#[test]
fn every_repeated_part_is_refused() {
    for place in 0..=LAST {
        let kind = forged(|parts| parts.insert(place, parts[place].clone()));
        assert_eq!(kind, ErrorKind::Damaged, "part {place}");
    }
}

#[test]
fn parts_do_not_change_places_under_their_old_seals() {
    let bundle = small();
    let (head, parts) = cut(&bundle);
    for one in 0..=LAST {
        for other in 0..one {
            let mut shuffled = parts.clone();
            shuffled.swap(one, other);
            let error = refusal(&[head, &shuffled.concat()].concat(), LIMITS);
            assert_eq!(error.kind(), ErrorKind::Damaged);
            assert!(error.to_string().contains("seal"), "{error}");
        }
    }
}

#[test]
fn a_length_that_no_part_can_have_is_refused() {
    for place in 0..=LAST {
        for length in [u32::MAX, 1 << 31, (1 << 20) + (1 << 13)] {
            let kind = forged(|parts| parts[place].length = length);
            assert_eq!(kind, ErrorKind::Damaged, "part {place} of {length} bytes");
        }
    }
}

#[test]
fn ends_that_carry_something_are_refused() {
    for place in [DONE, LAST] {
        let kind = forged(|parts| parts[place] = part(&parts[place].tag.clone(), "x"));
        assert_eq!(kind, ErrorKind::Damaged);
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let long = [b'n'; 65];
    for name in [
        b"".as_slice(),
        b"..",
        b".",
        b"../memory",
        b"/etc/passwd",
        b"a/b",
        b"a\0b",
        b"A",
        b"-rf",
        b".hidden",
        b"a b",
        b"\xff\xfe",
        b"\xc3\xa9",
        b"a\nb",
        &long,
    ] {
        let kind = forged(|parts| parts[FILE] = file(5 * 4096 + 100, name));
        assert_eq!(kind, ErrorKind::Damaged, "{}", name.escape_ascii());
    }
}

#[test]
fn a_name_is_taken_once() {
    let kind = forged(|parts| parts[SECOND_FILE] = file(5, b"memory"));
    assert_eq!(kind, ErrorKind::Damaged);
}

#[test]
fn a_file_head_that_is_cut_short_is_refused() {
    for bytes in 0..=8 {
        let kind = forged(|parts| parts[FILE] = part(b"FILE", vec![b'a'; bytes]));
        assert_eq!(kind, ErrorKind::Damaged, "{bytes} bytes");
    }
}

#[test]
fn a_file_shorter_than_its_data_is_refused() {
    for length in [
        0,
        1,
        4096,
        5 * 4096,
        5 * 4096 + 99,
        5 * 4096 + 101,
        6 * 4096,
    ] {
        let kind = forged(|parts| parts[FILE] = file(length, b"memory"));
        assert_eq!(kind, ErrorKind::Damaged, "{length} bytes");
    }
}

#[test]
fn files_above_the_limits_are_refused_before_they_are_made() {
    let (head, parts) = take_apart(&small());
    let with_length = |length| {
        let mut parts = parts.clone();
        parts[FILE] = file(length, b"memory");
        put_together(&head, &parts)
    };
    for length in [(8 << 40) + 1, 1 << 63, u64::MAX] {
        let error = refusal(&with_length(length), LIMITS);
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }
    let tight = |file_bytes| BundleLimits {
        file_bytes,
        ..LIMITS
    };
    let target = tempfile::tempfile().unwrap();
    let length = 5 * 4096 + 100;
    assert!(read(small().as_slice(), tight(length), &target).is_ok());
    let error = refusal(&small(), tight(length - 1));
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[test]
fn more_files_than_the_limit_are_refused() {
    let tight = |files| BundleLimits { files, ..LIMITS };
    let target = tempfile::tempfile().unwrap();
    assert_eq!(
        read(small().as_slice(), tight(2), &target).unwrap().len(),
        2
    );
    assert_eq!(refusal(&small(), tight(1)).kind(), ErrorKind::TooLarge);
    let kind = forged(|parts| {
        for number in 0..63 {
            parts.insert(FILE, part(b"DONE", ""));
            parts.insert(FILE, file(0, number.to_string().as_bytes()));
        }
    });
    assert_eq!(kind, ErrorKind::TooLarge);
}

#[test]
fn a_table_that_does_not_fit_its_frame_is_refused() {
    let frame = zstd(&[7; 4096 + 100]);
    let right = [(1, 1), (3, 1)];
    let (head, mut parts) = take_apart(&small());
    parts[DATA] = data(&right, &frame);
    let target = tempfile::tempfile().unwrap();
    read(put_together(&head, &parts).as_slice(), LIMITS, &target).unwrap();
    let wrong: [&[(u32, u32)]; 9] = [
        &[],
        &[(1, 1)],
        &[(1, 2)],
        &[(1, 1), (4, 1)],
        &[(1, 1), (2, 1)],
        &[(1, 1), (3, 2)],
        &[(1, 1), (3, 0)],
        &[(1, 1), (3, 1), (0, 1)],
        &[(1, 1), (u32::MAX, u32::MAX)],
    ];
    for extents in wrong {
        let kind = forged(|parts| parts[DATA] = data(extents, &frame));
        assert_eq!(kind, ErrorKind::Damaged, "{extents:?}");
    }
}

#[test]
fn a_later_part_cannot_go_back() {
    let page = zstd(&[7; 4096]);
    for extents in [(0, 1), (2, 1)] {
        let twice = |parts: &mut Vec<Part>| {
            parts[FILE] = file(2 * 4096, b"memory");
            parts[DATA] = data(&[(1, 1)], &page);
            parts.insert(DONE, data(&[extents], &page));
        };
        assert_eq!(forged(twice), ErrorKind::Damaged);
    }
}

#[test]
fn frames_that_are_not_one_whole_frame_are_refused() {
    let page = [7; 4096 + 100];
    let frame = zstd(&page);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    let dictionary: Vec<u8> = (0..4096_u32).flat_map(u32::to_le_bytes).collect();
    let mut with_dictionary = zstd::bulk::Compressor::with_dictionary(3, &dictionary).unwrap();
    let raw_dictionary = with_dictionary
        .compress(&dictionary[4096..4096 + page.len()])
        .unwrap();
    // RFC 8878 §3.1.1.1.1: the lowest two bits of the descriptor are the dictionary id's size.
    let mut dictionary_id = frame.clone();
    dictionary_id[4] |= 1;
    dictionary_id.insert(5, 99);
    let wrong: [(&str, Vec<u8>); 9] = [
        ("nothing", vec![]),
        ("garbage", vec![0xa5; 100]),
        ("cut", frame[..frame.len() - 1].to_vec()),
        ("more", [frame.as_slice(), b"x"].concat()),
        (
            "two frames",
            [zstd(&page[..4096]), zstd(&page[4096..])].concat(),
        ),
        ("skippable before", [skippable.as_slice(), &frame].concat()),
        ("skippable only", skippable.to_vec()),
        ("raw dictionary", raw_dictionary),
        ("dictionary id", dictionary_id),
    ];
    for (what, frame) in wrong {
        let kind = forged(|parts| parts[DATA] = data(&[(1, 1), (3, 1)], &frame));
        assert_eq!(kind, ErrorKind::Damaged, "{what}");
    }
}

#[test]
fn a_frame_unpacks_to_no_more_than_its_extents() {
    // A GiB of zeros in 32 KiB.
    let bomb = zstd::encode_all(io::repeat(0).take(1 << 30), 1).unwrap();
    let kind = forged(|parts| parts[DATA] = data(&[(1, 1), (3, 1)], &bomb));
    assert_eq!(kind, ErrorKind::Damaged);
}

#[test]
fn a_bomb_writes_no_more_than_the_limit() {
    let bundle = bomb(100);
    assert!(bundle.len() < 32 << 10);
    // In memory: not every disk has files of 8 TiB.
    let target = rustix::fs::memfd_create("bomb", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let target = File::from(target);
    let error = read(bundle.as_slice(), BundleLimits::new(10 << 20), &target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(target.metadata().unwrap().blocks() * 512 <= 10 << 20);
    read(bundle.as_slice(), BundleLimits::new(100 << 20), &target).unwrap();
}

#[test]
fn a_bomb_that_is_passed_over_is_still_limited() {
    let bundle = bomb(100);
    let reader = BundleReader::open(bundle.as_slice(), BundleLimits::new(10 << 20)).unwrap();
    assert_eq!(reader.finish().unwrap_err().kind(), ErrorKind::TooLarge);
}
