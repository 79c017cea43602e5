//! Verbs about templates.

use super::SandboxArgs;

/// What to do with templates.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TemplateVerb {
    /// Make the template from which an image's sandboxes start
    Build(Box<TemplateBuildArgs>),
    /// List templates
    #[command(visible_alias = "ls")]
    List(TemplateListArgs),
    /// Remove templates, by key or image
    Rm(TemplateRmArgs),
}

/// Make a template.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "coffer template build [OPTIONS] IMAGE [COMMAND] [ARG]...",
    after_help = "Examples:\n  coffer template build --exec 'python3 -c pass' python:3\n  coffer template build --wait-for 'listening on' IMAGE server --port 80"
)]
pub(crate) struct TemplateBuildArgs {
    /// Run a shell command in it to its end first
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Vec<String>,
    /// Seconds that each command, and the wait for a text, may take; 600 by default
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: Option<u64>,
    /// Keep COMMAND running in it, captured once it has printed this
    #[arg(long, value_name = "TEXT")]
    pub(crate) wait_for: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
}

/// List templates.
#[derive(Debug, clap::Args)]
pub(crate) struct TemplateListArgs {
    /// Only keys
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Whole keys and commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Remove templates.
#[derive(Debug, clap::Args)]
pub(crate) struct TemplateRmArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[arg(required = true)]
    pub(crate) templates: Vec<String>,
}
