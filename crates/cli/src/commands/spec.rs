//! From the flags of `run` and `create` to the spec of a sandbox.

use std::collections::BTreeMap;

use cofferdam::{
    ByteSize, Error, ErrorKind, NetworkMode, NetworkSpec, PortMapping, ResourceLimits, Result,
    Rlimit, SandboxSpec, TmpfsMount, UpperSpec,
};

use super::env;
use crate::args::{Cpus, Memory, NetworkArgs, SandboxArgs};

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
    let tmpfs = args.tmpfs.iter().map(|text| tmpfs(text));
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
        network: network(&args.network)?,
    })
}

/// The network. A flag about it asks for one.
fn network(args: &NetworkArgs) -> Result<NetworkSpec> {
    let ports = args.publish.iter().map(|text| PortMapping::parse_all(text));
    let ports: Vec<_> = ports
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| invalid(error.to_string()).hint("Write `-p [[IP:]HOST:]PORT[/udp]`"))?;
    let spec = NetworkSpec {
        mode: NetworkMode::None,
        profile: args.network_profile.clone(),
        rules: args.rules.0.clone(),
        publish: ports.concat(),
        dns: args.dns.clone(),
        dns_search: args.dns_search.clone(),
        dns_options: args.dns_option.clone(),
        hosts: args.add_host.clone(),
    };
    let asks = !spec.is_default();
    let mode = args.network.unwrap_or(match asks {
        true => NetworkMode::Default,
        false => NetworkMode::None,
    });
    if mode == NetworkMode::None && asks {
        let what = "There is no network for the flags about it";
        return Err(invalid(what.to_owned()).hint("Leave them out, or use `--network default`"));
    }
    Ok(NetworkSpec { mode, ..spec })
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
    let rlimits = args.ulimit.iter().map(|text| ulimit(text));
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

/// Names by number. Source: Linux include/uapi/asm-generic/resource.h.
const RLIMITS: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// Number of `nofile`.
const NOFILE: u8 = 7;

/// The most descriptors that a process may be given: the default of `fs.nr_open`, which a guest
/// begins with. Source: Linux fs/file.c, `sysctl_nr_open`.
const MAX_OPEN_FILES: u64 = 1 << 20;

/// No limit of open files is what the kernel allows; it has no other.
fn open_files(asked: u64) -> u64 {
    match asked {
        u64::MAX => MAX_OPEN_FILES,
        number => number,
    }
}

/// Reads `NAME=SOFT[:HARD]`; -1 and `unlimited` are no limit, and HARD is SOFT when absent.
fn ulimit(text: &str) -> Result<Rlimit> {
    let error = || {
        invalid(format!("`--ulimit {text}` is not `NAME=SOFT[:HARD]`")).hint(
            "Names are those of getrlimit(2) without `RLIMIT_`, such as nofile; -1 is no limit",
        )
    };
    let value = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    let (name, values) = text.split_once('=').ok_or_else(error)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let resource = (0..).zip(RLIMITS).find(|(_, known)| *known == name);
    match (resource, value(soft), value(hard)) {
        (Some((NOFILE, _)), Some(soft), Some(hard)) if soft <= hard => {
            let (soft, hard) = (open_files(soft), open_files(hard));
            if hard > MAX_OPEN_FILES {
                let what = format!("`--ulimit {text}`: a guest's kernel allows {MAX_OPEN_FILES}");
                return Err(invalid(what).hint("-1 is as many as it allows"));
            }
            Ok(Rlimit {
                resource: NOFILE,
                soft,
                hard,
            })
        }
        (Some((resource, _)), Some(soft), Some(hard)) if soft <= hard => Ok(Rlimit {
            resource,
            soft,
            hard,
        }),
        _ => Err(error()),
    }
}

/// Reads `DIR[:size=1m,mode=755,uid=7,gid=7,ro,exec]`.
fn tmpfs(text: &str) -> Result<TmpfsMount> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = TmpfsMount {
        target: target.to_owned(),
        size: None,
        mode: 0o1777,
        read_only: false,
        exec: false,
        uid: None,
        gid: None,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", size) => {
                let size: ByteSize = size
                    .parse()
                    .map_err(|error| invalid(format!("`--tmpfs`: {error}")))?;
                mount.size = Some(size);
            }
            ("mode", mode) => {
                mount.mode = u32::from_str_radix(mode, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or_else(|| invalid(format!("`{mode}` is not an octal mode")))?;
            }
            ("uid", id) => mount.uid = Some(owner(id)?),
            ("gid", id) => mount.gid = Some(owner(id)?),
            ("ro", "") => mount.read_only = true,
            ("rw", "") => mount.read_only = false,
            // What a tmpfs in a sandbox has anyway.
            ("nosuid" | "nodev", "") => {}
            ("exec", "") => mount.exec = true,
            ("noexec", "") => mount.exec = false,
            _ => return Err(invalid(format!("`{option}` is not an option of `--tmpfs`"))),
        }
    }
    Ok(mount)
}

/// A number of a user or group, at most 2^31 - 1 as for a process.
fn owner(text: &str) -> Result<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let id = digits.then(|| text.parse::<i32>().ok()).flatten();
    id.and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| invalid(format!("`{text}` is not a number of a user or group")))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

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
    fn tmpfs_options_are_dockers_and_the_last_one_counts() {
        let mount = tmpfs("/run:size=8m,mode=700,exec,nosuid,ro,rw").unwrap();
        assert_eq!((mount.target.as_str(), mount.mode), ("/run", 0o700));
        assert_eq!((mount.exec, mount.read_only), (true, false));
        assert_eq!(mount.size, Some(ByteSize::from_mib(8)));
        let owned = tmpfs("/run:uid=1000,gid=7").unwrap();
        assert_eq!((owned.uid, owned.gid), (Some(1000), Some(7)));
        for bad in [
            "/t:size=x",
            "/t:mode=99",
            "/t:uid=me",
            "/t:gid=-1",
            "/t:uid=2147483648",
        ] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ulimits_have_linuxs_numbers() {
        let limit = |text: &str| ulimit(text).map(|l| (l.resource, l.soft, l.hard)).ok();
        assert_eq!(limit("nofile=1024:4096"), Some((7, 1024, 4096)));
        assert_eq!(limit("core=0"), Some((4, 0, 0)));
        let most = 1_048_576;
        assert_eq!(limit("nofile=-1"), Some((7, most, most)));
        assert_eq!(limit("nofile=9:-1"), Some((7, 9, most)));
        assert_eq!(limit("memlock=-1:-1"), Some((8, u64::MAX, u64::MAX)));
        assert_eq!(limit("nproc=5:unlimited"), Some((6, 5, u64::MAX)));
        for bad in [
            "nofile",
            "nofile=",
            "nofile=2:1",
            "nope=1",
            "nofile=x",
            "nofile=1:2:3",
            "nofile=1:1048577",
        ] {
            assert_eq!(limit(bad), None, "{bad}");
        }
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
            ("coffer run -P x", "`--publish-all`"),
            ("coffer run -v /a:/b x", "`--volume`"),
        ] {
            let error = parsed(line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(name), "{error}");
            assert!(error.hint_text().is_some());
        }
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
