//! Content: sizes, large directories, odd types, sparse files, the archive's end.

use cofferdam_image::ErrorKind;

use crate::erofs_support::{
    What,
    case::{layers, raw},
    tar::{Entry, Tar, pax_record, seal},
};

#[test]
fn files_of_all_sizes_around_blocks_keep_their_content() {
    let sizes = [
        0, 1, 31, 32, 511, 512, 513, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 8193, 300_000,
    ];
    let entries = sizes
        .iter()
        .map(|&size| {
            let data: Vec<u8> = (0..size)
                .map(|index| u8::try_from(index % 251).unwrap())
                .collect();
            Entry::file(format!("f{size}"), data)
        })
        .chain([Entry::file("zeros", vec![0; 20_000])])
        .collect();
    let nodes = layers([entries]).builds();
    for size in sizes {
        let What::File { size: found, .. } = nodes[format!("f{size}").as_bytes()].what else {
            panic!("not a file");
        };
        assert_eq!(found, size);
    }
}

#[test]
fn a_large_directory_keeps_its_order() {
    let entries = (0..3000)
        .map(|n| Entry::file(format!("d/{}-{n}", "x".repeat(n % 83)), ""))
        .collect();
    assert_eq!(layers([entries]).builds().len(), 3002);
}

#[test]
fn directories_of_all_sizes_around_a_block_work() {
    // 12 bytes per entry and its name: `.` and `..` take 27, each of these 102.
    for count in [38, 39, 40, 78, 79, 80, 81] {
        let entries = (0..count).map(|n| Entry::file(format!("d/{n:090}"), "x"));
        assert_eq!(layers([entries.collect()]).builds().len(), count + 2);
    }
}

#[test]
fn many_names_of_one_file_work() {
    let links = (0..300).map(|n| Entry::hard_link(format!("l{n}"), "f"));
    let entries = std::iter::once(Entry::file("f", "1"))
        .chain(links)
        .collect();
    let nodes = layers([entries]).builds();
    assert_eq!(nodes[&b"f"[..]].links, 301);
}

#[test]
fn a_slash_at_the_end_tells_a_directory_in_old_archives_only() {
    layers([vec![
        Entry::new(0, "old/").mode(0o755),
        Entry::file("new/", "1"),
        Entry::new(0, "plain"),
    ]])
    .gives(&["new f 1", "old d", "plain f "]);
}

#[test]
fn types_without_data_have_none_whatever_they_claim() {
    layers([vec![
        Entry::dir("d").size(5000),
        Entry::symlink("l", "d").size(512),
        Entry::file("f", "1"),
        Entry::hard_link("h", "f").size(1024),
        Entry::new(b'6', "p").size(1),
    ]])
    .gives(&["d d", "f f 1", "h h f", "l l d", "p p"]);
}

#[test]
fn type_bits_in_the_mode_field_are_ignored() {
    let nodes = layers([vec![
        Entry::file("f", "1").mode(0o100_644),
        Entry::dir("d").mode(0o040_700),
    ]])
    .gives(&["d d", "f f 1"]);
    assert_eq!(nodes[&b"f"[..]].mode, 0o100_644);
}

#[test]
fn global_headers_are_passed_over() {
    let mut global = Entry::new(b'g', "pax_global_header");
    global.data = pax_record("comment", b"0123456789abcdef");
    layers([vec![global, Entry::file("f", "1")]])
        .unlike_umoci("it knows no such entry; `git archive` writes one")
        .gives(&["f f 1"]);
}

#[test]
fn unknown_types_are_unsupported() {
    for kind in [b'V', b'M', b'D', b'Z', 0xff] {
        layers([vec![Entry::new(kind, "x")]]).refused(ErrorKind::Unsupported);
    }
}

#[test]
fn device_numbers_that_linux_cannot_hold_are_corrupt() {
    layers([vec![Entry::device(b'3', "c", 4096, 0)]])
        .unlike_umoci("it cuts the number")
        .refused(ErrorKind::Corrupt);
    layers([vec![Entry::device(b'4', "b", 0, 1 << 20)]])
        .unlike_umoci("it cuts the number")
        .refused(ErrorKind::Corrupt);
}

#[test]
fn archives_may_end_without_an_end_mark_or_go_on_after_it() {
    let bare = Tar::new([Entry::file("f", "1")]).0;
    raw(vec![bare.clone()]).gives(&["f f 1"]);
    raw(vec![[bare.clone(), vec![0; 512]].concat()]).gives(&["f f 1"]);
    let junk = [bare.clone(), vec![0; 1024], b"trailing junk".to_vec()].concat();
    raw(vec![junk]).gives(&["f f 1"]);
    raw(vec![[bare, vec![0; 10_240]].concat()]).gives(&["f f 1"]);
    raw(vec![Vec::new()]).gives(&[]);
}

#[test]
fn sparse_files_of_every_format_are_expanded() {
    let content = [
        vec![0; 1000],
        vec![b'A'; 24],
        vec![0; 8000],
        vec![b'B'; 512],
        vec![0; 464],
    ]
    .concat();
    let stored = [vec![b'A'; 24], vec![b'B'; 512]].concat();
    let size = content.len().to_string();
    let by_record = Entry::file("v00", &stored)
        .pax("GNU.sparse.size", &size)
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.offset", "1000")
        .pax("GNU.sparse.numbytes", "24")
        .pax("GNU.sparse.offset", "9024")
        .pax("GNU.sparse.numbytes", "512");
    let by_list = Entry::file("GNUSparseFile.0/v01", &stored)
        .pax("GNU.sparse.name", "v01")
        .pax("GNU.sparse.size", &size)
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.map", "1000,24,9024,512");
    let mut text = b"2\n1000\n24\n9024\n512\n".to_vec();
    text.resize(512, 0);
    let in_data = Entry::file("GNUSparseFile.0/v10", [text, stored].concat())
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "v10")
        .pax("GNU.sparse.realsize", &size);
    let nodes = layers([vec![by_record, by_list, in_data]]).builds();
    let expected = What::File {
        size: content.len() as u64,
        sha256: crate::erofs_support::sha256(&content).hex(),
    };
    for name in ["v00", "v01", "v10"] {
        assert_eq!(nodes[name.as_bytes()].what, expected, "{name}");
    }
}

#[test]
fn old_gnu_sparse_files_are_expanded() {
    let stored = [vec![b'A'; 512], vec![b'B'; 100]].concat();
    let entry = Entry::file("s", &stored).magic(b"ustar  \0");
    let mut header = Entry {
        kind: b'S',
        ..entry.clone()
    }
    .header();
    for (index, (offset, len)) in [(0, 512), (2048, 100)].iter().enumerate() {
        let start = 386 + index * 24;
        header[start..start + 24]
            .copy_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
    }
    header[483..495].copy_from_slice(format!("{:011o}\0", 4096).as_bytes());
    seal(&mut header);
    let mut tar = Tar([header.to_vec(), stored].concat());
    tar.0.resize(tar.0.len().next_multiple_of(512), 0);
    tar.push(&Entry::file("after", "1"));
    let nodes = raw(vec![tar.end()])
        .unlike_umoci("it knows the PAX formats only")
        .builds();
    let content = [
        vec![b'A'; 512],
        vec![0; 1536],
        vec![b'B'; 100],
        vec![0; 1948],
    ]
    .concat();
    assert_eq!(
        nodes[&b"s"[..]].what,
        What::File {
            size: 4096,
            sha256: crate::erofs_support::sha256(&content).hex()
        }
    );
}
