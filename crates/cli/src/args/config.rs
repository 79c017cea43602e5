//! Verbs about the settings.

/// What to do with the settings of the store.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print the value of a setting
    Get(ConfigKeyArgs),
    /// Set a setting
    Set(ConfigSetArgs),
    /// Give a setting its default again
    Unset(ConfigKeyArgs),
    /// List all settings
    #[command(visible_alias = "ls")]
    List(ConfigListArgs),
}

/// A setting.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigKeyArgs {
    /// Its key, such as standby.auto
    pub(crate) key: String,
}

/// A setting and its value.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigSetArgs {
    /// Its key, such as standby.auto
    pub(crate) key: String,
    /// Its new value
    pub(crate) value: String,
}

/// List the settings.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigListArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
