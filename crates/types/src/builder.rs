//! Building a spec step by step.

use std::time::Duration;

use crate::{ByteSize, CpuCount, LeaseSpec, OnTimeout, Rlimit, SandboxSpec, TmpfsMount, UpperSpec};

/// Builds a [`SandboxSpec`]. What is not set has its default; [`Self::build`] checks nothing, the
/// store does when the sandbox is made.
#[derive(Clone, Debug)]
pub struct SandboxSpecBuilder(SandboxSpec);

impl SandboxSpec {
    /// Begins a spec of a sandbox of this image.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use cofferdam_types::{ByteSize, SandboxSpec};
    ///
    /// let spec = SandboxSpec::builder("python:3.12")
    ///     .command(["sleep", "infinity"])
    ///     .env("LANG", "C.UTF-8")
    ///     .memory(ByteSize::from_mib(1024))
    ///     .timeout(Duration::from_secs(3600))
    ///     .build();
    /// assert_eq!(spec.env, ["LANG=C.UTF-8"]);
    /// ```
    pub fn builder(image: impl Into<String>) -> SandboxSpecBuilder {
        SandboxSpecBuilder(Self {
            image: image.into(),
            ..Self::default()
        })
    }
}

impl SandboxSpecBuilder {
    /// The spec.
    #[must_use]
    pub fn build(self) -> SandboxSpec {
        self.0
    }

    fn with(mut self, change: impl FnOnce(&mut SandboxSpec)) -> Self {
        change(&mut self.0);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        self.with(|spec| spec.name = Some(name.into()))
    }

    /// The host name in the guest.
    #[must_use]
    pub fn hostname(self, name: impl Into<String>) -> Self {
        self.with(|spec| spec.hostname = Some(name.into()))
    }

    /// Program and arguments, in place of the image's command.
    #[must_use]
    pub fn command(self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with(|spec| spec.command = words.into_iter().map(Into::into).collect())
    }

    /// The entrypoint, in place of the image's; empty for none.
    #[must_use]
    pub fn entrypoint(self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with(|spec| spec.entrypoint = Some(words.into_iter().map(Into::into).collect()))
    }

    /// One more variable of the environment.
    #[must_use]
    pub fn env(self, key: &str, value: &str) -> Self {
        self.with(|spec| spec.env.push(format!("{key}={value}")))
    }

    /// One more label.
    #[must_use]
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(|spec| drop(spec.labels.insert(key.into(), value.into())))
    }

    /// The working directory.
    #[must_use]
    pub fn workdir(self, directory: impl Into<String>) -> Self {
        self.with(|spec| spec.workdir = Some(directory.into()))
    }

    /// The user: `uid`, `uid:gid`, `user` or `user:group`.
    #[must_use]
    pub fn user(self, user: impl Into<String>) -> Self {
        self.with(|spec| spec.user = Some(user.into()))
    }

    /// Processors.
    #[must_use]
    pub fn cpus(self, cpus: CpuCount) -> Self {
        self.with(|spec| spec.cpus = cpus)
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(self, memory: ByteSize) -> Self {
        self.with(|spec| spec.memory = memory)
    }

    /// How writes to the root are kept.
    #[must_use]
    pub fn upper(self, upper: UpperSpec) -> Self {
        self.with(|spec| spec.upper = upper)
    }

    /// One more tmpfs.
    #[must_use]
    pub fn tmpfs(self, mount: TmpfsMount) -> Self {
        self.with(|spec| spec.tmpfs.push(mount))
    }

    /// One more POSIX limit.
    #[must_use]
    pub fn rlimit(self, limit: Rlimit) -> Self {
        self.with(|spec| spec.limits.rlimits.push(limit))
    }

    /// The longest time from the start of the workload.
    #[must_use]
    pub fn timeout(self, time: Duration) -> Self {
        self.with(|spec| spec.lease.timeout = Some(time))
    }

    /// The longest time in which nothing uses the sandbox; see [`LeaseSpec::idle_timeout`].
    #[must_use]
    pub fn idle_timeout(self, time: Duration) -> Self {
        self.with(|spec| spec.lease.idle_timeout = Some(time))
    }

    /// What happens when a time-out is over.
    #[must_use]
    pub fn on_timeout(self, what: OnTimeout) -> Self {
        self.with(|spec| {
            spec.lease = LeaseSpec {
                on_timeout: what,
                ..spec.lease
            };
        })
    }

    /// Keep standard input open for the workload.
    #[must_use]
    pub fn stdin(self) -> Self {
        self.with(|spec| spec.stdin = true)
    }

    /// Give the workload a terminal.
    #[must_use]
    pub fn terminal(self) -> Self {
        self.with(|spec| spec.tty = true)
    }

    /// Remove the sandbox when it stops.
    #[must_use]
    pub fn auto_remove(self) -> Self {
        self.with(|spec| spec.auto_remove = true)
    }
}
