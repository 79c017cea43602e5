//! QEMU versions: which one is asked for, and which package has it.

use std::{fmt, str::FromStr};

use anyhow::{Error, Result, bail};

use crate::packages::{Package, Plan};

/// The package with the program.
pub(super) const PACKAGE: &str = "qemu-system-x86";

/// Packages whose files a machine without a network card needs: the program, its modules, its data
/// and its firmware.
pub(super) const PARTS: &[&str] = &[PACKAGE, "qemu-system-common", "qemu-system-data", "seabios"];

/// The first numbers of a QEMU version: `10` stands for all of 10.0, 10.1 and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Series(Vec<u32>);

impl Series {
    /// Whether a Debian package's or a program's version belongs to it.
    pub(crate) fn has(&self, version: &str) -> bool {
        numbers(version).starts_with(&self.0)
    }

    /// The series of a Debian version: its first two numbers.
    fn of(version: &str) -> Option<Self> {
        let numbers = numbers(version).get(..2)?.to_vec();
        Some(Self(numbers))
    }
}

impl FromStr for Series {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split('.').map(str::parse).collect() {
            Ok(numbers) => Ok(Self(numbers)),
            Err(_) => bail!("`{text}` is no QEMU version such as `10` or `7.2`"),
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&words.join("."))
    }
}

/// The upstream numbers of a version: `1:10.0.2+ds-2` has 10, 0 and 2.
/// Source: deb-version(7), `[epoch:]upstream-version[-debian-revision]`.
fn numbers(version: &str) -> Vec<u32> {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    let end = upstream.find(|c: char| c != '.' && !c.is_ascii_digit());
    let digits = upstream.get(..end.unwrap_or(upstream.len()));
    digits
        .unwrap_or_default()
        .split('.')
        .map_while(|number| number.parse().ok())
        .collect()
}

/// The newest version of a series in `names`, which may hold other things.
pub(super) fn newest(names: Vec<String>, series: &Series) -> Option<String> {
    let of_series = names.into_iter().filter(|name| series.has(name));
    of_series.max_by_key(|name| numbers(name))
}

/// The suite with the newest package of a series, from the answer of `apt-cache madison`: lines of
/// `PACKAGE | VERSION | ADDRESS SUITE/COMPONENT ARCHITECTURE Packages`, the newest first.
pub(super) fn suite(madison: &str, series: &Series) -> Option<String> {
    madison.lines().find_map(|line| {
        let mut fields = line.split('|').map(str::trim).skip(1);
        let (version, origin) = (fields.next()?, fields.next()?);
        let (suite, _) = origin.split_whitespace().nth(1)?.split_once('/')?;
        series.has(version).then(|| suite.to_owned())
    })
}

/// The versions in `madison`'s answer, for an error.
pub(super) fn versions(madison: &str) -> Vec<&str> {
    madison
        .lines()
        .filter_map(|line| line.split('|').map(str::trim).nth(1))
        .collect()
}

/// What apt-get would download for QEMU's parts: `NAME=VERSION`.
pub(super) fn parts(plan: &Plan) -> Vec<String> {
    let is_part = |package: &&Package| PARTS.contains(&package.name.as_str());
    let installed = plan.installed.iter().filter(is_part);
    installed
        .map(|package| format!("{}={}", package.name, package.version))
        .collect()
}

/// The libraries in a package's `Depends`.
pub(super) fn libraries(depends: &str) -> Vec<&str> {
    depends
        .split(", ")
        .map(str::trim)
        .filter(|one| one.starts_with("lib") || one.starts_with("zlib"))
        .collect()
}

/// How a machine without a QEMU gets one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing is lost by an installation.
    Install,
    /// An installation would remove or downgrade other parts of QEMU: a QEMU of their series is
    /// unpacked.
    Unpack(Series),
    /// An installation would remove or downgrade these packages.
    Refuse(Vec<String>),
}

/// Decides by what an installation would change.
pub(super) fn way(plan: &Plan) -> Way {
    let is_qemu = |name: &str| name.starts_with("qemu-") || PARTS.contains(&name);
    if plan.losses().next().is_none() {
        return Way::Install;
    }
    let foreign: Vec<_> = plan
        .losses()
        .filter(|lost| !is_qemu(&lost.name))
        .map(|lost| lost.name.clone())
        .collect();
    let series = plan
        .losses()
        .filter(|lost| lost.name.starts_with("qemu-"))
        .find_map(|lost| Series::of(&lost.version));
    match series {
        Some(series) if foreign.is_empty() => Way::Unpack(series),
        _ => Way::Refuse(plan.losses().map(|lost| lost.name.clone()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(text: &str) -> Series {
        text.parse().unwrap()
    }

    /// `apt-cache madison qemu-system-x86` on Debian 12 with its backports.
    const MADISON: &str = "\
qemu-system-x86 | 1:10.0.2+ds-2+deb13u1~bpo12+1 | http://m.example/debian bookworm-backports/main amd64 Packages
qemu-system-x86 | 1:7.2+dfsg-7+deb12u18+b3 | http://m.example/debian bookworm/main amd64 Packages
";

    #[test]
    fn a_series_has_the_versions_that_begin_with_it() {
        assert!(series("10").has("1:10.0.2+ds-2+deb13u1~bpo12+1"));
        assert!(series("10.0").has("10.0.2"));
        assert!(series("7.2").has("1:7.2+dfsg-7+deb12u18+b3"));
        assert!(!series("1").has("1:10.0.2+ds-2"));
        assert!(!series("10.1").has("1:10.0.2+ds-2"));
        assert!(!series("7.2").has("garbage"));
    }

    #[test]
    fn the_newest_of_a_series_is_found_among_other_names() {
        let names = ["7.2.22", "10.0.2", "10.0.11", ".staging", "11.0.0", "x"];
        let newest = |text| newest(names.map(str::to_owned).into(), &series(text));
        assert_eq!(newest("10").as_deref(), Some("10.0.11"));
        assert_eq!(newest("7.2").as_deref(), Some("7.2.22"));
        assert_eq!(newest("9"), None);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "ten", "7.", "7.2/..", "-1"] {
            assert!(text.parse::<Series>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_suite_with_the_series_is_found() {
        let found = |text| suite(MADISON, &series(text));
        assert_eq!(found("10").as_deref(), Some("bookworm-backports"));
        assert_eq!(found("7.2").as_deref(), Some("bookworm"));
        assert_eq!(found("8"), None);
        assert_eq!(suite("", &series("10")), None);
    }

    #[test]
    fn a_qemu_beside_newer_parts_is_unpacked_in_their_version() {
        let recorded = include_str!("../packages/recorded/qemu-removes-utils.txt");
        assert_eq!(way(&Plan::parse(recorded)), Way::Unpack(series("10.0")));
    }

    #[test]
    fn a_qemu_that_displaces_nothing_is_installed() {
        let recorded = include_str!("../packages/recorded/qemu-removes-utils.txt");
        let without: String = recorded
            .lines()
            .filter(|line| !line.starts_with("Remv "))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(way(&Plan::parse(&without)), Way::Install);
    }

    #[test]
    fn a_qemu_that_displaces_something_else_is_refused() {
        let recorded = include_str!("../packages/recorded/qemu-removes-utils.txt");
        let more = format!("{recorded}Remv xen-utils-4.17 [4.17.5]\n");
        let Way::Refuse(names) = way(&Plan::parse(&more)) else {
            panic!("not refused");
        };
        assert_eq!(names, ["qemu-utils", "xen-utils-4.17"]);
    }

    #[test]
    fn of_a_plan_only_the_parts_of_qemu_are_downloaded() {
        let recorded = include_str!("../packages/recorded/qemu-removes-utils.txt");
        let expected = [
            "qemu-system-common=1:7.2+dfsg-7+deb12u18+b3",
            "qemu-system-data=1:7.2+dfsg-7+deb12u18",
            "seabios=1.16.2-1",
            "qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3",
        ];
        assert_eq!(parts(&Plan::parse(recorded)), expected);
    }

    #[test]
    fn of_the_dependencies_only_the_libraries_are_installed() {
        let depends = "libaio1 (>= 0.3.93), zlib1g (>= 1:1.1.4), qemu-system-common (= 1:7.2), \
                       seabios, ipxe-qemu, libfdt1";
        let expected = ["libaio1 (>= 0.3.93)", "zlib1g (>= 1:1.1.4)", "libfdt1"];
        assert_eq!(libraries(depends), expected);
    }
}
