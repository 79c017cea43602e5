//! What to run in a sandbox.

/// A command for a running sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `KEY=VALUE`, over the workload's environment.
    pub env: Vec<String>,
    /// Absolute working directory; the workload's when absent.
    pub workdir: Option<String>,
    /// `uid`, `uid:gid`, `user` or `user:group`; the workload's when absent.
    pub user: Option<String>,
    /// Give it a terminal of this many rows and columns.
    pub terminal: Option<(u16, u16)>,
    /// Whether it gets input; else its standard input is empty.
    pub stdin: bool,
}

impl ExecSpec {
    /// A command with everything else as the workload has it.
    ///
    /// ```
    /// let spec = cofferdam::ExecSpec::new(["echo", "hello"]);
    /// assert_eq!(spec.command, ["echo", "hello"]);
    /// ```
    pub fn new<I, S>(command: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}
