//! The configuration fragments in `kernel/`, and the check that each of their lines took effect.
//!
//! Kconfig drops an option without a word when a dependency is missing or another option selects
//! the opposite, so every line is compared with the final configuration.
//! Source: kernel Documentation/kbuild/kconfig.rst.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};

/// What an option that is off is written as.
const OFF: &str = "n";

/// All fragments, in order of file name.
#[derive(Debug)]
pub(crate) struct Fragments {
    /// File name and content.
    files: Vec<(String, String)>,
}

impl Fragments {
    /// Reads every `*.config` in `directory`.
    ///
    /// # Errors
    /// When there is none, one cannot be read, or two lines contradict each other.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let context = || format!("Could not read `{}`", directory.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).with_context(context)? {
            let path = entry.with_context(context)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "config")
            {
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                files.push((name, fs::read_to_string(&path).with_context(context)?));
            }
        }
        if files.is_empty() {
            bail!(
                "There is no kernel configuration in `{}`",
                directory.display()
            );
        }
        files.sort();
        let fragments = Self { files };
        fragments.options()?;
        Ok(fragments)
    }

    /// The fragments one after another, as Kconfig reads them.
    pub(crate) fn text(&self) -> String {
        self.files
            .iter()
            .map(|(_, content)| content.as_str())
            .collect()
    }

    /// Checks that `config`, a finished `.config`, has every line of the fragments.
    ///
    /// # Errors
    /// When some have no effect: the error names each with what it became.
    pub(crate) fn verify(&self, config: &str) -> Result<()> {
        let real: BTreeMap<_, _> = config.lines().filter_map(parse).collect();
        let lost: Vec<_> = self
            .options()?
            .into_iter()
            .filter_map(|(name, (file, asked))| {
                let got = real.get(name).copied().unwrap_or(OFF);
                (got != asked).then(|| format!("`{name}` of {file} is `{got}`, not `{asked}`"))
            })
            .collect();
        if !lost.is_empty() {
            bail!("The kernel configuration lost options: {}", lost.join("; "));
        }
        Ok(())
    }

    /// Every option asked for, with its file and value.
    fn options(&self) -> Result<BTreeMap<&str, (&str, &str)>> {
        let mut options = BTreeMap::new();
        for (file, content) in &self.files {
            for (name, value) in content.lines().filter_map(parse) {
                if options.insert(name, (file.as_str(), value)).is_some() {
                    bail!("`{name}` stands twice in the kernel configuration");
                }
            }
        }
        Ok(options)
    }
}

/// Name and value of a configuration line; `None` for a comment or an empty line.
fn parse(line: &str) -> Option<(&str, &str)> {
    if let Some(name) = line
        .strip_prefix("# ")
        .and_then(|rest| rest.strip_suffix(" is not set"))
    {
        return name.starts_with("CONFIG_").then_some((name, OFF));
    }
    line.split_once('=')
        .filter(|(name, _)| name.starts_with("CONFIG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragments(content: &str) -> Fragments {
        Fragments {
            files: vec![("a.config".to_owned(), content.to_owned())],
        }
    }

    #[test]
    fn options_that_took_effect_pass() {
        let asked = fragments("# Why.\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=32\n");
        asked
            .verify("CONFIG_A=y\nCONFIG_C=32\nCONFIG_D=y\n")
            .unwrap();
    }

    #[test]
    fn a_lost_option_is_named_with_its_file() {
        let error = fragments("CONFIG_A=y\n")
            .verify("# CONFIG_A is not set\n")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("`CONFIG_A` of a.config is `n`, not `y`")
        );
    }

    #[test]
    fn an_option_that_came_back_on_is_named() {
        let error = fragments("# CONFIG_A is not set\n")
            .verify("CONFIG_A=y\n")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`CONFIG_A` of a.config is `y`, not `n`")
        );
    }

    #[test]
    fn an_option_may_stand_only_once() {
        let error = fragments("CONFIG_A=y\n# CONFIG_A is not set\n")
            .options()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`CONFIG_A` stands twice in the kernel configuration"
        );
    }

    #[test]
    fn the_projects_own_fragments_are_free_of_contradictions() {
        let directory = crate::workspace::root().join("kernel");
        assert!(
            Fragments::read(&directory)
                .unwrap()
                .options()
                .unwrap()
                .len()
                > 100
        );
    }
}
