//! Layers, odd and ordinary, become the tree that `umoci unpack` makes of them.
//!
//! Each test gives entries and the whole expected tree; the image is also checked by
//! `fsck.erofs`, mounted by the host's kernel, and compared with `umoci`, where the host has them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod erofs_support;

use cofferdam_image::ErrorKind;
use erofs_support::{
    What,
    case::{layers, raw},
    tar::{Entry, MTIME, Tar, gnu_long, opaque, pax_record, seal, whiteout},
};

#[test]
fn a_layer_of_every_type_comes_through() {
    let nodes = layers([vec![
        Entry::dir("./").mode(0o755),
        Entry::dir("d").mode(0o1777).owner(1000, 1001),
        Entry::file("d/f", "content")
            .mode(0o6755)
            .owner(70_000, 4_000_000_000),
        Entry::file("empty", "").mode(0),
        Entry::symlink("l", "d/f").owner(3, 4),
        Entry::hard_link("h", "d/f"),
        Entry::device(b'3', "null", 1, 3).mode(0o666),
        Entry::device(b'3', "zero-zero", 0, 0),
        Entry::device(b'4', "disk", 4095, 1_048_575),
        Entry::new(b'6', "pipe"),
    ]])
    .gives(&[
        "d d",
        "d/f f content",
        "disk b 4095:1048575",
        "empty f ",
        "h h d/f",
        "l l d/f",
        "null c 1:3",
        "pipe p",
        "zero-zero c 0:0",
    ]);
    assert_eq!(nodes[&b"d/f"[..]].mode, 0o106_755);
    assert_eq!(nodes[&b"d/f"[..]].gid, 4_000_000_000);
    assert_eq!(nodes[&b"h"[..]].links, 2);
    assert_eq!(nodes[&b"d"[..]].mode, 0o041_777);
}

#[test]
fn no_layers_make_an_empty_root() {
    let nodes = layers([]).gives(&[]);
    let root = &nodes[&b""[..]];
    assert_eq!((root.mode, root.uid, root.mtime), (0o040_755, 0, (0, 0)));
}

#[test]
fn the_root_takes_metadata_from_its_entry() {
    let nodes = layers([vec![
        Entry::dir("./")
            .mode(0o700)
            .owner(5, 6)
            .xattr("user.a", "b"),
    ]])
    .gives(&[]);
    let root = &nodes[&b""[..]];
    assert_eq!((root.mode, root.uid, root.gid), (0o040_700, 5, 6));
    assert_eq!(root.xattrs, [("user.a".to_owned(), b"b".to_vec())]);
}

#[test]
fn the_root_cannot_become_something_else() {
    layers([vec![Entry::symlink("/", "/etc")]]).refused(ErrorKind::Corrupt);
    layers([vec![Entry::file("x/..", "")]]).refused(ErrorKind::Corrupt);
}

#[test]
fn a_whiteout_removes_a_file_a_link_and_a_directory() {
    layers([
        vec![
            Entry::file("f", "1"),
            Entry::symlink("l", "f"),
            Entry::dir("d"),
            Entry::file("d/x", "2"),
            Entry::file("stay", "3"),
        ],
        vec![whiteout("f"), whiteout("l"), whiteout("d")],
    ])
    .gives(&["stay f 3"]);
}

#[test]
fn a_whiteout_of_nothing_is_fine() {
    layers([
        vec![Entry::file("f", "1")],
        vec![whiteout("none"), whiteout("no/dir/x"), whiteout("f/x")],
    ])
    .gives(&["f f 1"]);
}

#[test]
fn a_whiteout_spares_its_own_layer_whatever_the_order() {
    layers([
        vec![
            Entry::dir("d"),
            Entry::file("d/old", "1"),
            Entry::file("f", "1"),
        ],
        vec![
            Entry::file("f", "2"),
            Entry::file("d/new", "2"),
            whiteout("f"),
            whiteout("d"),
        ],
    ])
    .gives(&["d d", "d/new f 2", "f f 2"]);
}

#[test]
fn an_opaque_whiteout_spares_its_own_layer_whatever_the_order() {
    layers([
        vec![
            Entry::dir("d"),
            Entry::dir("d/sub"),
            Entry::file("d/sub/old", "1"),
            Entry::file("d/old", "1"),
        ],
        vec![
            Entry::dir("d"),
            Entry::file("d/before", "2"),
            opaque("d"),
            Entry::file("d/sub/after", "2"),
        ],
    ])
    .gives(&["d d", "d/before f 2", "d/sub d", "d/sub/after f 2"]);
}

#[test]
fn an_opaque_whiteout_reaches_into_touched_directories() {
    layers([
        vec![
            Entry::dir("d"),
            Entry::dir("d/sub"),
            Entry::file("d/sub/old", "1"),
        ],
        vec![
            Entry::file("d/sub/new", "2"),
            opaque("d"),
            opaque("d/sub"),
            opaque("d"),
        ],
    ])
    .gives(&["d d", "d/sub d", "d/sub/new f 2"]);
}

#[test]
fn an_opaque_whiteout_of_the_root_clears_the_image() {
    layers([
        vec![Entry::file("a", "1"), Entry::file("b/c", "1")],
        vec![Entry::file("b/d", "2"), Entry::file(".wh..wh..opq", "")],
    ])
    .gives(&["b d", "b/d f 2"]);
}

#[test]
fn an_opaque_whiteout_of_a_file_or_of_nothing_is_fine() {
    layers([
        vec![Entry::file("f", "1")],
        vec![opaque("f"), opaque("none")],
    ])
    .gives(&["f f 1"]);
}

#[test]
fn a_whiteout_in_the_same_layer_cannot_remove_a_replaced_file() {
    layers([
        vec![Entry::file("x", "1")],
        vec![
            Entry::dir("x"),
            Entry::file("x/y", "2"),
            whiteout("x/y"),
            whiteout("x"),
        ],
        vec![Entry::file("z", "3")],
    ])
    .gives(&["x d", "x/y f 2", "z f 3"]);
}

#[test]
fn a_whiteout_through_a_link_acts_where_the_link_leads() {
    layers([
        vec![
            Entry::dir("real"),
            Entry::file("real/victim", "1"),
            Entry::file("real/other", "1"),
            Entry::symlink("x", "/real"),
        ],
        vec![Entry::file("x/.wh.victim", "")],
    ])
    .gives(&["real d", "real/other f 1", "x l /real"]);
}

#[test]
fn a_whiteout_through_a_link_to_the_root_stays_inside() {
    layers([
        vec![
            Entry::symlink("x", "/"),
            Entry::symlink("up", "../../.."),
            Entry::file("etc/passwd", "1"),
        ],
        vec![Entry::file("x/.wh.etc", ""), Entry::file("up/.wh.tmp", "")],
    ])
    .gives(&["up l ../../..", "x l /"]);
}

#[test]
fn a_whiteout_may_be_of_any_type() {
    layers([
        vec![Entry::file("a", "1"), Entry::file("b", "1")],
        vec![Entry::dir(".wh.a"), Entry::symlink(".wh.b", "x")],
    ])
    .gives(&[]);
}

#[test]
fn whiteouts_that_name_the_directory_or_its_parent_are_corrupt() {
    for name in ["d/.wh.", "d/.wh..", "d/.wh..."] {
        layers([vec![Entry::dir("d")], vec![Entry::file(name, "")]])
            .unlike_umoci("it removes the directory, or its parent")
            .refused(ErrorKind::Corrupt);
    }
}

#[test]
fn other_names_with_two_whiteout_prefixes_hide_nothing() {
    layers([
        vec![Entry::file("f", "1")],
        vec![Entry::dir(".wh..wh.plnk"), Entry::file(".wh..wh.orph", "")],
    ])
    .gives(&["f f 1"]);
}

#[test]
fn a_directory_over_a_directory_keeps_children_and_changes_metadata() {
    let nodes = layers([
        vec![
            Entry::dir("d").xattr("user.old", "1"),
            Entry::file("d/f", "1"),
        ],
        vec![
            Entry::dir("d")
                .mode(0o711)
                .owner(9, 9)
                .mtime(5)
                .xattr("user.new", "2"),
        ],
    ])
    .gives(&["d d", "d/f f 1"]);
    let node = &nodes[&b"d"[..]];
    assert_eq!((node.mode, node.uid, node.mtime), (0o040_711, 9, (5, 0)));
    assert_eq!(node.xattrs, [("user.new".to_owned(), b"2".to_vec())]);
}

#[test]
fn types_change_both_ways() {
    layers([
        vec![
            Entry::file("a", "1"),
            Entry::dir("b"),
            Entry::file("b/x", "1"),
            Entry::symlink("c", "b"),
        ],
        vec![
            Entry::dir("a"),
            Entry::file("a/new", "2"),
            Entry::file("b", "2"),
            Entry::dir("c"),
            Entry::file("c/new", "2"),
        ],
    ])
    .gives(&["a d", "a/new f 2", "b f 2", "c d", "c/new f 2"]);
}

#[test]
fn a_later_duplicate_wins() {
    layers([vec![
        Entry::file("f", "first"),
        Entry::file("./f", "second"),
        Entry::file("//f", "third"),
    ]])
    .gives(&["f f third"]);
}

#[test]
fn a_replaced_file_leaves_its_other_names_alone() {
    layers([
        vec![
            Entry::file("a", "1"),
            Entry::hard_link("b", "a"),
            Entry::hard_link("c", "a"),
        ],
        vec![Entry::file("a", "2"), whiteout("b")],
    ])
    .gives(&["a f 2", "c f 1"]);
}

#[test]
fn missing_parents_are_made() {
    let nodes = layers([vec![Entry::file("a/b/c/f", "1").mode(0o600)]]).gives(&[
        "a d",
        "a/b d",
        "a/b/c d",
        "a/b/c/f f 1",
    ]);
    assert_eq!(nodes[&b"a/b"[..]].mode, 0o040_755);
    assert_eq!(nodes[&b"a/b"[..]].mtime, (0, 0));
}

#[test]
fn missing_parents_inherit_the_group_of_a_set_group_id_directory() {
    let nodes = layers([vec![
        Entry::dir("shared").mode(0o2775).owner(0, 50),
        Entry::file("shared/a/b/f", "1"),
    ]])
    .builds();
    let node = &nodes[&b"shared/a/b"[..]];
    assert_eq!((node.mode, node.gid), (0o042_755, 50));
    assert_eq!(nodes[&b"shared/a/b/f"[..]].gid, 0);
}

#[test]
fn a_new_child_does_not_change_its_parents_time() {
    let nodes = layers([
        vec![Entry::dir("d").mtime(7)],
        vec![Entry::file("d/f", "1"), whiteout("d/g")],
    ])
    .gives(&["d d", "d/f f 1"]);
    assert_eq!(nodes[&b"d"[..]].mtime, (7, 0));
}

#[test]
fn parents_may_come_after_their_children() {
    let nodes = layers([vec![
        Entry::file("d/f", "1"),
        Entry::dir("d").mode(0o700).mtime(9),
    ]])
    .gives(&["d d", "d/f f 1"]);
    assert_eq!(
        (nodes[&b"d"[..]].mode, nodes[&b"d"[..]].mtime),
        (0o040_700, (9, 0))
    );
}

#[test]
fn dots_and_slashes_in_names_are_cleaned() {
    layers([vec![
        Entry::file("./a", "1"),
        Entry::file("/b", "2"),
        Entry::file("x//./y/../c", "3"),
        Entry::file("../../d", "4"),
        Entry::file("/../e/", "5"),
        Entry::dir("../f/."),
    ]])
    .gives(&["a f 1", "b f 2", "d f 4", "e f 5", "f d", "x d", "x/c f 3"]);
}

#[test]
fn a_relative_link_on_the_way_is_followed_inside() {
    layers([
        vec![
            Entry::dir("usr"),
            Entry::dir("usr/lib"),
            Entry::symlink("lib", "usr/lib"),
        ],
        vec![
            Entry::file("lib/x", "2"),
            Entry::dir("lib/sub"),
            Entry::file("lib/sub/y", "3"),
        ],
    ])
    .gives(&[
        "lib l usr/lib",
        "usr d",
        "usr/lib d",
        "usr/lib/sub d",
        "usr/lib/sub/y f 3",
        "usr/lib/x f 2",
    ]);
}

#[test]
fn an_absolute_link_on_the_way_starts_at_the_images_root() {
    layers([vec![
        Entry::symlink("esc", "/tmp/canary"),
        Entry::file("esc/pwned", "1"),
    ]])
    .gives(&[
        "esc l /tmp/canary",
        "tmp d",
        "tmp/canary d",
        "tmp/canary/pwned f 1",
    ]);
}

#[test]
fn chained_links_with_dots_stay_inside() {
    layers([vec![
        Entry::dir("a"),
        Entry::symlink("a/up", "../../../.."),
        Entry::symlink("b", "a/up/../a"),
        Entry::file("b/up/etc/shadow", "1"),
    ]])
    .gives(&[
        "a d",
        "a/up l ../../../..",
        "b l a/up/../a",
        "etc d",
        "etc/shadow f 1",
    ]);
}

#[test]
fn a_dangling_link_on_the_way_makes_its_target() {
    layers([vec![
        Entry::symlink("x", "not/there"),
        Entry::file("x/f", "1"),
    ]])
    .gives(&["not d", "not/there d", "not/there/f f 1", "x l not/there"]);
}

#[test]
fn a_dangling_link_with_dots_is_taken_by_name() {
    layers([vec![
        Entry::symlink("x", "ghost/../real"),
        Entry::file("x/f", "1"),
    ]])
    .gives(&["real d", "real/f f 1", "x l ghost/../real"]);
}

#[test]
fn a_loop_of_links_on_the_way_is_corrupt() {
    layers([vec![
        Entry::symlink("a", "b"),
        Entry::symlink("b", "a"),
        Entry::file("a/f", "1"),
    ]])
    .refused(ErrorKind::Corrupt);
    layers([vec![
        Entry::symlink("self", "self"),
        Entry::file("self/f", "1"),
    ]])
    .refused(ErrorKind::Corrupt);
}

#[test]
fn an_entry_replaces_a_link_and_not_its_target() {
    layers([
        vec![Entry::file("target", "1"), Entry::symlink("x", "target")],
        vec![Entry::file("x", "2")],
    ])
    .gives(&["target f 1", "x f 2"]);
}

#[test]
fn a_file_as_a_parent_is_corrupt() {
    layers([vec![Entry::file("f", "1"), Entry::file("f/x", "2")]]).refused(ErrorKind::Corrupt);
    layers([vec![Entry::file("f", "1")], vec![Entry::dir("f/x/y")]]).refused(ErrorKind::Corrupt);
}

#[test]
fn a_hard_link_to_a_lower_layer_shares_the_inode() {
    layers([
        vec![Entry::file("a", "1")],
        vec![Entry::hard_link("z/b", "a"), Entry::hard_link("c", "/a")],
    ])
    .gives(&["a f 1", "c h a", "z d", "z/b h a"]);
}

#[test]
fn a_hard_link_to_a_link_shares_the_link() {
    layers([vec![
        Entry::symlink("l", "gone"),
        Entry::hard_link("m", "l"),
    ]])
    .gives(&["l l gone", "m h l"]);
}

#[test]
fn a_hard_link_resolves_the_parents_of_its_target_inside() {
    layers([vec![
        Entry::dir("usr"),
        Entry::file("usr/f", "1"),
        Entry::symlink("u", "/usr"),
        Entry::hard_link("a", "u/f"),
        Entry::hard_link("b", "../../u/../u/f"),
    ]])
    .gives(&["a f 1", "b h a", "u l /usr", "usr d", "usr/f h a"]);
}

#[test]
fn hard_links_to_special_files_work() {
    layers([vec![
        Entry::device(b'3', "c", 5, 1),
        Entry::hard_link("c2", "c"),
        Entry::new(b'6', "p"),
        Entry::hard_link("p2", "p"),
    ]])
    .gives(&["c c 5:1", "c2 h c", "p p", "p2 h p"]);
}

#[test]
fn hard_links_to_nothing_to_directories_and_to_themselves_are_corrupt() {
    layers([vec![Entry::hard_link("h", "none")]]).refused(ErrorKind::Corrupt);
    layers([vec![Entry::hard_link("h", "/etc/passwd")]]).refused(ErrorKind::Corrupt);
    layers([vec![Entry::dir("d"), Entry::hard_link("h", "d")]]).refused(ErrorKind::Corrupt);
    layers([vec![Entry::hard_link("h", "../..")]]).refused(ErrorKind::Corrupt);
    layers([vec![Entry::file("f", "1"), Entry::hard_link("f", "f")]]).refused(ErrorKind::Corrupt);
}

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
    layers([vec![Entry::file("f", "").owner(1 << 32, 0)]])
        .unlike_umoci("it keeps the low 32 bits")
        .refused(ErrorKind::Corrupt);
    layers([vec![Entry::file("f", "").pax("uid", "-1")]])
        .unlike_umoci("it takes -1 for no change")
        .refused(ErrorKind::Corrupt);
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
        sha256: erofs_support::sha256(&content).hex(),
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
            sha256: erofs_support::sha256(&content).hex()
        }
    );
}

#[test]
fn three_layers_build_on_each_other() {
    let nodes = layers([
        vec![
            Entry::dir("etc"),
            Entry::file("etc/a", "1"),
            Entry::file("etc/b", "1"),
            Entry::symlink("bin", "usr/bin"),
        ],
        vec![
            whiteout("etc/a"),
            Entry::file("bin/sh", "2").mode(0o755),
            Entry::hard_link("bin/bash", "usr/bin/sh"),
        ],
        vec![
            Entry::file("etc/a", "3"),
            whiteout("bin"),
            Entry::file("usr/bin/bash", "3"),
        ],
    ])
    .gives(&[
        "etc d",
        "etc/a f 3",
        "etc/b f 1",
        "usr d",
        "usr/bin d",
        "usr/bin/bash f 3",
        "usr/bin/sh f 2",
    ]);
    assert_eq!(nodes[&b"etc"[..]].mtime, (MTIME, 0));
}
