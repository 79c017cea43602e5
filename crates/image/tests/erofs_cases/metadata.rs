//! Names, times, owners and extended attributes in every dialect of tar.

use cofferdam_image::ErrorKind;

use crate::erofs_support::{
    What,
    case::{layers, raw},
    tar::{Entry, Tar, gnu_long, seal},
};

#[test]
fn long_names_come_from_every_dialect() {
    let long = |letter: char| letter.to_string().repeat(120);
    let (gnu, pax) = (long('g'), long('p'));
    layers([vec![
        gnu_long(b'L', &gnu),
        Entry::file("short", "1").magic(b"ustar  \0"),
        Entry::file("short", "2").pax("path", &pax),
        gnu_long(b'K', &gnu),
        Entry::symlink("link", "short").magic(b"ustar  \0"),
        Entry::hard_link("same", "short").pax("linkpath", &gnu),
    ]])
    .gives(&[
        &format!("{gnu} f 1"),
        &format!("link l {gnu}"),
        &format!("{pax} f 2"),
        &format!("same h {gnu}"),
    ]);
}

#[test]
fn the_prefix_field_is_read_where_the_dialect_has_one() {
    let with_prefix = |magic: &[u8; 8], prefix: &[u8]| {
        let mut block = Entry::file("name", "").magic(magic).header();
        block[345..345 + prefix.len()].copy_from_slice(prefix);
        seal(&mut block);
        Tar(block.to_vec()).end()
    };
    raw(vec![with_prefix(b"ustar\x0000", b"pre/fix")]).gives(&[
        "pre d",
        "pre/fix d",
        "pre/fix/name f ",
    ]);
    raw(vec![with_prefix(b"\0\0\0\0\0\0\0\0", b"pre")]).gives(&["name f "]);
    raw(vec![with_prefix(b"ustar  \0", b"0001234567\0")]).gives(&["name f "]);
    raw(vec![with_prefix(b"ustar  \0", b"buggy/go/writer")]).gives(&[
        "buggy d",
        "buggy/go d",
        "buggy/go/writer d",
        "buggy/go/writer/name f ",
    ]);
}

#[test]
fn names_are_bytes_and_case_counts() {
    layers([vec![
        Entry::file(b"\xff\xfe", "1"),
        Entry::file("A", "2"),
        Entry::file("a", "3"),
        Entry::file(" ", "4"),
        Entry::file("!before-dot", "5"),
        Entry::file("...", "6"),
        Entry::file("new\nline", "7"),
        Entry::file("ä", "8"),
    ]])
    .builds();
}

#[test]
fn the_longest_name_is_255_bytes() {
    let name = "n".repeat(255);
    layers([vec![Entry::file("x", "1").pax("path", &name)]]).gives(&[&format!("{name} f 1")]);
    layers([vec![Entry::file("x", "1").pax("path", "n".repeat(256))]]).refused(ErrorKind::TooLarge);
}

#[test]
fn the_longest_link_target_fits() {
    for len in [1, 100, 4000, 4031, 4032, 4033, 4095] {
        let target = "t".repeat(len);
        let nodes = layers([vec![Entry::symlink("l", "").pax("linkpath", &target)]]).builds();
        assert_eq!(nodes[&b"l"[..]].what, What::Symlink(target.into_bytes()));
    }
    layers([vec![
        Entry::symlink("l", "").pax("linkpath", "t".repeat(4096)),
    ]])
    .refused(ErrorKind::Corrupt);
    layers([vec![Entry::symlink("l", "")]]).refused(ErrorKind::Corrupt);
}

#[test]
fn a_nul_in_a_pax_path_is_corrupt() {
    layers([vec![Entry::file("x", "").pax("path", "a\0b")]]).refused(ErrorKind::Corrupt);
}

#[test]
fn dots_in_pax_and_gnu_names_stay_inside() {
    layers([vec![
        Entry::file("x", "1").pax("path", "../../../tmp/a"),
        gnu_long(b'L', "/../../tmp/b"),
        Entry::file("y", "2").magic(b"ustar  \0"),
    ]])
    .gives(&["tmp d", "tmp/a f 1", "tmp/b f 2"]);
}

#[test]
fn times_may_be_fractional_old_or_negative() {
    let nodes = layers([vec![
        Entry::file("fraction", "").pax("mtime", "1234567890.123456789"),
        Entry::file("negative", "").pax("mtime", "-1.5"),
        Entry::file("before-1970", "").mtime(-86_400),
        Entry::file("zero", "").mtime(0),
        Entry::symlink("link", "x").pax("mtime", "99.5"),
        Entry::dir("dir").pax("mtime", "1.000000001"),
    ]])
    .builds();
    assert_eq!(nodes[&b"fraction"[..]].mtime, (1_234_567_890, 123_456_789));
    assert_eq!(nodes[&b"negative"[..]].mtime, (-2, 500_000_000));
    assert_eq!(nodes[&b"before-1970"[..]].mtime, (-86_400, 0));
    assert_eq!(nodes[&b"zero"[..]].mtime, (0, 0));
    assert_eq!(nodes[&b"link"[..]].mtime, (99, 500_000_000));
}

#[test]
fn owners_may_come_from_pax_and_are_32_bits() {
    let nodes = layers([vec![
        Entry::file("pax", "")
            .pax("uid", "3000000000")
            .pax("gid", "7"),
        Entry::file("binary", "").owner(4_294_967_294, 2_097_152),
    ]])
    .builds();
    assert_eq!(nodes[&b"pax"[..]].uid, 3_000_000_000);
    assert_eq!(nodes[&b"binary"[..]].uid, 4_294_967_294);
}

#[test]
fn owners_are_read_as_chown_reads_them() {
    let nodes = layers([vec![
        Entry::file("mac", "").pax("uid", "-2").pax("gid", "-2"),
        Entry::file("no-change", "")
            .pax("uid", "-1")
            .pax("gid", "4294967295"),
        Entry::file("wide", "").owner((1 << 32) + 5, 7),
    ]])
    .builds();
    let owner = |name: &str| {
        let node = &nodes[name.as_bytes()];
        (node.uid, node.gid)
    };
    assert_eq!(owner("mac"), (4_294_967_294, 4_294_967_294));
    assert_eq!(owner("no-change"), (0, 0));
    assert_eq!(owner("wide"), (5, 7));
}

#[test]
fn attributes_of_all_kept_namespaces_come_through() {
    // Version 2 of security.capability (Linux capability.h): magic and flags, then two pairs.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let nodes = layers([vec![
        Entry::file("f", "x")
            .xattr("user.mime", "text")
            .xattr("trusted.t", b"\0\xff\n=")
            .xattr("security.capability", capability),
        Entry::dir("d").xattr("user.a", "1").xattr("user.b", "2"),
        Entry::symlink("l", "f").xattr("trusted.link", "1"),
        Entry::file("gone", "")
            .xattr("security.selinux", "x")
            .xattr("trusted.overlay.redirect", "/f"),
    ]])
    .builds();
    assert_eq!(nodes[&b"f"[..]].xattrs.len(), 3);
    assert_eq!(nodes[&b"l"[..]].xattrs.len(), 1);
    assert_eq!(nodes[&b"gone"[..]].xattrs, []);
}

#[test]
fn access_control_lists_come_through() {
    // Linux posix_acl_xattr.h: version, then (tag, permissions, id), little-endian.
    let entry = |tag: u16, permissions: u16, id: u32| {
        [
            &tag.to_le_bytes()[..],
            &permissions.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    };
    let acl = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 6, u32::MAX),
        entry(2, 4, 1000),
        entry(4, 4, u32::MAX),
        entry(16, 4, u32::MAX),
        entry(32, 4, u32::MAX),
    ]
    .concat();
    let nodes = layers([vec![
        Entry::file("f", "x")
            .mode(0o644)
            .xattr("system.posix_acl_access", &acl),
        Entry::dir("d").xattr("system.posix_acl_default", &acl),
    ]])
    .builds();
    assert_eq!(
        nodes[&b"f"[..]].xattrs,
        [("system.posix_acl_access".to_owned(), acl.clone())]
    );
    assert_eq!(
        nodes[&b"d"[..]].xattrs,
        [("system.posix_acl_default".to_owned(), acl)]
    );
}

#[test]
fn attributes_of_a_replaced_directory_entry_do_not_linger() {
    let nodes = layers([
        vec![Entry::dir("d").xattr("user.a", "1")],
        vec![Entry::dir("d")],
    ])
    .builds();
    assert_eq!(nodes[&b"d"[..]].xattrs, []);
}

#[test]
fn large_attributes_cross_blocks() {
    let value = |letter: u8, len: usize| vec![letter; len];
    let nodes = layers([vec![
        Entry::file("f", vec![7; 5000])
            .xattr("user.a", value(b'a', 3000))
            .xattr("user.b", value(b'b', 30_000))
            .xattr("user.c", value(b'c', 20_000)),
        Entry::dir("d").xattr("user.big", value(b'd', 9000)),
        Entry::dir("./").xattr("user.root", value(b'r', 20_000)),
        Entry::file("d/f", "1"),
    ]])
    .unlike_umoci("ext4 has no room for them")
    .builds();
    assert_eq!(nodes[&b"f"[..]].xattrs[1].1.len(), 30_000);
    assert_eq!(nodes[&b""[..]].xattrs[0].1.len(), 20_000);
}
