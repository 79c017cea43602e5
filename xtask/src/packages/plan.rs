//! What an installation would change, read from `apt-get --simulate`.
//!
//! Source: apt-get(8), `--simulate`: `Inst NAME [OLD] (NEW …)` and `Remv NAME [OLD]`.

/// The line before the names of packages that would get an older version. Indented lines follow it.
const DOWNGRADED: &str = "The following packages will be DOWNGRADED:";

/// A package with a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// What an installation would change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Packages that would be installed or upgraded, with their new versions.
    pub(crate) installed: Vec<Package>,
    /// Packages that would be removed, with their present versions.
    pub(crate) removed: Vec<Package>,
    /// Packages that would be downgraded, with their present versions.
    pub(crate) downgraded: Vec<Package>,
}

impl Plan {
    /// Reads the output of `apt-get --simulate` in the C locale.
    pub(crate) fn parse(output: &str) -> Self {
        let mut plan = Self::default();
        let older: Vec<_> = output
            .lines()
            .skip_while(|line| *line != DOWNGRADED)
            .skip(1)
            .take_while(|line| line.starts_with(' '))
            .flat_map(str::split_whitespace)
            .collect();
        for line in output.lines() {
            if let Some((name, present, new)) = installation(line) {
                if older.contains(&name) {
                    plan.downgraded.push(package(name, present));
                }
                plan.installed.push(package(name, new));
            } else if let Some((name, present)) = removal(line) {
                plan.removed.push(package(name, present));
            }
        }
        plan
    }

    /// The packages that would be lost or get older.
    pub(crate) fn losses(&self) -> impl Iterator<Item = &Package> {
        self.removed.iter().chain(&self.downgraded)
    }
}

/// Name, present version (empty if there is none) and new version of an `Inst` line.
fn installation(line: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let (present, rest) = rest.split_once('(')?;
    let new = rest.split_whitespace().next()?;
    Some((name, between_brackets(present), new))
}

/// Name and present version of a `Remv` line.
fn removal(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("Remv ")?.split_once(' ')?;
    Some((name, between_brackets(rest)))
}

/// `1.0` of `[1.0] …`.
fn between_brackets(text: &str) -> &str {
    let inner = text.split_once('[').map_or("", |(_, rest)| rest);
    inner.split_once(']').map_or("", |(version, _)| version)
}

fn package(name: &str, version: &str) -> Package {
    Package {
        name: name.to_owned(),
        version: version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `apt-get -s install qemu-system-x86` on Debian 12 with a `qemu-utils` of its backports.
    pub(super) const REMOVES: &str = include_str!("recorded/qemu-removes-utils.txt");

    #[test]
    fn a_removal_is_seen_with_its_version() {
        let plan = Plan::parse(REMOVES);
        let expected = [package("qemu-utils", "1:10.0.2+ds-2+deb13u1~bpo12+1")];
        assert_eq!(plan.removed, expected);
        assert_eq!(plan.installed.len(), 5);
        let main = package("qemu-system-x86", "1:7.2+dfsg-7+deb12u18+b3");
        assert!(plan.installed.contains(&main));
        assert!(plan.losses().eq(&expected));
    }

    #[test]
    fn a_downgrade_is_a_loss() {
        let plan = Plan::parse(include_str!("recorded/utils-downgraded.txt"));
        let expected = [package("qemu-utils", "1:10.0.2+ds-2+deb13u1~bpo12+1")];
        assert!(plan.removed.is_empty());
        assert!(plan.losses().eq(&expected));
    }

    #[test]
    fn an_upgrade_is_no_loss() {
        let plan = Plan::parse(include_str!("recorded/mesa-upgrade.txt"));
        let upgraded = package("libgbm1", "22.3.6-1+deb12u2");
        assert!(plan.installed.contains(&upgraded), "{plan:?}");
        assert_eq!(plan.losses().count(), 0);
    }

    #[test]
    fn a_static_busybox_removes_the_ordinary_one() {
        let plan = Plan::parse(include_str!("recorded/busybox-removed.txt"));
        let lost: Vec<_> = plan.losses().map(|lost| lost.name.as_str()).collect();
        assert_eq!(lost, ["busybox"]);
    }

    #[test]
    fn nothing_to_do_is_an_empty_plan() {
        assert_eq!(
            Plan::parse("Reading package lists...\n0 upgraded\n"),
            Plan::default()
        );
    }
}
