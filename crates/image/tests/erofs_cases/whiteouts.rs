//! Whiteouts: what they remove, what they spare, and where they cannot reach.

use cofferdam_image::ErrorKind;

use crate::erofs_support::{
    case::layers,
    tar::{Entry, opaque, whiteout},
};

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
