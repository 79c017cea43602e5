//! Variables from flags and files. Source: docker-run(1), `--env` and `--env-file`.

use std::{fs::File, io::Read as _, path::Path};

use cofferdam::{Error, ErrorKind, Result};

use crate::args::EnvArgs;

/// Largest file of variables, in bytes: what a process may have at all.
const MAX_FILE_BYTES: u64 = 2 << 20;

/// Variables of the files, then of the flags. One without a value takes the caller's, and is
/// left out if the caller has none.
pub(crate) fn collect(args: &EnvArgs) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for path in &args.env_file {
        for (number, line) in (1..).zip(read(path)?.lines().map(str::trim_start)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad_line = |error: Error| {
                let what = format!("Line {number} of `{}` is wrong", path.display());
                Error::new(ErrorKind::InvalidSpec, what).because(error)
            };
            let key = line.split('=').next().unwrap_or_default();
            if key.contains(char::is_whitespace) {
                let what = format!("`{key}` is no name of a variable");
                return Err(bad_line(Error::new(ErrorKind::InvalidSpec, what)));
            }
            all.extend(variable(line).map_err(bad_line)?);
        }
    }
    for flag in &args.env {
        all.extend(variable(flag)?);
    }
    Ok(all)
}

fn read(path: &Path) -> Result<String> {
    let failed = || {
        let what = format!("Could not read `{}`", path.display());
        Error::new(ErrorKind::InvalidSpec, what)
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| failed().because(error))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(failed().because("file is larger than 2 MiB"));
    }
    // Editors on Windows begin files with a byte order mark.
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(text))
}

fn variable(text: &str) -> Result<Option<String>> {
    let invalid = |what: String| Error::new(ErrorKind::InvalidSpec, what);
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(Some(text.to_owned())),
        None if !text.is_empty() && !text.contains(char::is_whitespace) => {
            let Some(value) = std::env::var_os(text) else {
                return Ok(None);
            };
            let value = value
                .into_string()
                .map_err(|_| invalid(format!("The value of `{text}` is not UTF-8")))?;
            Ok(Some(format!("{text}={value}")))
        }
        _ => Err(invalid(format!("`{text}` is not `KEY=VALUE`"))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn collect(env: &[String], files: &[PathBuf]) -> Result<Vec<String>> {
        super::collect(&EnvArgs {
            env: env.to_vec(),
            env_file: files.to_vec(),
        })
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let error = collect(&[], &["/dev/zero".into()]).unwrap_err();
        assert!(error.chain().contains("2 MiB"), "{}", error.chain());
    }

    #[test]
    fn files_come_first_and_comments_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        std::fs::write(&path, "\u{feff}# no\n\nA=1\n  B=x y\nNOT_SET_ANYWHERE\n").unwrap();
        let all = collect(&["A=2".to_owned()], std::slice::from_ref(&path)).unwrap();
        assert_eq!(all, ["A=1", "B=x y", "A=2"]);
        assert!(collect(&["=x".to_owned()], &[]).is_err());
        std::fs::write(&path, "A B=1\n").unwrap();
        let error = collect(&[], std::slice::from_ref(&path)).unwrap_err();
        assert!(error.chain().contains("`A B`"), "{}", error.chain());
        for bad in ["=x", "A B=1", "A B"] {
            std::fs::write(&path, format!("A=1\n\n{bad}\n")).unwrap();
            let error = collect(&[], std::slice::from_ref(&path)).unwrap_err();
            let place = format!("Line 3 of `{}`", path.display());
            assert!(error.to_string().contains(&place), "{error}");
        }
        assert!(collect(&[], &["/no/such".into()]).is_err());
    }
}
