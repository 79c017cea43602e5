//! The smallest initramfs: the agent as `/init`.
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst ("newc").

/// An archive with `agent` as `/init`.
pub(crate) fn archive(agent: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    entry(&mut out, "init", 0o100_755, agent);
    entry(&mut out, "TRAILER!!!", 0, &[]);
    out
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let size = u32::try_from(data.len()).unwrap();
    let name_size = u32::try_from(name.len() + 1).unwrap();
    out.extend_from_slice(b"070701");
    // inode, mode, uid, gid, links, mtime, size, device and rdev numbers, length of name, checksum
    for field in [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}
