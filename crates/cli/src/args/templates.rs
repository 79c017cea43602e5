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
#[command(disable_help_flag = true)]
pub(crate) struct TemplateBuildArgs {
    /// Run a shell command in it to its end first
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Vec<String>,
    /// Keep the command running in it, captured once it has printed this
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
