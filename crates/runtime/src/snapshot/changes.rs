//! What a fork may have that its source has not.
//!
//! A fork of a live sandbox goes on with the machine and the processes of its source: names,
//! labels, limits below those of the machine, and what later processes get can differ. A fork of
//! a disk alone starts afresh, so that its machine can differ too.

use std::collections::BTreeMap;

use cofferdam_types::{
    ByteSize, CpuCount, LeaseSpec, NetworkMode, NetworkSpec, PortMapping, SandboxSpec,
};

use crate::{
    base::error::{Error, ErrorKind, Result},
    network,
    spec::process,
    store::SandboxRecord,
};

/// The variable that tells later processes of a fork its number, from 1.
const INDEX_VARIABLE: &str = "COFFER_FORK_INDEX";

/// What is to differ from the source; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForkChanges {
    /// `KEY=VALUE` of later processes; the processes that go on keep what they have.
    pub env: Vec<String>,
    /// Labels, over those of the source.
    pub labels: BTreeMap<String, String>,
    /// Processors that the fork may use; of a live source at most as many as it has.
    pub cpus: Option<CpuCount>,
    /// Memory that the fork may use; of a live source at most as much as it has.
    pub memory: Option<ByteSize>,
    /// Host name; of several forks, the start of their host names.
    pub hostname: Option<String>,
    /// Working directory of later processes.
    pub workdir: Option<String>,
    /// Whether the fork is removed when it stops.
    pub auto_remove: Option<bool>,
    /// The fork's time-outs, in place of those of the source. Either way they begin anew.
    pub lease: Option<LeaseSpec>,
    /// Ports that the fork publishes. Those of the source stay its own.
    pub publish: Vec<PortMapping>,
    /// Aliases on the source's named networks. Those of the source stay its own.
    pub network_aliases: Vec<String>,
}

impl ForkChanges {
    /// Refuses what cannot be.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] by the flag's name.
    pub(super) fn check(&self, source: &SandboxSpec, is_live: bool) -> Result<()> {
        if is_live {
            self.fit_machine(source)?;
        }
        // The same rules as for a new sandbox.
        let mut changed = source.clone();
        changed.network.publish.clear();
        self.change_spec(&mut changed, is_live);
        changed.hostname.clone_from(&self.hostname);
        changed.memory = self.memory.unwrap_or(changed.memory);
        crate::host::admission::spec(&changed)
    }

    /// Refuses ports that several forks cannot have.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`].
    pub(super) fn check_ports(&self, count: u32) -> Result<()> {
        let fixed = self.publish.iter().find(|port| port.host.port() != 0);
        match fixed {
            Some(port) if count > 1 => {
                let what = format!("`{}` is one port, and there are {count} forks", port.host);
                let hint = "Leave the host's port out, and the system chooses one for each";
                Err(Error::new(ErrorKind::InvalidSpec, what).hint(hint))
            }
            _ => Ok(()),
        }
    }

    /// Fails if the host cannot give the ports, before the source is paused for a capture.
    ///
    /// # Errors
    /// [`ErrorKind::PortTaken`] and others with the port.
    pub(super) fn expect_free_ports(&self) -> Result<()> {
        network::expect_free(&NetworkSpec {
            mode: NetworkMode::Default,
            publish: self.publish.clone(),
            ..NetworkSpec::default()
        })
    }

    /// A machine that goes on has the processors and the memory that its guest knows.
    fn fit_machine(&self, source: &SandboxSpec) -> Result<()> {
        let too_much = |flag: &str, asked: String, has: String| {
            let what = format!(
                "`{flag} {asked}`: a fork of a live sandbox has its machine, which has {has}"
            );
            let hint = "Ask for less, or fork a snapshot of its disk, which starts afresh";
            Err(Error::new(ErrorKind::InvalidSpec, what).hint(hint))
        };
        match (self.cpus, self.memory) {
            (Some(cpus), _) if cpus.vcpus() > source.cpus.vcpus() => {
                too_much("--cpus", cpus.to_string(), source.cpus.vcpus().to_string())
            }
            (_, Some(memory)) if memory > source.memory => {
                too_much("--memory", memory.to_string(), source.memory.to_string())
            }
            _ => Ok(()),
        }
    }

    /// Changes the record of fork `number` of `count`.
    pub(super) fn apply(&self, record: &mut SandboxRecord, is_live: bool, number: u32, count: u32) {
        self.change_spec(&mut record.spec, is_live);
        if let Some(hostname) = &self.hostname {
            let hostname = numbered(hostname, number, count);
            record.spec.hostname = Some(hostname.clone());
            record.hostname = hostname;
        }
        let env = &mut record.process.env;
        process::set_env(env, format!("HOSTNAME={}", record.hostname));
        process::set_env(env, format!("{INDEX_VARIABLE}={number}"));
        for entry in &self.env {
            process::set_env(env, entry.clone());
        }
        if let Some(workdir) = &self.workdir {
            record.process.workdir.clone_from(workdir);
        }
    }

    fn change_spec(&self, spec: &mut SandboxSpec, is_live: bool) {
        spec.env.extend(self.env.iter().cloned());
        spec.labels.extend(self.labels.clone());
        spec.network.publish.extend(&self.publish);
        if let Some(workdir) = &self.workdir {
            spec.workdir = Some(workdir.clone());
        }
        spec.lease = self.lease.unwrap_or(spec.lease);
        spec.auto_remove = self.auto_remove.unwrap_or(spec.auto_remove);
        match self.cpus {
            // The machine stays; its share of the processors gets smaller.
            Some(cpus) if is_live => spec.limits.cpu_quota_millis = Some(cpus.millis()),
            Some(cpus) => {
                spec.cpus = cpus;
                spec.limits.cpu_quota_millis = None;
            }
            None => {}
        }
        match self.memory {
            Some(memory) if is_live => {
                spec.limits.memory = (memory < spec.memory).then_some(memory);
            }
            Some(memory) => {
                spec.memory = memory;
                spec.limits.memory = None;
            }
            None => {}
        }
    }
}

/// The name of one of several: the common start and its number.
pub(super) fn numbered(start: &str, number: u32, count: u32) -> String {
    match count {
        1 => start.to_owned(),
        _ => format!("{start}-{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> SandboxSpec {
        SandboxSpec {
            cpus: "2".parse().unwrap(),
            memory: ByteSize::from_mib(512),
            ..SandboxSpec::default()
        }
    }

    fn changes(cpus: &str, mib: u32) -> ForkChanges {
        ForkChanges {
            cpus: Some(cpus.parse().unwrap()),
            memory: Some(ByteSize::from_mib(mib)),
            ..ForkChanges::default()
        }
    }

    #[test]
    fn a_live_forks_limits_fit_the_machine_and_a_disks_are_free() {
        assert!(changes("0.5", 512).check(&source(), true).is_ok());
        assert!(changes("2", 128).check(&source(), true).is_ok());
        for (changes, flag) in [
            (changes("3", 128), "`--cpus 3`"),
            (changes("1", 1024), "`--memory "),
        ] {
            let error = changes.check(&source(), true).unwrap_err();
            assert!(error.to_string().contains(flag), "{error}");
            assert!(changes.check(&source(), false).is_ok());
        }
    }

    #[test]
    fn a_live_forks_machine_stays_as_its_guest_knows_it() {
        let mut spec = source();
        changes("1.5", 128).change_spec(&mut spec, true);
        assert_eq!((spec.cpus, spec.memory), (source().cpus, source().memory));
        assert_eq!(spec.limits.cpu_quota_millis, Some(1500));
        assert_eq!(spec.limits.memory, Some(ByteSize::from_mib(128)));
        changes("1", 256).change_spec(&mut spec, false);
        assert_eq!(
            (spec.cpus.vcpus(), spec.memory),
            (1, ByteSize::from_mib(256))
        );
        assert_eq!(
            (spec.limits.cpu_quota_millis, spec.limits.memory),
            (None, None)
        );
    }

    #[test]
    fn what_no_sandbox_can_have_no_fork_has() {
        for changes in [
            ForkChanges {
                workdir: Some("tmp".to_owned()),
                ..ForkChanges::default()
            },
            ForkChanges {
                hostname: Some("a/b".to_owned()),
                ..ForkChanges::default()
            },
            ForkChanges {
                env: vec!["=x".to_owned()],
                ..ForkChanges::default()
            },
            changes("1", 8),
        ] {
            let error = changes.check(&source(), true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{changes:?}");
        }
    }

    #[test]
    fn several_forks_cannot_have_one_port_of_the_host() {
        let ports = |text: &str| ForkChanges {
            publish: PortMapping::parse_all(text).unwrap(),
            ..ForkChanges::default()
        };
        let error = ports("8080:80").check_ports(2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert!(error.hint_text().is_some());
        ports("8080:80").check_ports(1).unwrap();
        ports("80").check_ports(2).unwrap();
        // A fork has no port without a network.
        let offline = SandboxSpec {
            network: NetworkSpec::none(),
            ..source()
        };
        assert!(ports("80").check(&offline, true).is_err());
    }

    #[test]
    fn one_fork_has_the_very_name_and_several_have_numbers() {
        assert_eq!(numbered("a", 1, 1), "a");
        assert_eq!(numbered("a", 2, 3), "a-2");
    }
}
