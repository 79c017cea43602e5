//! Arguments of verbs: a few flags, options with a value, and what follows `--`.

use std::ffi::OsString;

use anyhow::{Context as _, Result, bail};

/// What a verb was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    flags: Vec<String>,
    values: Vec<(String, String)>,
    /// What followed `--`.
    pub(crate) rest: Vec<OsString>,
}

impl Args {
    /// Splits `args`, of which those before `--` must all be in `known`.
    ///
    /// # Errors
    /// When one is not.
    pub(crate) fn parse(args: &[OsString], known: &[&str]) -> Result<Self> {
        Self::parse_with(args, known, &[])
    }

    /// As [`Args::parse`], with options whose value is the next argument.
    ///
    /// # Errors
    /// When one is neither a flag nor an option, or a value is missing or no UTF-8.
    pub(crate) fn parse_with(args: &[OsString], known: &[&str], options: &[&str]) -> Result<Self> {
        let end = args.iter().position(|arg| arg == "--");
        let (flags, rest) = args.split_at(end.unwrap_or(args.len()));
        let mut seen = Vec::new();
        let mut values = Vec::new();
        let mut flags = flags.iter();
        while let Some(flag) = flags.next() {
            if let Some(known) = known.iter().find(|known| flag == **known) {
                seen.push((*known).to_owned());
            } else if let Some(option) = options.iter().find(|option| flag == **option) {
                let value = flags.next().and_then(|value| value.to_str());
                let value = value.with_context(|| format!("`{option}` needs a value"))?;
                values.push(((*option).to_owned(), value.to_owned()));
            } else {
                bail!("Unexpected argument `{}`", flag.display());
            }
        }
        Ok(Self {
            flags: seen,
            values,
            rest: rest.iter().skip(1).cloned().collect(),
        })
    }

    /// Whether `flag` was given.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|seen| seen == flag)
    }

    /// The value of an option; the last one counts.
    pub(crate) fn value(&self, option: &str) -> Option<&str> {
        let found = self.values.iter().rev().find(|(name, _)| name == option);
        found.map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_at_the_two_dashes() {
        let args = ["--release", "--", "--release", "x"].map(OsString::from);
        let args = Args::parse(&args, &["--release"]).unwrap();
        assert!(args.has("--release"));
        assert_eq!(args.rest, ["--release", "x"].map(OsString::from));
    }

    #[test]
    fn an_option_has_the_argument_behind_it() {
        let parse = |args: &[&str]| {
            let args: Vec<_> = args.iter().map(OsString::from).collect();
            Args::parse_with(&args, &["--check"], &["--qemu"])
        };
        let args = parse(&["--qemu", "7.2", "--check", "--qemu", "10"]).unwrap();
        assert_eq!(args.value("--qemu"), Some("10"));
        assert!(args.has("--check"));
        assert_eq!(parse(&["--check"]).unwrap().value("--qemu"), None);
        let error = parse(&["--qemu"]).unwrap_err();
        assert_eq!(error.to_string(), "`--qemu` needs a value");
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        let error = Args::parse(&["--fast".into()], &["--release"]).unwrap_err();
        assert_eq!(error.to_string(), "Unexpected argument `--fast`");
    }
}
