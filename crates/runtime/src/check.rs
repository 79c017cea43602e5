//! What can be known to be wrong with a spec before anything is made.

use cofferdam_types::{SandboxSpec, UpperSpec, valid_name};

use crate::error::{Error, ErrorKind, Result};

/// Kernel, agent and page tables take some 40 MiB; below this nothing useful is left.
const MIN_MEMORY_MIB: u64 = 64;

/// Refuses a spec that cannot work.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`].
pub(crate) fn spec(spec: &SandboxSpec) -> Result<()> {
    let invalid = |what: String| Err(Error::new(ErrorKind::InvalidSpec, what));
    if let Some(name) = spec.name.as_deref().filter(|name| !valid_name(name)) {
        return Err(Error::new(
            ErrorKind::InvalidSpec,
            format!("`{name}` is not a sandbox name"),
        )
        .hint("Use letters, digits, `_`, `.` and `-`; start with a letter or digit; at most 63"));
    }
    if let Some(bad) = spec.hostname.as_deref().filter(|name| !valid_name(name)) {
        return invalid(format!("`{bad}` is not a host name"));
    }
    if let UpperSpec::Disk(size) = spec.upper
        && size.bytes() < cofferdam_disk::MIN_UPPER_BYTES
    {
        return invalid(format!("A disk of {size} is too small"));
    }
    if spec.memory.mib_rounded_up() < MIN_MEMORY_MIB {
        return Err(Error::new(
            ErrorKind::InvalidSpec,
            format!("{} of memory is too little for a guest", spec.memory),
        )
        .hint(format!("Give it at least {MIN_MEMORY_MIB} MiB")));
    }
    crate::room::check_memory(u32::try_from(spec.memory.mib_rounded_up()).unwrap_or(u32::MAX))?;
    let path = |path: &str| path.starts_with('/') && !path.contains('\0');
    if let Some(mount) = spec.tmpfs.iter().find(|mount| !path(&mount.target)) {
        return invalid(format!("`{}` is not an absolute path", mount.target));
    }
    if let Some(mount) = spec.tmpfs.iter().find(|mount| is_taken(&mount.target)) {
        return invalid(format!("`{}` cannot be a tmpfs", mount.target))
            .map_err(|error| error.hint("A sandbox needs what is at /, /dev, /proc and /sys"));
    }
    if let Some(workdir) = spec.workdir.as_deref().filter(|workdir| !path(workdir)) {
        return invalid(format!("`{workdir}` is not an absolute path"));
    }
    if let Some(bad) = spec
        .env
        .iter()
        .find(|entry| !entry.contains('=') || entry.starts_with('='))
    {
        return invalid(format!("`{bad}` is not `KEY=VALUE`"));
    }
    Ok(())
}

/// Whether a path is, by its words alone, one over which nothing may be mounted: the root, what
/// the agent mounts, and what is below the file systems of the kernel.
fn is_taken(path: &str) -> bool {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    matches!(parts.as_slice(), [] | ["dev"] | ["proc" | "sys", ..])
}

#[cfg(test)]
mod tests {
    use cofferdam_types::ByteSize;

    use super::*;

    #[test]
    fn what_a_sandbox_needs_cannot_be_covered() {
        for path in [
            "/",
            "//",
            "/.",
            "/dev",
            "/dev/",
            "/a/../proc",
            "/proc/sys",
            "/sys/fs/cgroup",
            "/../",
        ] {
            assert!(is_taken(path), "{path}");
        }
        for path in ["/dev/shm", "/run", "/procs", "/proc/../tmp", "/tmp/proc"] {
            assert!(!is_taken(path), "{path}");
        }
    }

    #[test]
    fn specs_that_cannot_work_are_refused_before_anything_is_made() {
        let with = |change: fn(&mut SandboxSpec)| {
            let mut spec = SandboxSpec {
                image: "x".to_owned(),
                ..SandboxSpec::default()
            };
            change(&mut spec);
            super::spec(&spec).unwrap_err().kind()
        };
        let all = [
            with(|spec| spec.name = Some("a b".to_owned())),
            with(|spec| spec.hostname = Some("a/b".to_owned())),
            with(|spec| spec.memory = ByteSize::from_mib(1)),
            with(|spec| spec.memory = ByteSize::from_bytes(u64::MAX)),
            with(|spec| spec.upper = UpperSpec::Disk(ByteSize::from_mib(1))),
            with(|spec| spec.workdir = Some("tmp".to_owned())),
            with(|spec| spec.env = vec!["=x".to_owned()]),
        ];
        assert!(
            all.iter().all(|kind| *kind == ErrorKind::InvalidSpec),
            "{all:?}"
        );
        assert!(super::spec(&SandboxSpec::default()).is_ok());
    }
}
