//! The workload's process: what the user asks over what the image says.
//!
//! Source: OCI image-spec, config.md and conversion.md; where they are silent, Docker.

use cofferdam_image::ImageConfig;
use cofferdam_proto::{ProcessSpec, TerminalSize};
use cofferdam_types::{SandboxId, SandboxSpec, Signal};

use super::secret_env;
use crate::base::error::{Error, ErrorKind, Result};

/// A terminal's size until a client tells its own.
const DEFAULT_TERMINAL: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// Merges.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] when neither side names a command.
pub(crate) fn merge(spec: &SandboxSpec, image: &ImageConfig, id: SandboxId) -> Result<ProcessSpec> {
    let argv = command(spec, image);
    if argv.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidSpec,
            format!("Neither the image `{}` nor you named a command", spec.image),
        )
        .hint("Add one behind the image's name"));
    }
    let hostname = spec.hostname.clone().unwrap_or_else(|| id.short());
    let mut env = Vec::new();
    for entry in &image.env {
        add_image_env(&mut env, entry);
    }
    // An image may set its own, as in Docker.
    if !env.iter().any(|entry| entry.starts_with("HOSTNAME=")) {
        env.push(format!("HOSTNAME={hostname}"));
    }
    let (placeholders, trust) = secret_env::environment(&spec.network);
    for entry in placeholders.iter().chain(&spec.env) {
        set_env(&mut env, entry.clone());
    }
    for (name, entry) in trust {
        let is_set = |known: &String| known.split('=').next() == Some(&name);
        if !env.iter().any(is_set) {
            env.push(entry);
        }
    }
    let workdir = spec
        .workdir
        .clone()
        .unwrap_or_else(|| image.working_dir.clone());
    // JSON can hold what no process can be given.
    let texts = argv.iter().chain(&env).chain([&workdir]);
    if let Some(text) = texts.into_iter().find(|text| text.contains('\0')) {
        let text = text.escape_debug();
        let what = format!("`{text}` has a zero byte, which no program can be given");
        return Err(Error::new(ErrorKind::InvalidSpec, what));
    }
    Ok(ProcessSpec {
        argv,
        env,
        // What an image says is below the root, as in Docker; a user's own is absolute.
        workdir: if workdir.starts_with('/') {
            workdir
        } else {
            format!("/{workdir}")
        },
        user: spec.user.clone().unwrap_or_else(|| image.user.clone()),
        terminal: spec.tty.then_some(DEFAULT_TERMINAL),
        stdin: spec.stdin,
        rlimits: spec.limits.rlimits.clone(),
        privileges: spec.privileges.clone(),
        init: spec.init,
    })
}

/// Entrypoint and command: an entrypoint of the user's drops the image's command. Two dashes in
/// front are an argument of an entrypoint, as in Docker; of no program they are the name, so
/// without an entrypoint they stand between image and command only.
fn command(spec: &SandboxSpec, image: &ImageConfig) -> Vec<String> {
    let entrypoint = spec.entrypoint.as_ref().unwrap_or(&image.entrypoint);
    // Builders write one empty string for none, and Docker reads it so.
    let is_none = matches!(entrypoint.as_slice(), [one] if one.is_empty());
    let entrypoint = if is_none { &Vec::new() } else { entrypoint };
    let command = match spec.command.as_slice() {
        [dashes, rest @ ..] if entrypoint.is_empty() && dashes == "--" => rest,
        all => all,
    };
    let command = if command.is_empty() && spec.entrypoint.is_none() {
        &image.cmd
    } else {
        command
    };
    entrypoint.iter().chain(command).cloned().collect()
}

/// Adds what an image sets. A name alone is set to nothing, as in podman; what has no name is no
/// variable.
fn add_image_env(env: &mut Vec<String>, entry: &str) {
    match entry.find('=') {
        Some(0) => {}
        Some(_) => set_env(env, entry.to_owned()),
        None if entry.is_empty() => {}
        None => set_env(env, format!("{entry}=")),
    }
}

/// Sets one variable; the last setting wins and keeps the place of the first.
pub(crate) fn set_env(env: &mut Vec<String>, entry: String) {
    let key_length = entry.find('=').map_or(entry.len(), |position| position + 1);
    let key = &entry[..key_length];
    match env.iter_mut().find(|old| old.starts_with(key)) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

/// The signal that asks the workload to end: the user's, the image's, or SIGTERM. With the signal,
/// a warning when the image names none that Linux has.
pub(crate) fn stop_signal(spec: &SandboxSpec, image: &ImageConfig) -> (Signal, Option<String>) {
    match (&spec.stop_signal, image.stop_signal.as_deref()) {
        (Some(signal), _) => (*signal, None),
        (None, Some(name)) if !name.trim().is_empty() => match name.parse() {
            Ok(signal) => (signal, None),
            Err(error) => {
                let text = format!("The image's stop signal is not used: {error}");
                (Signal::TERM, Some(text))
            }
        },
        _ => (Signal::TERM, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: strings(&["/entry"]),
            cmd: strings(&["default"]),
            env: strings(&["PATH=/bin", "A=image"]),
            working_dir: "/work".to_owned(),
            user: "app".to_owned(),
            stop_signal: Some("SIGQUIT".to_owned()),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn commands_follow_the_oci_rules() {
        for (entrypoint, command_, expected) in [
            (None, &[][..], &["/entry", "default"][..]),
            (None, &["x"], &["/entry", "x"]),
            (Some(&["/mine"][..]), &[], &["/mine"]),
            (Some(&["/mine"]), &["x"], &["/mine", "x"]),
            (Some(&[]), &["x"], &["x"]),
            (None, &["--", "x"], &["/entry", "--", "x"]),
            (Some(&["/mine"]), &["--", "x"], &["/mine", "--", "x"]),
            (Some(&[]), &["--", "x", "--"], &["x", "--"]),
        ] {
            let spec = SandboxSpec {
                entrypoint: entrypoint.map(strings),
                command: strings(command_),
                ..SandboxSpec::default()
            };
            assert_eq!(command(&spec, &image()), strings(expected));
        }
    }

    #[test]
    fn the_users_environment_wins_and_the_image_fills_in() {
        let id = SandboxId::from_random([7; 32]);
        let spec = SandboxSpec {
            env: strings(&["A=mine", "B=1", "B=2"]),
            ..SandboxSpec::default()
        };
        let process = merge(&spec, &image(), id).unwrap();
        let host = format!("HOSTNAME={}", id.short());
        assert_eq!(process.env, strings(&["PATH=/bin", "A=mine", &host, "B=2"]));
        assert_eq!(
            (process.workdir.as_str(), process.user.as_str()),
            ("/work", "app")
        );
    }

    #[test]
    fn a_relative_directory_of_an_image_is_below_the_root() {
        for (directory, expected) in [("", "/"), ("a/b", "/a/b"), ("/c", "/c")] {
            let image = ImageConfig {
                working_dir: directory.to_owned(),
                ..image()
            };
            let id = SandboxId::from_random([7; 32]);
            let process = merge(&SandboxSpec::default(), &image, id).unwrap();
            assert_eq!(process.workdir, expected);
        }
    }

    #[test]
    fn no_command_at_all_is_the_users_error() {
        let error = merge(
            &SandboxSpec::default(),
            &ImageConfig::default(),
            SandboxId::from_random([0; 32]),
        );
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidSpec);
    }

    #[test]
    fn the_stop_signal_is_the_users_then_the_images_then_term() {
        let spec = SandboxSpec::default();
        let of = |spec: &SandboxSpec, image: &ImageConfig| stop_signal(spec, image).0;
        assert_eq!(of(&spec, &image()), Signal::QUIT);
        assert_eq!(of(&spec, &ImageConfig::default()), Signal::TERM);
        let mine = SandboxSpec {
            stop_signal: Some(Signal::INT),
            ..SandboxSpec::default()
        };
        assert_eq!(of(&mine, &image()), Signal::INT);
    }

    #[test]
    fn a_stop_signal_that_linux_has_not_is_a_warning() {
        let odd = ImageConfig {
            stop_signal: Some("SIGWAT".to_owned()),
            ..image()
        };
        let (signal, warning) = stop_signal(&SandboxSpec::default(), &odd);
        assert_eq!(signal, Signal::TERM);
        assert!(warning.unwrap().contains("`SIGWAT`"));
    }

    #[test]
    fn an_image_may_set_its_own_hostname_variable() {
        let id = SandboxId::from_random([7; 32]);
        let image = ImageConfig {
            env: strings(&["HOSTNAME=image"]),
            ..image()
        };
        let process = merge(&SandboxSpec::default(), &image, id).unwrap();
        assert_eq!(process.env, strings(&["HOSTNAME=image"]));
    }

    #[test]
    fn a_zero_byte_of_an_image_is_refused_before_a_start() {
        let id = SandboxId::from_random([7; 32]);
        let in_env = ImageConfig {
            env: strings(&["A=x\0y"]),
            ..image()
        };
        let in_command = ImageConfig {
            cmd: strings(&["a\0b"]),
            ..image()
        };
        let in_workdir = ImageConfig {
            working_dir: "/a\0b".to_owned(),
            ..image()
        };
        for image in [in_env, in_command, in_workdir] {
            let error = merge(&SandboxSpec::default(), &image, id).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error:?}");
            assert!(error.to_string().contains("has a zero byte"), "{error}");
        }
    }

    #[test]
    fn an_entrypoint_of_one_empty_string_is_none() {
        let image = ImageConfig {
            entrypoint: strings(&[""]),
            ..image()
        };
        let of = |command_: &[&str]| {
            let spec = SandboxSpec {
                command: strings(command_),
                ..SandboxSpec::default()
            };
            command(&spec, &image)
        };
        assert_eq!(of(&[]), strings(&["default"]));
        assert_eq!(of(&["x"]), strings(&["x"]));
    }

    #[test]
    fn of_duplicate_variables_of_an_image_the_last_counts() {
        let image = ImageConfig {
            env: strings(&["A=1", "JUSTNAME", "A=2", "=x", "", "B=3"]),
            ..image()
        };
        let spec = SandboxSpec {
            hostname: Some("h".to_owned()),
            env: strings(&["B=4"]),
            ..SandboxSpec::default()
        };
        let process = merge(&spec, &image, SandboxId::from_random([7; 32])).unwrap();
        assert_eq!(
            process.env,
            strings(&["A=2", "JUSTNAME=", "B=4", "HOSTNAME=h"])
        );
    }
}
