//! Whole layers: every type, none at all, the root itself, types that change.

use cofferdam_image::{ErrorKind, Limits};

use crate::erofs_support::{
    build_with,
    case::layers,
    plain, reader,
    tar::{Entry, MTIME, Tar, whiteout},
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

#[test]
fn the_directories_of_volumes_are_made_where_no_layer_has_them() {
    let tar = Tar::new([
        Entry::dir("data").owner(1000, 1000),
        Entry::file("data/kept", "x"),
        Entry::file("file", "x"),
        Entry::symlink("link", "/target"),
        Entry::dir("srv").mode(0o2755).owner(0, 50),
    ])
    .end();
    let volumes = [
        "/data",
        "v2/",
        "/a/b/../c",
        "/link/in",
        "/file/x",
        "/srv/x",
        "/",
        "",
    ];
    let volumes = volumes.map(str::to_owned);
    let (_, image) = build_with(vec![plain(&tar)], &volumes, &Limits::default()).unwrap();
    let nodes = reader::read(&image);
    let of = |path: &str| nodes.get(path.as_bytes()).map(|n| (n.mode, n.uid, n.gid));
    assert_eq!(of("data"), Some((0o040_755, 1000, 1000)));
    for path in ["v2", "a", "a/c", "target", "target/in"] {
        assert_eq!(of(path), Some((0o040_755, 0, 0)), "{path}");
    }
    assert_eq!(of("srv/x"), Some((0o042_755, 0, 50)));
    assert_eq!((of("a/b"), of("file/x")), (None, None));
    assert!(nodes.contains_key(&b"data/kept"[..]));
}
