//! Names on the way: dots, symbolic links and hard links, none of which leave the image.

use cofferdam_image::ErrorKind;

use crate::erofs_support::{case::layers, tar::Entry};

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
