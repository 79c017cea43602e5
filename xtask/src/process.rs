//! Running other programs, with errors that name the command.

use std::{
    env,
    ffi::OsStr,
    io::{self, ErrorKind},
    iter,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Runs `command` to its end, its output going where ours goes.
///
/// # Errors
/// When it cannot start or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("Could not start `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", display(command));
    }
    Ok(())
}

/// As [`run`], with its standard output going to our standard error: what our own standard output
/// says is for programs to read.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_aside(command: &mut Command) -> Result<()> {
    run(command.stdout(io::stderr()))
}

/// Runs `command` and returns its standard output without trailing white space.
///
/// # Errors
/// When it cannot start, does not succeed, or writes no UTF-8. The error quotes what it wrote to
/// standard error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("Could not start `{}`", display(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}: {}",
            display(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` wrote no UTF-8", display(command)))?;
    Ok(text.trim_end().to_owned())
}

/// Makes `command` look for programs in `directory` first.
///
/// # Errors
/// When the directory's name cannot stand in `PATH`.
pub(crate) fn prepend_path(command: &mut Command, directory: &Path) -> Result<()> {
    let own = command.get_envs().find(|(name, _)| *name == "PATH");
    let present = match own {
        Some((_, value)) => value.map(OsStr::to_owned),
        None => env::var_os("PATH"),
    };
    let present = present.unwrap_or_default();
    let all = iter::once(directory.to_owned()).chain(env::split_paths(&present));
    let path = env::join_paths(all)
        .with_context(|| format!("`{}` cannot stand in `PATH`", directory.display()))?;
    command.env("PATH", path);
    Ok(())
}

/// Whether the program `name` is installed, whatever it answers to `probe`.
pub(crate) fn exists(name: &str, probe: &str) -> bool {
    !matches!(
        Command::new(name)
            .arg(probe)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status(),
        Err(error) if error.kind() == ErrorKind::NotFound
    )
}

/// The command as one would type it, without quoting.
fn display(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_quotes_its_errors() {
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3: why"), "{text}");
    }

    #[test]
    fn directories_come_before_the_path_that_was_there() {
        let mut command = Command::new("sh");
        command.env("PATH", "/c");
        prepend_path(&mut command, Path::new("/b")).unwrap();
        prepend_path(&mut command, Path::new("/a")).unwrap();
        let (_, path) = command.get_envs().next().unwrap();
        assert_eq!(path.unwrap(), "/a:/b:/c");
        assert!(prepend_path(&mut command, Path::new("/a:b")).is_err());
    }

    #[test]
    fn a_missing_program_does_not_exist() {
        assert!(exists("sh", "-c"));
        assert!(!exists("no-such-program-anywhere", "--version"));
    }
}
