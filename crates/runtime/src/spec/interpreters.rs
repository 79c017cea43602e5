//! Known interpreters, which templates and standbys run once before anybody needs them.
//!
//! An interpreter's start touches megabytes of code and files. Done ahead, they are in memory, and
//! in a standby of an emulated machine the code is translated too. The run is harmless: each
//! interpreter gets a program that does nothing, with the image's environment and none of the
//! user's, and every file system read-only ([`cofferdam_proto::HostMessage::Rehearse`]).

use cofferdam_image::ImageConfig;
use cofferdam_proto::ProcessSpec;
use cofferdam_types::{SandboxId, SandboxSpec};

use serde::{Deserialize, Serialize};

use crate::spec::process;

/// An interpreter and how it is started to do nothing.
struct Interpreter {
    /// Names of its program, without a version.
    names: &'static [&'static str],
    arguments: &'static [&'static str],
}

const INTERPRETERS: [Interpreter; 6] = [
    Interpreter {
        names: &["python", "pypy"],
        arguments: &["-c", "pass"],
    },
    Interpreter {
        names: &["node", "nodejs"],
        arguments: &["-e", "0"],
    },
    Interpreter {
        names: &["perl"],
        arguments: &["-e", "0"],
    },
    Interpreter {
        names: &["ruby"],
        arguments: &["-e", "0"],
    },
    Interpreter {
        names: &["bash"],
        arguments: &["-c", ":"],
    },
    Interpreter {
        names: &["java"],
        arguments: &["-version"],
    },
];

/// How many words of a command line are looked at, and how many parts of a word: an interpreter
/// stands at the front, or behind a wrapper such as `env`, `tini --` or `sh -c`.
const MAX_WORDS: usize = 8;

/// What every claim of a standby does: start a program that ends at once.
const CLAIMS: [&[&str]; 2] = [&["/bin/true"], &["/bin/sh", "-c", ":"]];

/// What machines of an image run ahead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoWarmUps {
    /// A process of the image without the user's part, and without a command.
    process: ProcessSpec,
    /// The harmless starts of the interpreters that the image or the user names.
    interpreters: Vec<Vec<String>>,
}

impl AutoWarmUps {
    /// Those of a sandbox; none with `no_warm`.
    pub(crate) fn of(spec: &SandboxSpec, image: &ImageConfig) -> Option<Self> {
        if spec.no_warm {
            return None;
        }
        let plain = SandboxSpec {
            image: spec.image.clone(),
            entrypoint: Some(Vec::new()),
            // Needs a command, which is taken off again.
            command: vec![String::new()],
            workdir: Some("/".to_owned()),
            ..SandboxSpec::default()
        };
        let mut process = process::merge(&plain, image, SandboxId::from_random([0; 32])).ok()?;
        process.argv.clear();
        let user = spec.entrypoint.iter().flatten().chain(&spec.command);
        let user: Vec<String> = user.skip_while(|word| *word == "--").cloned().collect();
        let lines = [&image.entrypoint, &image.cmd, &user];
        let mut interpreters: Vec<_> = lines.into_iter().flat_map(|line| named(line)).collect();
        interpreters.sort();
        interpreters.dedup();
        Some(Self {
            process,
            interpreters,
        })
    }

    /// The harmless starts of known interpreters.
    pub(crate) fn interpreters(&self) -> Vec<ProcessSpec> {
        self.processes(self.interpreters.iter().cloned())
    }

    /// The programs that a standby starts as a claim would.
    pub(crate) fn claims(&self) -> Vec<ProcessSpec> {
        let line = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        self.processes(CLAIMS.into_iter().map(line))
    }

    fn processes(&self, lines: impl Iterator<Item = Vec<String>>) -> Vec<ProcessSpec> {
        let process = |argv| ProcessSpec {
            argv,
            ..self.process.clone()
        };
        lines.map(process).collect()
    }
}

/// The harmless starts of the interpreters in a command line.
fn named(line: &[String]) -> Vec<Vec<String>> {
    let words = line
        .iter()
        .take(MAX_WORDS)
        .flat_map(|word| word.split_whitespace().take(MAX_WORDS));
    words.filter_map(harmless_start).collect()
}

/// How the interpreter of this name or path is started to do nothing; none if it is not one.
fn harmless_start(word: &str) -> Option<Vec<String>> {
    let name = word.rsplit('/').next()?;
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let known = INTERPRETERS
        .iter()
        .find(|interpreter| interpreter.names.contains(&name))?;
    let arguments = known.arguments.iter().map(|word| (*word).to_owned());
    Some(std::iter::once(word.to_owned()).chain(arguments).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn image(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
        ImageConfig {
            entrypoint: strings(entrypoint),
            cmd: strings(cmd),
            env: strings(&["PATH=/opt/bin:/bin"]),
            user: "app".to_owned(),
            working_dir: "/work".to_owned(),
            ..ImageConfig::default()
        }
    }

    fn lines(spec: &SandboxSpec, image: &ImageConfig) -> Vec<String> {
        let all = AutoWarmUps::of(spec, image).unwrap().interpreters();
        all.iter().map(|process| process.argv.join(" ")).collect()
    }

    #[test]
    fn interpreters_are_found_where_images_name_them() {
        let none = SandboxSpec::default();
        for (entrypoint, cmd, expected) in [
            (&[][..], &["python3"][..], &["python3 -c pass"][..]),
            (
                &["/usr/bin/python3.11"],
                &["app.py"],
                &["/usr/bin/python3.11 -c pass"],
            ),
            (&["docker-entrypoint.sh"], &["node"], &["node -e 0"]),
            (&["tini", "--", "ruby", "x.rb"], &[], &["ruby -e 0"]),
            (&[], &["/usr/bin/env", "perl"], &["perl -e 0"]),
            (
                &[],
                &["/bin/sh", "-c", "exec java -jar /app.jar"],
                &["java -version"],
            ),
            (&["bash"], &["bash"], &["bash -c :"]),
            (&[], &["/bin/sh"], &[]),
            (&["/pythonic"], &["python-app", "nodes"], &[]),
        ] {
            assert_eq!(lines(&none, &image(entrypoint, cmd)), strings(expected));
        }
    }

    #[test]
    fn the_users_command_counts_and_its_environment_does_not() {
        let spec = SandboxSpec {
            command: strings(&["python3", "-c", "print(1)"]),
            env: strings(&["SECRET=1"]),
            user: Some("root".to_owned()),
            ..SandboxSpec::default()
        };
        let all = AutoWarmUps::of(&spec, &image(&[], &["/bin/sh"])).unwrap();
        let all = [all.interpreters(), all.claims()].concat();
        assert_eq!(all[0].argv, strings(&["python3", "-c", "pass"]));
        assert_eq!(all[1].argv, strings(&["/bin/true"]));
        for process in &all {
            assert!(process.env.contains(&"PATH=/opt/bin:/bin".to_owned()));
            assert!(!process.env.iter().any(|entry| entry.contains("SECRET")));
            assert_eq!(
                (process.user.as_str(), process.workdir.as_str()),
                ("app", "/")
            );
        }
        let off = SandboxSpec {
            no_warm: true,
            ..spec
        };
        assert_eq!(AutoWarmUps::of(&off, &image(&[], &["python3"])), None);
    }
}
