//! Arguments of verbs: a few flags, and what follows `--`.

use std::ffi::OsString;

use anyhow::{Result, bail};

/// What a verb was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    flags: Vec<String>,
    /// What followed `--`.
    pub(crate) rest: Vec<OsString>,
}

impl Args {
    /// Splits `args`, of which those before `--` must all be in `known`.
    ///
    /// # Errors
    /// When one is not.
    pub(crate) fn parse(args: &[OsString], known: &[&str]) -> Result<Self> {
        let end = args.iter().position(|arg| arg == "--");
        let (flags, rest) = args.split_at(end.unwrap_or(args.len()));
        let mut seen = Vec::new();
        for flag in flags {
            match known.iter().find(|known| flag == **known) {
                Some(known) => seen.push((*known).to_owned()),
                None => bail!("Unexpected argument `{}`", flag.display()),
            }
        }
        Ok(Self {
            flags: seen,
            rest: rest.iter().skip(1).cloned().collect(),
        })
    }

    /// Whether `flag` was given.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|seen| seen == flag)
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
    fn an_unknown_flag_is_refused() {
        let error = Args::parse(&["--fast".into()], &["--release"]).unwrap_err();
        assert_eq!(error.to_string(), "Unexpected argument `--fast`");
    }
}
