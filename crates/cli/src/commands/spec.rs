//! From the flags of `run` and `create` to the spec of a sandbox.

use std::collections::BTreeMap;

use cofferdam::{
    ByteSize, Error, ErrorKind, ParseValueError, ResourceLimits, Result, SandboxSpec, UpperSpec,
};

use super::{env, network};
use crate::args::{Cpus, Memory, SandboxArgs};

/// What the flags ask for; fails at the first that asks for what is not there.
pub(crate) fn spec(args: &SandboxArgs) -> Result<SandboxSpec> {
    if let Some((flag, hint)) = args.unsupported.refused() {
        return Err(unsupported(&format!("--{flag}")).hint(hint));
    }
    let default = SandboxSpec::default();
    let process = &args.process;
    let upper = match (args.read_only, args.disk) {
        (true, _) => UpperSpec::ReadOnly,
        (false, Some(size)) => UpperSpec::Disk(size),
        (false, None) => default.upper,
    };
    let entrypoint = args.entrypoint.as_deref().map(|program| match program {
        "" => Vec::new(),
        program => vec![program.to_owned()],
    });
    let tmpfs = args.tmpfs.iter().map(|text| value("--tmpfs", text));
    Ok(SandboxSpec {
        image: args.image().to_owned(),
        name: given(&args.name),
        hostname: given(&args.hostname),
        entrypoint,
        command: args.command().to_vec(),
        env: env::collect(&process.variables)?,
        workdir: given(&process.workdir),
        user: given(&process.user),
        labels: labels(&args.label),
        cpus: match args.cpus {
            Some(Cpus::Count(count)) => count,
            Some(Cpus::Default) | None => default.cpus,
        },
        memory: memory(args, default.memory)?,
        upper,
        tmpfs: tmpfs.collect::<Result<_>>()?,
        // Docker takes 0 for the default.
        shm_size: args
            .shm_size
            .filter(|size| size.bytes() != 0)
            .unwrap_or(default.shm_size),
        stop_signal: args.stop_signal,
        stop_timeout_s: args.stop_timeout.unwrap_or(default.stop_timeout_s),
        platform: args.platform.clone(),
        pull: args.pull.unwrap_or_default(),
        kernel: args.kernel.clone(),
        backend: args.backend.clone(),
        stdin: process.interactive,
        tty: process.tty,
        auto_remove: args.rm,
        on_fork: args.on_fork.clone(),
        no_warm: args.no_warm,
        keep_standby: false,
        limits: limits(args)?,
        privileges: args.privileges.privileges()?,
        init: args.privileges.init,
        lease: default.lease,
        network: network::spec(&args.network)?,
    })
}

/// As in Docker, an empty text is as if the flag was not given.
pub(super) fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

/// The guest's memory. A guest has no swap, so that a limit of both together is kept by any that is
/// not below the memory.
fn memory(args: &SandboxArgs, default: ByteSize) -> Result<ByteSize> {
    // Docker takes 0 for the default.
    let memory = args
        .memory
        .filter(|size| size.bytes() != 0)
        .unwrap_or(default);
    match args.memory_swap {
        Some(Memory::Size(both)) if both.bytes() != 0 && both < memory => {
            let what = format!("`--memory-swap {both}` is below the memory of {memory}");
            Err(invalid(what).hint("It is memory and swap together; a guest has no swap"))
        }
        _ => Ok(memory),
    }
}

fn unsupported(flag: &str) -> Error {
    let what = format!("`{flag}` is not supported in this version");
    Error::new(ErrorKind::Unsupported, what)
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::InvalidSpec, what)
}

/// `KEY=VALUE`, or `KEY` for an empty value; the last of a key counts.
pub(super) fn labels(texts: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    texts.iter().map(pair).collect()
}

/// Weights that cgroup v1 knows, which Docker's flag speaks in.
/// Source: Linux kernel/sched/core.c, MIN_SHARES and MAX_SHARES.
const CPU_SHARES: std::ops::RangeInclusive<u32> = 2..=262_144;

fn limits(args: &SandboxArgs) -> Result<ResourceLimits> {
    let pids = match args.pids_limit {
        None => None,
        // Docker: both mean no limit.
        Some(-1 | 0) => Some(0),
        Some(number) => Some(
            u32::try_from(number)
                .map_err(|_| invalid(format!("`{number}` is not a number of processes")))?,
        ),
    };
    // Docker takes 0 for the default.
    let cpu_shares = args.cpu_shares.filter(|shares| *shares != 0);
    if let Some(shares) = cpu_shares.filter(|shares| !CPU_SHARES.contains(shares)) {
        let (least, most) = (CPU_SHARES.start(), CPU_SHARES.end());
        return Err(invalid(format!(
            "`--cpu-shares {shares}` is not between {least} and {most}"
        )));
    }
    let rlimits = args.ulimit.iter().map(|text| value("--ulimit", text));
    Ok(ResourceLimits {
        pids,
        cpu_shares,
        cpu_quota_millis: None,
        cpuset: given(&args.cpuset_cpus),
        memory_reservation: args.memory_reservation.filter(|size| size.bytes() != 0),
        memory: None,
        rlimits: rlimits.collect::<Result<_>>()?,
    })
}

/// Reads the value of a flag; the error names the flag.
fn value<T: std::str::FromStr<Err = ParseValueError>>(flag: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error: ParseValueError| {
        let refused = invalid(format!("`{flag} {text}`: {error}"));
        match error.hint() {
            Some(hint) => refused.hint(hint),
            None => refused,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use cofferdam::{NetworkMode, NetworkSpec};

    use super::*;
    use crate::args::{Cli, Verb};

    fn parsed(line: &str) -> Result<SandboxSpec> {
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let cli = Cli::read(&line).unwrap();
        let Verb::Run(args) = cli.verb else {
            panic!("{line:?}")
        };
        spec(&args.sandbox)
    }

    #[test]
    fn a_shared_memory_of_no_size_has_the_default_one() {
        let spec = parsed("coffer run --shm-size 0 x").unwrap();
        assert_eq!(spec.shm_size, SandboxSpec::default().shm_size);
        let spec = parsed("coffer run --shm-size 1m x").unwrap();
        assert_eq!(spec.shm_size, ByteSize::from_mib(1));
    }

    #[test]
    fn what_is_empty_or_zero_is_as_if_not_given() {
        let line = "coffer run --cpus 0 -m 0 -w= -u= --name= --hostname= --cpuset-cpus= x";
        let expected = SandboxSpec {
            image: "x".to_owned(),
            ..SandboxSpec::default()
        };
        assert_eq!(parsed(line).unwrap(), expected);
        assert_eq!(parsed("coffer run --cpus 0.0 x").unwrap(), expected);
        assert_eq!(
            parsed("coffer run --cpus 0.5 x").unwrap().cpus,
            "0.5".parse().unwrap()
        );
    }

    #[test]
    fn memory_and_swap_together_are_not_below_the_memory() {
        for line in [
            "coffer run -m 1g --memory-swap 1g x",
            "coffer run -m 1g --memory-swap 2g x",
            "coffer run --memory-swap -1 x",
            "coffer run --memory-swap 0 x",
        ] {
            assert!(parsed(line).is_ok(), "{line}");
        }
        for line in [
            "coffer run -m 1g --memory-swap 512m x",
            "coffer run --memory-swap 64m x",
        ] {
            assert_eq!(
                parsed(line).unwrap_err().kind(),
                ErrorKind::InvalidSpec,
                "{line}"
            );
        }
    }

    #[test]
    fn a_limit_of_processes_differs_from_none_and_from_the_default() {
        let default = parsed("coffer run -c 0 x").unwrap().limits;
        assert_eq!(default, ResourceLimits::default());
        for line in [
            "coffer run --pids-limit -1 x",
            "coffer run --pids-limit 0 -c 0 x",
        ] {
            assert_eq!(parsed(line).unwrap().limits.pids, Some(0));
        }
        let limits = parsed("coffer run --pids-limit 9 -c 512 --cpuset-cpus 0 x")
            .unwrap()
            .limits;
        assert_eq!((limits.pids, limits.cpu_shares), (Some(9), Some(512)));
        for line in ["coffer run --pids-limit -2 x", "coffer run -c 1 x"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn an_empty_entrypoint_clears_and_flags_are_carried_over() {
        let line = ["coffer", "run", "--entrypoint", "", "-it", "x", "a"].map(OsString::from);
        let Verb::Run(args) = Cli::read(&line).unwrap().verb else {
            panic!()
        };
        let spec = spec(&args.sandbox).unwrap();
        assert_eq!(spec.entrypoint, Some(Vec::new()));
        assert!(spec.stdin && spec.tty && !spec.auto_remove);
        assert_eq!(
            (spec.image.as_str(), spec.command),
            ("x", vec!["a".to_owned()])
        );
    }

    #[test]
    fn what_is_missing_is_refused_by_name() {
        for (line, name) in [
            ("coffer run --device /dev/null x", "`--device`"),
            ("coffer run -v /a:/b x", "`--volume`"),
        ] {
            let error = parsed(line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(name), "{error}");
            assert!(error.hint_text().is_some());
        }
    }

    #[test]
    fn there_is_a_network_unless_it_is_refused() {
        let network = |line: &str| parsed(line).unwrap().network;
        assert_eq!(network("coffer run x"), NetworkSpec::default());
        assert!(network("coffer run --network none x").is_none());
        let all = network("coffer run -P --mac-address 02:00:00:00:00:09 x");
        assert_eq!(all.mode, NetworkMode::Default);
        assert!(all.publish_all && all.mac.is_some());
        let rates = network("coffer run --rate-up 10k --rate-down 0 x");
        assert_eq!(rates.rate_up, Some(ByteSize::from_bytes(10 << 10)));
        assert_eq!(rates.rate_down, None);
        let capture = network("coffer run --net-capture f x").capture.unwrap();
        assert!(capture.is_absolute() && capture.ends_with("f"));
        assert!(parsed("coffer run --network none -P x").is_err());
    }

    #[test]
    fn labels_may_lack_a_value() {
        let spec = parsed("coffer run -l a=b=c -l d x").unwrap();
        let labels: Vec<_> = spec
            .labels
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(labels, [("a", "b=c"), ("d", "")]);
    }
}
