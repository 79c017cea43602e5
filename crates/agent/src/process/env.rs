//! A process's environment, and where its program is looked for.

use std::ffi::CString;

use cofferdam_proto::{FailureKind, ProcessSpec};

use super::user::User;
use crate::failure::{Result, failure};

/// Docker's default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of `spec`, with what is absent and every container has.
pub(super) fn complete(spec: &ProcessSpec, user: &User, hostname: &str) -> Vec<String> {
    let mut env = spec.env.clone();
    add(&mut env, "PATH", DEFAULT_PATH);
    add(&mut env, "HOSTNAME", hostname);
    add(&mut env, "HOME", &user.home);
    // An empty one says nothing, as in runc: programs would write to the root.
    for entry in env.iter_mut().filter(|entry| *entry == "HOME=") {
        entry.push_str(&user.home);
    }
    if spec.terminal.is_some() {
        add(&mut env, "TERM", "xterm");
    }
    env
}

/// Adds a variable that is not there.
fn add(env: &mut Vec<String>, key: &str, value: &str) {
    if lookup(env, key).is_none() {
        env.push(format!("{key}={value}"));
    }
}

/// The paths under which `program` may be, in order: itself when it has a slash, else below each
/// directory of `PATH`. An empty directory of `PATH` is the working directory, as in POSIX.
pub(super) fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = lookup(env, "PATH").unwrap_or(DEFAULT_PATH);
    let below = |directory: &str| match directory {
        "" => format!("./{program}"),
        directory => format!("{directory}/{program}"),
    };
    path.split(':').map(below).collect()
}

/// `text` for the kernel.
pub(super) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| {
        let message = format!("`{}` has a zero byte", text.escape_debug());
        failure(FailureKind::OutOfOrder, message)
    })
}

fn lookup<'a>(env: &'a [String], key: &str) -> Option<&'a str> {
    let value = |entry: &'a String| entry.strip_prefix(key)?.strip_prefix('=');
    env.iter().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            uid: 33,
            gid: 33,
            groups: vec![33],
            home: "/var/www".to_owned(),
        }
    }

    fn env(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.to_owned()).collect()
    }

    #[test]
    fn what_is_absent_is_added_and_what_is_there_is_kept() {
        let mut spec = ProcessSpec {
            env: env(&["HOME=/elsewhere", "PATHS=x"]),
            ..ProcessSpec::default()
        };
        let path = format!("PATH={DEFAULT_PATH}");
        let expected = env(&["HOME=/elsewhere", "PATHS=x", &path, "HOSTNAME=box"]);
        assert_eq!(complete(&spec, &user(), "box"), expected);
        spec.env = env(&["PATH=", "HOME="]);
        spec.terminal = Some(cofferdam_proto::TerminalSize {
            rows: 24,
            columns: 80,
        });
        let expected = env(&["PATH=", "HOME=/var/www", "HOSTNAME=box", "TERM=xterm"]);
        assert_eq!(complete(&spec, &user(), "box"), expected);
    }

    #[test]
    fn programs_are_looked_for_in_the_order_of_the_path() {
        let path = env(&["PATH=/a::/b/"]);
        assert_eq!(candidates("x", &path), ["/a/x", "./x", "/b//x"]);
        assert_eq!(candidates("./x", &path), ["./x"]);
        assert_eq!(candidates("/x", &path), ["/x"]);
        assert_eq!(candidates("x", &[]).len(), 6);
    }
}
