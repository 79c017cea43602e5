//! Layers, odd and ordinary, become the tree that `umoci unpack` makes of them.
//!
//! Each test gives entries and the whole expected tree; the image is also checked by
//! `fsck.erofs`, mounted by the host's kernel, and compared with `umoci`, where the host has them.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

#[path = "../erofs_support/mod.rs"]
mod erofs_support;

mod archives;
mod links;
mod metadata;
mod roots;
mod whiteouts;
