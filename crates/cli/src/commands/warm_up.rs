//! Commands that a machine is to have run: those of `--exec`, and the one behind the image.
//!
//! What follows an image is a command everywhere else. Here the flags may follow it too, since
//! they are about the image: they are taken off the command's front, up to `--` or the command.

use cofferdam::{Error, ErrorKind, Result};

/// What was asked for, in front of the image and behind it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WarmUpArgs {
    /// Shell commands.
    pub(super) exec: Vec<String>,
    /// Text to wait for.
    pub(super) wait_for: Option<String>,
    /// The command itself.
    pub(super) command: Vec<String>,
}

impl WarmUpArgs {
    /// Takes the flags off the front of `command`.
    pub(super) fn new(exec: &[String], wait_for: Option<&str>, command: &[String]) -> Result<Self> {
        let mut asked = Self {
            exec: exec.to_vec(),
            wait_for: wait_for.map(str::to_owned),
            command: Vec::new(),
        };
        let mut words = command.iter();
        while let Some(word) = words.next() {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let mut value = || {
                let missing =
                    || Error::new(ErrorKind::InvalidSpec, format!("`{flag}` wants a value"));
                value
                    .clone()
                    .or_else(|| words.next().cloned())
                    .ok_or_else(missing)
            };
            match flag {
                "--exec" => asked.exec.push(value()?),
                "--wait-for" => asked.wait_for = Some(value()?),
                "--" => {
                    asked.command = words.cloned().collect();
                    break;
                }
                _ => {
                    asked.command = std::iter::once(word).chain(words).cloned().collect();
                    break;
                }
            }
        }
        Ok(asked)
    }

    /// The shell commands as argument vectors.
    pub(super) fn warm_ups(&self) -> Vec<Vec<String>> {
        let shell = |command: &String| vec!["/bin/sh".to_owned(), "-c".to_owned(), command.clone()];
        self.exec.iter().map(shell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(command: &[&str]) -> WarmUpArgs {
        let command: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
        WarmUpArgs::new(&["first".to_owned()], None, &command).unwrap()
    }

    #[test]
    fn flags_may_follow_the_image_and_end_at_the_command() {
        let all = asked(&["--exec", "a b", "--wait-for=up", "serve", "--exec", "mine"]);
        assert_eq!(all.exec, ["first", "a b"]);
        assert_eq!(all.wait_for.as_deref(), Some("up"));
        assert_eq!(all.command, ["serve", "--exec", "mine"]);
    }

    #[test]
    fn two_dashes_end_the_flags() {
        let all = asked(&["--exec", "a", "--", "--exec"]);
        assert_eq!((all.exec.len(), all.command.len()), (2, 1));
        assert!(WarmUpArgs::new(&[], None, &["--exec".to_owned()]).is_err());
    }
}
