//! Values of a spec as people write them: POSIX limits and tmpfs mounts.

use std::{fmt, str::FromStr};

use crate::{ByteSize, Rlimit, TmpfsMount};

/// A text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseValueError {
    what: String,
    hint: Option<&'static str>,
}

impl ParseValueError {
    fn new(what: String) -> Self {
        Self { what, hint: None }
    }

    fn with_hint(self, hint: &'static str) -> Self {
        let hint = Some(hint);
        Self { hint, ..self }
    }

    /// What to write in its place.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        self.hint
    }
}

impl fmt::Display for ParseValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for ParseValueError {}

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

impl FromStr for Rlimit {
    type Err = ParseValueError;

    /// Reads `NAME=SOFT[:HARD]`; -1 and `unlimited` are no limit, and HARD is SOFT when absent.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || {
            ParseValueError::new("It is not `NAME=SOFT[:HARD]`".to_owned()).with_hint(
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
        let (Some((resource, _)), Some(soft), Some(hard)) = (resource, value(soft), value(hard))
        else {
            return Err(error());
        };
        if soft > hard {
            return Err(error());
        }
        if resource != NOFILE {
            return Ok(Self {
                resource,
                soft,
                hard,
            });
        }
        let (soft, hard) = (open_files(soft), open_files(hard));
        if hard > MAX_OPEN_FILES {
            let what = format!("A guest's kernel allows {MAX_OPEN_FILES}");
            return Err(ParseValueError::new(what).with_hint("-1 is as many as it allows"));
        }
        Ok(Self {
            resource,
            soft,
            hard,
        })
    }
}

impl FromStr for TmpfsMount {
    type Err = ParseValueError;

    /// Reads `DIR[:size=1m,mode=755,uid=7,gid=7,ro,exec]`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let mut mount = Self {
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
                    let size = size.parse::<ByteSize>();
                    mount.size =
                        Some(size.map_err(|error| ParseValueError::new(error.to_string()))?);
                }
                ("mode", mode) => mount.mode = octal(mode)?,
                ("uid", id) => mount.uid = Some(owner(id)?),
                ("gid", id) => mount.gid = Some(owner(id)?),
                ("ro", "") => mount.read_only = true,
                ("rw", "") => mount.read_only = false,
                // What a tmpfs in a sandbox has anyway.
                ("nosuid" | "nodev", "") => {}
                ("exec", "") => mount.exec = true,
                ("noexec", "") => mount.exec = false,
                _ => {
                    let what = format!("`{option}` is not an option of a tmpfs");
                    return Err(ParseValueError::new(what));
                }
            }
        }
        Ok(mount)
    }
}

fn octal(mode: &str) -> Result<u32, ParseValueError> {
    u32::from_str_radix(mode, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| ParseValueError::new(format!("`{mode}` is not an octal mode")))
}

/// A number of a user or group, at most 2^31 - 1 as for a process.
fn owner(text: &str) -> Result<u32, ParseValueError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let id = digits.then(|| text.parse::<i32>().ok()).flatten();
    id.and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| ParseValueError::new(format!("`{text}` is not a number of a user or group")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs(text: &str) -> Result<TmpfsMount, ParseValueError> {
        text.parse()
    }

    fn ulimit(text: &str) -> Result<Rlimit, ParseValueError> {
        text.parse()
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
}
