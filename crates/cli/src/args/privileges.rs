//! Flags about what a process may do. In a virtual machine root has every capability of the guest
//! from the start, so that what Docker grants is there already and what it takes is taken.

use cofferdam::{Capability, CapabilitySet, Error, ErrorKind, Privileges, Result};

/// What the workload may do.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct PrivilegeArgs {
    /// Add a group, by name or number
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Keep a capability of root, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability from root, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_drop: Vec<String>,
    /// Set an option, such as no-new-privileges
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// Keep every capability of the guest, which is the default
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Run an init that hands signals on and reaps zombies
    #[arg(long)]
    pub(crate) init: bool,
}

impl PrivilegeArgs {
    /// What was asked for.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] for what is no capability, [`ErrorKind::Unsupported`] for an
    /// option that a sandbox has not.
    pub(crate) fn privileges(&self) -> Result<Privileges> {
        let mut no_new_privileges = false;
        for option in &self.security_opt {
            security_option(option, &mut no_new_privileges)?;
        }
        let capabilities = capabilities(&self.cap_add, &self.cap_drop)?;
        Ok(Privileges {
            groups: self.group_add.clone(),
            capabilities: capabilities.filter(|_| !self.privileged),
            no_new_privileges,
        })
    }
}

/// The capabilities that stay; all when nothing is taken. As in Docker, what is added counts more
/// than what is dropped, but for what is dropped by name from all.
fn capabilities(add: &[String], drop: &[String]) -> Result<Option<CapabilitySet>> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let named = |names: &[String]| -> Result<Vec<Capability>> {
        let single = names.iter().filter(|name| !is_all(name));
        single
            .map(|name| {
                name.parse().map_err(|error| {
                    let what = format!("`{name}` is not a capability");
                    Error::new(ErrorKind::InvalidSpec, what)
                        .because(error)
                        .hint("Names are those of capabilities(7), such as NET_RAW, or ALL")
                })
            })
            .collect()
    };
    let (added, dropped) = (named(add)?, named(drop)?);
    let mut kept = CapabilitySet::ALL;
    if !add.iter().any(is_all) && drop.iter().any(is_all) {
        kept = CapabilitySet::NONE;
    }
    dropped.into_iter().for_each(|one| kept.remove(one));
    if !add.iter().any(is_all) {
        added.into_iter().for_each(|one| kept.insert(one));
    }
    Ok((kept != CapabilitySet::ALL).then_some(kept))
}

/// Reads one option of `--security-opt`.
fn security_option(option: &str, no_new_privileges: &mut bool) -> Result<()> {
    let (name, value) = option
        .split_once(['=', ':'])
        .map_or((option, None), |(name, value)| (name, Some(value)));
    match (name, value) {
        ("no-new-privileges", None | Some("true")) => *no_new_privileges = true,
        ("no-new-privileges", Some("false")) => *no_new_privileges = false,
        // A guest has no filter of system calls, no such profiles and no hidden paths.
        ("seccomp" | "apparmor" | "systempaths", Some("unconfined"))
        | ("label", Some("disable"))
        | ("writable-cgroups", Some("true")) => {}
        _ => {
            let what = format!("`--security-opt {option}` is not supported in this version");
            return Err(Error::new(ErrorKind::Unsupported, what).hint(
                "A sandbox is a virtual machine: there are `no-new-privileges` and \
                 `seccomp=unconfined`, `apparmor=unconfined`, `label=disable`",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_in_docker() {
        let (chown, raw) = (0, 13);
        for (add, drop, has_chown, has_raw) in [
            (&[][..], &["ALL"][..], false, false),
            (&["CHOWN"], &["all"], true, false),
            (&[], &["cap_net_raw"], true, false),
            (&["NET_RAW"], &["NET_RAW"], true, true),
            (&["ALL"], &["CHOWN"], false, true),
            (&["SYS_ADMIN"], &[], true, true),
        ] {
            let kept = capabilities(&strings(add), &strings(drop)).unwrap();
            let kept = kept.unwrap_or(CapabilitySet::ALL);
            assert_eq!(
                (kept.contains(chown), kept.contains(raw)),
                (has_chown, has_raw),
                "{add:?} {drop:?}"
            );
        }
        assert_eq!(capabilities(&strings(&["SYS_ADMIN"]), &[]).unwrap(), None);
        assert!(capabilities(&strings(&["NOPE"]), &[]).is_err());
    }

    #[test]
    fn security_options_are_what_is_so_or_can_be_set() {
        let with = |options: &[&str]| {
            let args = PrivilegeArgs {
                security_opt: strings(options),
                ..PrivilegeArgs::default()
            };
            args.privileges().map(|found| found.no_new_privileges)
        };
        assert!(with(&["no-new-privileges"]).unwrap());
        assert!(with(&["no-new-privileges:true", "seccomp=unconfined"]).unwrap());
        assert!(!with(&["no-new-privileges", "no-new-privileges=false"]).unwrap());
        for bad in [
            "seccomp=/profile.json",
            "apparmor=mine",
            "nope",
            "label=type:x",
        ] {
            assert_eq!(
                with(&[bad]).unwrap_err().kind(),
                ErrorKind::Unsupported,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_privileged_process_keeps_what_was_to_be_dropped() {
        let args = PrivilegeArgs {
            cap_drop: strings(&["ALL"]),
            privileged: true,
            ..PrivilegeArgs::default()
        };
        assert_eq!(args.privileges().unwrap().capabilities, None);
    }
}
