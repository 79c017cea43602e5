//! Variables from flags and files. Source: docker-run(1), `--env` and `--env-file`.

use std::{fs, path::PathBuf};

use cofferdam::{Error, ErrorKind, Result};

/// Largest file of variables, in bytes: what a process may have at all.
const MAX_FILE_BYTES: usize = 2 << 20;

/// Variables of the files, then of the flags. One without a value takes the caller's, and is
/// left out if the caller has none.
pub(crate) fn collect(flags: &[String], files: &[PathBuf]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for path in files {
        let failed = || {
            Error::new(
                ErrorKind::InvalidSpec,
                format!("Could not read `{}`", path.display()),
            )
        };
        let text = fs::read_to_string(path).map_err(|error| failed().because(error))?;
        if text.len() > MAX_FILE_BYTES {
            return Err(failed().because("file is larger than 2 MiB"));
        }
        let lines = text.lines().map(str::trim_start);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            all.extend(variable(line)?);
        }
    }
    for flag in flags {
        all.extend(variable(flag)?);
    }
    Ok(all)
}

fn variable(text: &str) -> Result<Option<String>> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(Some(text.to_owned())),
        None if !text.is_empty() && !text.contains(char::is_whitespace) => Ok(std::env::var(text)
            .ok()
            .map(|value| format!("{text}={value}"))),
        _ => Err(Error::new(
            ErrorKind::InvalidSpec,
            format!("`{text}` is not `KEY=VALUE`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_first_and_comments_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        fs::write(&path, "# no\n\nA=1\n  B=x y\nNOT_SET_ANYWHERE\n").unwrap();
        let all = collect(&["A=2".to_owned()], &[path]).unwrap();
        assert_eq!(all, ["A=1", "B=x y", "A=2"]);
        assert!(collect(&["=x".to_owned()], &[]).is_err());
        assert!(collect(&[], &["/no/such".into()]).is_err());
    }
}
