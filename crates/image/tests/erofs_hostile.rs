//! Bombs and broken layers end in a typed error, in bounded time and memory.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

mod erofs_support;

use std::{
    cell::Cell,
    fs,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
};

use cofferdam_image::{Compression, Error, ErrorKind, LayerSource, Limits, build_rootfs};
use erofs_support::{
    What, build, content, failure, plain, reader, sha256,
    tar::{Entry, Tar, gnu_long, opaque, seal, whiteout},
};
use flate2::write::GzEncoder;

const MIB: u64 = 1 << 20;

fn one(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    Tar::new(entries).end()
}

fn error_of(tar: &[u8], limits: &Limits) -> Error {
    failure(vec![plain(tar)], limits)
}

fn kind_of(tar: &[u8]) -> ErrorKind {
    error_of(tar, &Limits::default()).kind()
}

/// The error is `TooLarge` and its sentence holds `words`.
fn too_large(tar: &[u8], limits: &Limits, words: &str) {
    let error = error_of(tar, limits);
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    assert!(error.chain().contains(words), "{error:?}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn packed(bytes: &[u8], compression: Compression, tar: &[u8]) -> LayerSource<'static> {
    LayerSource {
        reader: Box::new(io::Cursor::new(bytes.to_vec())),
        compression,
        diff_id: sha256(tar),
    }
}

#[test]
fn all_compressions_give_the_same_image() {
    let tar = one([
        Entry::dir("d"),
        Entry::file("d/f", vec![9; 700_000]),
        Entry::file("g", "x"),
    ]);
    let gzipped = gzip(&tar);
    let (head, tail) = tar.split_at(300_000);
    let members = [gzip(head), gzip(tail)].concat();
    let padded = [gzipped.clone(), vec![0; 70_000]].concat();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let frames = [
        zstd::encode_all(head, 1).unwrap(),
        zstd::encode_all(tail, 1).unwrap(),
    ]
    .concat();
    let (_, expected) = build(vec![plain(&tar)], &Limits::default()).unwrap();
    for (bytes, compression) in [
        (gzipped, Compression::Gzip),
        (members, Compression::Gzip),
        (padded, Compression::Gzip),
        (zstd, Compression::Zstd),
        (frames, Compression::Zstd),
    ] {
        assert_eq!(Compression::sniff(&bytes), compression);
        let (_, image) =
            build(vec![packed(&bytes, compression, &tar)], &Limits::default()).unwrap();
        assert!(image == expected);
    }
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let lower = one((0..500).map(|n| Entry::file(format!("d{}/f{n}", n % 7), vec![1; n * 13])));
    let upper = one([
        whiteout("d3/f3"),
        opaque("d4"),
        Entry::hard_link("d4/x", "d5/f5"),
    ]);
    let image = || {
        build(vec![plain(&lower), plain(&upper)], &Limits::default())
            .unwrap()
            .1
    };
    assert!(image() == image());
}

#[test]
fn images_of_every_number_of_inodes_are_sound() {
    for count in 0..200 {
        let tar = one((0..count).map(|n| Entry::new(b'6', format!("{n}"))));
        let (_, image) = build(vec![plain(&tar)], &Limits::default()).unwrap();
        assert_eq!(reader::read(&image).len(), count + 1);
    }
}

#[test]
fn a_reused_file_holds_nothing_of_its_past() {
    let tar = one([Entry::file("f", vec![0; 100_000])]);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![0xaa; 1_000_000]).unwrap();
    let layers = [Ok(plain(&tar))];
    build_rootfs(layers, &[], &mut file, &Limits::default(), &|_| {}).unwrap();
    let (_, fresh) = build(vec![plain(&tar)], &Limits::default()).unwrap();
    assert!(content(&file) == fresh);
}

#[test]
fn a_wrong_diff_id_is_a_digest_mismatch() {
    let tar = one([Entry::file("f", "1")]);
    let layer = LayerSource {
        diff_id: sha256(b"other"),
        ..plain(&tar)
    };
    assert_eq!(
        failure(vec![layer], &Limits::default()).kind(),
        ErrorKind::DigestMismatch
    );
}

#[test]
fn the_digest_covers_what_follows_the_archive() {
    let tar = one([Entry::file("f", "1")]);
    let longer = [tar.clone(), b"x".to_vec()].concat();
    let layer = LayerSource {
        diff_id: sha256(&tar),
        ..plain(&longer)
    };
    assert_eq!(
        failure(vec![layer], &Limits::default()).kind(),
        ErrorKind::DigestMismatch
    );
}

/// A file of `size` zeros in a compressed tar, some thousand times smaller.
fn zeros(size: u64) -> (Vec<u8>, Vec<u8>) {
    let header = Entry::file("zeros", "").size(size).header().to_vec();
    let tar = || header.as_slice().chain(io::repeat(0).take(size));
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    io::copy(&mut tar(), &mut encoder).unwrap();
    (
        encoder.finish().unwrap(),
        zstd::encode_all(tar(), 1).unwrap(),
    )
}

#[test]
fn a_compressed_bomb_is_stopped_by_its_size() {
    let (gzip, zstd) = zeros(64 * MIB);
    let limits = Limits {
        max_total_bytes: 8 * MIB,
        ..Limits::default()
    };
    for (bytes, compression) in [(gzip, Compression::Gzip), (zstd, Compression::Zstd)] {
        let seen = Cell::new(0);
        let mut file = tempfile::tempfile().unwrap();
        let layers = [Ok(packed(&bytes, compression, b""))];
        let error = build_rootfs(layers, &[], &mut file, &limits, &|bytes| seen.set(bytes));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TooLarge);
        assert!(seen.get() < 16 * MIB, "stopped after {} bytes", seen.get());
    }
}

#[test]
fn a_file_of_zeros_is_no_bomb_and_takes_no_disk() {
    // A `lastlog` after `useradd -u` with a large number.
    let size = 300 * MIB;
    let (gzip, _) = zeros(size);
    assert!(gzip.len() as u64 * 900 < size, "about 1000:1");
    let mut tar = Entry::file("zeros", "").size(size).header().to_vec();
    tar.resize(tar.len() + usize::try_from(size).unwrap(), 0);
    let mut file = tempfile::tempfile().unwrap();
    let layers = [Ok(packed(&gzip, Compression::Gzip, &tar))];
    let stats = build_rootfs(layers, &[], &mut file, &Limits::default(), &|_| {}).unwrap();
    assert_eq!(stats.data_bytes, size);
    assert!(
        file.metadata().unwrap().blocks() * 512 < MIB,
        "zeros take no disk"
    );
}

#[test]
fn the_total_is_limited_over_all_layers() {
    let tar = one([Entry::file("f", vec![1; 600_000])]);
    let limits = Limits {
        max_total_bytes: MIB,
        ..Limits::default()
    };
    assert!(build(vec![plain(&tar)], &limits).is_ok());
    let error = failure(vec![plain(&tar), plain(&tar)], &limits);
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[test]
fn a_size_that_lies_is_refused_before_any_space_is_taken() {
    let huge = one([Entry::file("f", "x").size(1 << 60)]);
    too_large(&huge, &Limits::default(), "uncompressed bytes");
    let header = Entry::file("f", "").size(10_000).header().to_vec();
    assert_eq!(kind_of(&header), ErrorKind::Corrupt);
    let pax = one([Entry::file("f", "x").pax("size", "999999")]);
    assert_eq!(kind_of(&pax), ErrorKind::Corrupt);
    let negative = one([Entry::file("f", "x").size(u64::MAX)]);
    assert_eq!(kind_of(&negative), ErrorKind::Corrupt);
}

#[test]
fn a_sparse_bomb_counts_its_holes() {
    let bomb = Entry::file("f", "")
        .pax("GNU.sparse.size", (1_u64 << 50).to_string())
        .pax("GNU.sparse.numblocks", "0")
        .pax("GNU.sparse.map", "0,0");
    too_large(&one([bomb]), &Limits::default(), "uncompressed bytes");
    let fine = Entry::file("f", "")
        .pax("GNU.sparse.size", (1_u64 << 30).to_string())
        .pax("GNU.sparse.map", "0,0");
    let mut file = tempfile::tempfile().unwrap();
    let tar = one([fine]);
    build_rootfs(
        [Ok(plain(&tar))],
        &[],
        &mut file,
        &Limits::default(),
        &|_| {},
    )
    .unwrap();
    assert!(
        file.metadata().unwrap().blocks() * 512 < MIB,
        "holes take no disk"
    );
}

#[test]
fn sparse_maps_that_lie_are_corrupt() {
    for map in ["0,10", "5,1,0,1", "0", "0,x", "18446744073709551615,2"] {
        let entry = Entry::file("f", "12")
            .pax("GNU.sparse.size", "10")
            .pax("GNU.sparse.map", map);
        assert_eq!(kind_of(&one([entry])), ErrorKind::Corrupt, "{map}");
    }
}

#[test]
fn a_sparse_map_without_end_is_refused() {
    let mut data = b"99999999\n".to_vec();
    data.extend(b"0\n0\n".repeat(1000));
    let entry = Entry::file("f", data)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", "10");
    too_large(&one([entry]), &Limits::default(), "parts");
    let mut header = Entry {
        kind: b'S',
        ..Entry::file("f", "")
    }
    .magic(b"ustar  \0")
    .header();
    header[386..410].copy_from_slice(b"00000000000 00000000000 ");
    header[482] = 1;
    seal(&mut header);
    let mut block = b"00000000000 00000000000 ".repeat(21);
    block.resize(512, 1);
    let endless = [header.to_vec(), block.repeat(60_000)].concat();
    too_large(&endless, &Limits::default(), "parts");
}

#[test]
fn entries_are_limited_and_implied_directories_count() {
    let limits = Limits {
        max_entries: 1000,
        ..Limits::default()
    };
    let many = one((0..1001).map(|n| Entry::file(format!("f{n}"), "")));
    too_large(&many, &limits, "1000 entries");
    let same = one((0..1001).map(|_| Entry::file("f", "")));
    too_large(&same, &limits, "1000 entries");
    let implied = one((0..40).map(|n| Entry::file(format!("{n}/{}f", "d/".repeat(30)), "")));
    too_large(&implied, &limits, "1000 entries");
}

#[test]
fn a_million_whiteouts_of_one_tree_take_linear_time() {
    // Quadratic work would be 4 * 10^9 steps here.
    let lower = one((0..20_000).map(|n| Entry::file(format!("d/{}/{n}", n % 100), "")));
    let touched = (0..20_000).map(|n| Entry::file(format!("d/{}/{n}", n % 100), ""));
    let whiteouts = (0..200_000).map(|n| {
        if n % 2 == 0 {
            opaque("d")
        } else {
            whiteout("d")
        }
    });
    let upper = one(touched.chain(whiteouts));
    let (stats, _) = build(vec![plain(&lower), plain(&upper)], &Limits::default()).unwrap();
    assert_eq!(stats.entries, 20_102);
}

#[test]
fn depth_is_limited_also_through_links() {
    let deep = |count: usize| "d/".repeat(count) + "f";
    let entry = |path: String| Entry::file("x", "").pax("path", path);
    assert!(build(vec![plain(&one([entry(deep(1023))]))], &Limits::default()).is_ok());
    too_large(
        &one([entry(deep(1024))]),
        &Limits::default(),
        "1024 components",
    );
    too_large(
        &one([entry(deep(10_000))]),
        &Limits::default(),
        "4096 bytes",
    );
    let path = deep(600);
    let through = one([
        entry(path.clone()),
        Entry::symlink("l", "").pax("linkpath", path.trim_end_matches("/f")),
        entry(format!("l/{path}")),
    ]);
    too_large(&through, &Limits::default(), "1024 components");
}

#[test]
fn a_path_that_expands_through_links_without_end_is_refused() {
    let mut entries = vec![Entry::dir("d")];
    for n in 1..=250 {
        let target = format!("{}l{}", "d/../".repeat(700), n - 1);
        entries.push(Entry::symlink(format!("l{n}"), "").pax("linkpath", target));
    }
    entries.push(Entry::file("l250/f", ""));
    too_large(&one(entries), &Limits::default(), "expands");
}

#[test]
fn long_names_and_extensions_are_limited() {
    let long = "n/".repeat(3000);
    too_large(
        &one([Entry::file("x", "").pax("path", &long)]),
        &Limits::default(),
        "4096 bytes",
    );
    too_large(
        &one([Entry::symlink("x", "").pax("linkpath", &long)]),
        &Limits::default(),
        "4096 bytes",
    );
    let endless = Entry::new(b'L', "x").size(1 << 40).header();
    too_large(&endless, &Limits::default(), "extension");
    let endless = Entry::new(b'x', "x").size(1 << 40).header();
    too_large(&endless, &Limits::default(), "extension");
    let huge = one([gnu_long(b'K', vec![b'a'; 2_000_000])]);
    too_large(&huge, &Limits::default(), "extension");
}

#[test]
fn attributes_are_limited() {
    let big = one([Entry::file("x", "").xattr("user.a", vec![1; 70_000])]);
    too_large(&big, &Limits::default(), "attributes");
    let many = (0..700).fold(Entry::file("x", ""), |entry, n| {
        entry.xattr(&format!("user.{n}"), [1; 100])
    });
    too_large(&one([many]), &Limits::default(), "attributes");
    let long_name = Entry::file("x", "").xattr(&format!("user.{}", "n".repeat(251)), "v");
    too_large(&one([long_name]), &Limits::default(), "too long");
}

#[test]
fn metadata_in_memory_is_limited_over_the_whole_image() {
    let limits = Limits {
        max_metadata_bytes: 100_000,
        ..Limits::default()
    };
    let links =
        one((0..30).map(|n| Entry::symlink(format!("l{n}"), "").pax("linkpath", "t".repeat(4000))));
    too_large(&links, &limits, "metadata bytes");
    let xattrs = one((0..30).map(|n| Entry::file(format!("f{n}"), "").xattr("user.a", [1; 4000])));
    too_large(&xattrs, &limits, "metadata bytes");
}

#[test]
fn an_archive_cut_anywhere_is_corrupt_or_ends_at_an_entry() {
    let tar = one([
        Entry::file("f", vec![7; 1000]).pax("mtime", "1.5"),
        Entry::dir("d"),
    ]);
    // Nothing; the file without its padding and with it; both entries; half an end mark.
    let whole = [0, 3 * 512 + 1000, 5 * 512, 6 * 512, 7 * 512];
    for len in 0..tar.len() {
        match build(vec![plain(&tar[..len])], &Limits::default()) {
            Ok(_) => assert!(whole.contains(&len), "cut at {len} went unnoticed"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {len}");
                assert!(!whole.contains(&len), "cut at {len}: {error:?}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_a_header_is_corrupt() {
    let tar = one([Entry::file("f", "1")]);
    // The checksum's own leading zero may be a space, and what follows its digits says nothing.
    for index in (0..148).chain(149..154).chain(156..512) {
        let mut broken = tar.clone();
        broken[index] ^= 0x10;
        assert_eq!(kind_of(&broken), ErrorKind::Corrupt, "byte {index}");
    }
}

#[test]
fn text_in_place_of_an_archive_is_corrupt() {
    assert_eq!(
        kind_of(&b"<html>404 not found</html>".repeat(100)),
        ErrorKind::Corrupt
    );
}

#[test]
fn broken_compression_is_corrupt() {
    let tar = one([Entry::file("f", vec![3; 500_000])]);
    let gzipped = gzip(&tar);
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let mut bad_sum = gzipped.clone();
    let end = bad_sum.len() - 6;
    bad_sum[end] ^= 1;
    for (bytes, compression) in [
        (gzipped[..gzipped.len() / 2].to_vec(), Compression::Gzip),
        (bad_sum, Compression::Gzip),
        ([gzipped, b"junk".to_vec()].concat(), Compression::Gzip),
        (zstd[..zstd.len() / 2].to_vec(), Compression::Zstd),
        ([zstd, b"junk".to_vec()].concat(), Compression::Zstd),
        (tar.clone(), Compression::Gzip),
        (tar.clone(), Compression::Zstd),
    ] {
        let error = failure(vec![packed(&bytes, compression, &tar)], &Limits::default());
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert!(
            std::error::Error::source(&error).is_some(),
            "the cause is kept"
        );
    }
}

#[test]
fn a_zstd_window_that_no_program_makes_is_corrupt() {
    // RFC 8878 §3.1.1.1.2: exponent 32 - 10 asks for 4 GiB; `zstd --long=31` makes half of it.
    let frame = [
        0x28,
        0xb5,
        0x2f,
        0xfd,
        0x00,
        (32 - 10) << 3,
        0x01,
        0x00,
        0x00,
    ];
    let layer = packed(&frame, Compression::Zstd, b"");
    assert_eq!(
        failure(vec![layer], &Limits::default()).kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn a_reader_that_fails_gives_its_error_as_the_cause() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the cable is cut",
            ))
        }
    }
    let layer = LayerSource {
        reader: Box::new(Failing),
        compression: Compression::None,
        diff_id: sha256(b""),
    };
    let error = failure(vec![layer], &Limits::default());
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.chain().contains("the cable is cut"), "{error:?}");
}

#[test]
fn a_reader_that_fails_with_a_kind_keeps_it() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(Error::new(
                ErrorKind::DigestMismatch,
                "The blob is another",
            )))
        }
    }
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let layer = LayerSource {
            reader: Box::new(Failing),
            compression,
            diff_id: sha256(b""),
        };
        let error = failure(vec![layer], &Limits::default());
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error:?}");
    }
}

#[test]
fn an_error_among_the_layers_ends_the_build_as_it_is() {
    let layers = [Err(Error::new(ErrorKind::NotFound, "The blob is gone"))];
    let mut file = tempfile::tempfile().unwrap();
    let error = build_rootfs(layers, &[], &mut file, &Limits::default(), &|_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn an_error_ends_the_decompressor_of_an_endless_layer() {
    struct Endless(Vec<u8>);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(self.0.len());
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0.drain(..len);
            buffer[len..].fill(0xff);
            Ok(buffer.len())
        }
    }
    let header = Entry::new(b'Z', "x").header().to_vec();
    let layer = LayerSource {
        reader: Box::new(Endless(header)),
        compression: Compression::None,
        diff_id: sha256(b""),
    };
    assert_eq!(
        failure(vec![layer], &Limits::default()).kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn a_full_disk_is_no_space() {
    let tar = one([Entry::file("f", vec![1; 5000])]);
    let mut full = fs::File::options().write(true).open("/dev/full").unwrap();
    // A device cannot be cut to length, which is the first thing to fail.
    let result = build_rootfs(
        [Ok(plain(&tar))],
        &[],
        &mut full,
        &Limits::default(),
        &|_| {},
    );
    assert!(matches!(
        result.unwrap_err().kind(),
        ErrorKind::Io | ErrorKind::NoSpace
    ));
}

#[test]
fn data_that_a_later_layer_hides_gives_its_disk_back() {
    let data: Vec<u8> = (0..4_000_000_u32)
        .map(|n| (n % 255 + 1).to_le_bytes()[0])
        .collect();
    let lower = one([
        Entry::file("big", &data),
        Entry::file("other", &data[..100_000]),
    ]);
    let upper = one([whiteout("big")]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let layers = [Ok(plain(&lower)), Ok(plain(&upper))];
    build_rootfs(layers, &[], file.as_file_mut(), &Limits::default(), &|_| {}).unwrap();
    let nodes = reader::read(&content(file.as_file()));
    assert_eq!(nodes.len(), 2);
    assert!(matches!(
        nodes[&b"other"[..]].what,
        What::File { size: 100_000, .. }
    ));
    let on_disk = file.as_file().metadata().unwrap().blocks() * 512;
    assert!(on_disk < MIB, "{on_disk} bytes on disk");
}

#[test]
fn progress_counts_the_uncompressed_bytes_of_all_layers() {
    let tar = one([Entry::file("f", vec![1; 600_000])]);
    let seen = Cell::new(0);
    let mut file = tempfile::tempfile().unwrap();
    let progress = |bytes| {
        assert!(bytes >= seen.get());
        seen.set(bytes);
    };
    let layers = [Ok(plain(&tar)), Ok(plain(&tar))];
    build_rootfs(layers, &[], &mut file, &Limits::default(), &progress).unwrap();
    assert_eq!(seen.get(), 2 * tar.len() as u64);
}
