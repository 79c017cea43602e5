//! What can be known to be wrong with a spec before anything is made.

use cofferdam_types::{ByteSize, LeaseSpec, OnTimeout, SandboxSpec, UpperSpec, valid_name};

use crate::base::error::{Error, ErrorKind, Result};

/// Kernel, agent and page tables take some 40 MiB; below this nothing useful is left.
const MIN_MEMORY_MIB: u64 = 64;

/// Refuses a spec that cannot work.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`].
pub(crate) fn spec(spec: &SandboxSpec) -> Result<()> {
    possible(spec)?;
    let targets = spec.tmpfs.iter().map(|mount| mount.target.as_str());
    if let Some(target) = targets.clone().find(|target| is_taken(target)) {
        return Err(invalid(format!("`{target}` cannot be a tmpfs"))
            .hint("A sandbox needs what is at /, /dev, /dev/pts, /proc and /sys"));
    }
    match &spec.limits.cpuset {
        Some(list) => cpuset(list, spec.cpus.vcpus()),
        None => Ok(()),
    }
}

/// Checks a spec for contradictions alone: what sandboxes have been made with.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`].
pub(crate) fn possible(spec: &SandboxSpec) -> Result<()> {
    names(spec)?;
    sizes(spec)?;
    paths(spec)?;
    lease(spec.lease)?;
    crate::network::check(&spec.network)?;
    secrets_beside_variables(spec)?;
    if spec
        .on_fork
        .as_deref()
        .is_some_and(|command| command.trim().is_empty())
    {
        return Err(invalid("The fork hook is an empty command".to_owned()));
    }
    let is_bad = |entry: &&String| !entry.contains('=') || entry.starts_with('=');
    match spec.env.iter().find(is_bad) {
        Some(bad) => Err(invalid(format!("`{bad}` is not `KEY=VALUE`"))),
        None => Ok(()),
    }
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::InvalidSpec, what)
}

fn names(spec: &SandboxSpec) -> Result<()> {
    let form = "Use letters, digits, `_`, `.` and `-`; start with a letter or digit; at most 63";
    for (name, what) in [
        (&spec.name, "a sandbox name"),
        (&spec.hostname, "a host name"),
    ] {
        if let Some(bad) = name.as_deref().filter(|name| !valid_name(name)) {
            return Err(invalid(format!("`{bad}` is not {what}")).hint(form));
        }
    }
    Ok(())
}

fn sizes(spec: &SandboxSpec) -> Result<()> {
    if let UpperSpec::Disk(size) = spec.upper
        && size.bytes() < cofferdam_disk::MIN_UPPER_BYTES
    {
        let least = ByteSize::from_bytes(cofferdam_disk::MIN_UPPER_BYTES);
        return Err(invalid(format!("A disk of {size} is too small"))
            .hint(format!("Give it at least {least}")));
    }
    if spec.memory.mib_rounded_up() < MIN_MEMORY_MIB {
        let what = format!("{} of memory is too little for a guest", spec.memory);
        return Err(invalid(what).hint(format!("Give it at least {MIN_MEMORY_MIB} MiB")));
    }
    crate::host::room::check_memory(u32::try_from(spec.memory.mib_rounded_up()).unwrap_or(u32::MAX))
}

fn lease(lease: LeaseSpec) -> Result<()> {
    let times = [lease.timeout, lease.idle_timeout];
    if times
        .into_iter()
        .flatten()
        .any(|time| time.as_millis() == 0)
    {
        return Err(invalid("A time-out is at least a millisecond".to_owned()));
    }
    if lease.on_timeout != OnTimeout::default() && !lease.has_timeout() {
        let what = "There is no time-out after which the sandbox could be paused";
        return Err(invalid(what.to_owned()).hint("Give it a time-out or an idle time-out"));
    }
    Ok(())
}

fn paths(spec: &SandboxSpec) -> Result<()> {
    let is_absolute = |path: &str| path.starts_with('/') && !path.contains('\0');
    let targets = spec.tmpfs.iter().map(|mount| mount.target.as_str());
    let mut all = targets.chain(spec.workdir.as_deref());
    match all.find(|path| !is_absolute(path)) {
        Some(path) => Err(invalid(format!("`{path}` is not an absolute path"))),
        None => Ok(()),
    }
}

/// Refuses a list of processors, such as `0-1,3`, that a sandbox with `vcpus` has not. Other forms
/// of it are the guest's kernel's to judge.
fn cpuset(list: &str, vcpus: u8) -> Result<()> {
    let mut numbers = list
        .split([',', '-'])
        .filter_map(|text| text.trim().parse::<u32>().ok());
    if numbers.all(|number| number < u32::from(vcpus)) {
        return Ok(());
    }
    let what = format!(
        "`{list}` names a processor that is not there: the sandbox has 0 to {}",
        vcpus.saturating_sub(1)
    );
    Err(Error::new(ErrorKind::InvalidSpec, what).hint("Give it more with `--cpus`"))
}

/// Whether a path is, by its words alone, one over which nothing may be mounted: the root, its
/// devices and terminals, and what is of the kernel's own file systems.
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
    matches!(
        parts.as_slice(),
        [] | ["dev"] | ["dev", "pts", ..] | ["proc" | "sys", ..]
    )
}

/// Refuses a variable that is a secret too: the program would get one of the two.
fn secrets_beside_variables(spec: &SandboxSpec) -> Result<()> {
    let is_variable = |name: &str| {
        let mut variables = spec.env.iter();
        variables.any(|variable| variable.split('=').next() == Some(name))
    };
    let mut secrets = spec.network.secrets.iter();
    match secrets.find(|secret| is_variable(&secret.name)) {
        None => Ok(()),
        Some(secret) => {
            let what = format!("`{}` is a variable and a secret", secret.name);
            Err(Error::new(ErrorKind::InvalidSpec, what).hint("Leave one of the two out"))
        }
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_types::SecretSpec;

    use super::*;

    #[test]
    fn only_processors_that_are_there_can_be_named() {
        for list in ["", "0", "1", "0-1", "0,1", "0, 1", "all", "0-1:1/2"] {
            assert!(cpuset(list, 2).is_ok(), "{list}");
        }
        for list in ["5", "0-2", "0, 2"] {
            let error = cpuset(list, 2).unwrap_err();
            assert!(error.hint_text().is_some(), "{list}: {error}");
        }
    }

    #[test]
    fn what_a_sandbox_needs_cannot_be_covered() {
        for path in [
            "/",
            "//",
            "/.",
            "/dev",
            "/dev/",
            "/dev/pts",
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
            // A secret that is a variable too, and one in a variable that Cofferdam reads.
            with(|spec| {
                spec.env = vec!["T=x".to_owned()];
                spec.network.secrets = vec![SecretSpec::parse("T:a.org").unwrap()];
            }),
            with(|spec| spec.network.secrets = vec![SecretSpec::parse("PATH:a.org").unwrap()]),
        ];
        assert!(
            all.iter().all(|kind| *kind == ErrorKind::InvalidSpec),
            "{all:?}"
        );
        assert!(super::spec(&SandboxSpec::default()).is_ok());
    }
}
