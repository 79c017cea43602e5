//! The host's start, for what is right only until the next one.

/// The number that the kernel draws at each start, as text; `None` where `/proc` does not have it.
/// Source: proc_sys_kernel(5), `random/boot_id`.
#[must_use]
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    // It becomes part of a file's name.
    (id.len() == 36 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-')).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_number_is_a_uuid_and_stays() {
        let id = super::boot_id().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(super::boot_id(), Some(id));
    }
}
