//! Inputs shared by this crate's unit tests.

use std::path::{Path, PathBuf};

use cofferdam_backend::{MachineSpec, NetworkInterface};

/// A spec without disks whose files are in `dir`.
pub(crate) fn spec(dir: &Path) -> MachineSpec {
    let file = |name: &str| dir.join(name).display().to_string();
    let text = format!(
        r#"{{"id":"{}","vcpus":1,"memory_mib":256,"kernel":"{}","console_log":"{}","vmm_log":"{}","run_dir":"{}"}}"#,
        "ab".repeat(32),
        file("vmlinux"),
        file("console.log"),
        file("vmm.log"),
        dir.display(),
    );
    serde_json::from_str(&text).unwrap()
}

/// A network interface.
pub(crate) fn network() -> NetworkInterface {
    serde_json::from_str(r#"{"mac":"02:00:00:00:00:01","mtu":1500}"#).unwrap()
}

/// A file that is a kernel as far as its headers go.
pub(crate) fn kernel(dir: &Path) -> PathBuf {
    let mut elf = vec![0; 0x400];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18..20].copy_from_slice(&62_u16.to_le_bytes());
    elf[32..40].copy_from_slice(&64_u64.to_le_bytes());
    elf[56..58].copy_from_slice(&1_u16.to_le_bytes());
    // One PT_NOTE segment at 0x100.
    elf[64..68].copy_from_slice(&4_u32.to_le_bytes());
    elf[72..80].copy_from_slice(&0x100_u64.to_le_bytes());
    elf[96..104].copy_from_slice(&0x14_u64.to_le_bytes());
    for (index, word) in [4_u32, 4, 18].into_iter().enumerate() {
        let at = 0x100 + index * 4;
        elf[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    elf[0x10c..0x110].copy_from_slice(b"Xen\0");
    let path = dir.join("vmlinux");
    std::fs::write(&path, elf).unwrap();
    path
}
