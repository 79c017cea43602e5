//! A fork whose agent does not confirm who it is now.

use std::{fs, path::PathBuf};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Finished},
    image, qemu,
};

/// A store of its own whose machines run under a QEMU that, once told, lets what their agents say
/// go nowhere. The machines are the same, so a capture of one fits the other.
struct Deaf {
    coffer: Coffer,
    dir: tempfile::TempDir,
    qemu: PathBuf,
}

impl Deaf {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "if test -e {flag}; then\n\
               for word; do\n\
                 shift\n\
                 case $word in socket,id=agent,*) word=null,id=agent ;; esac\n\
                 set -- \"$@\" \"$word\"\n\
               done\n\
             fi",
            flag = dir.path().join("deaf").display(),
        );
        let qemu = qemu::wrapped(dir.path(), &script);
        let coffer = Coffer::empty();
        let deaf = Self { coffer, dir, qemu };
        let archive = image::busybox_archive(BUSYBOX);
        assert_eq!(deaf.coffer.run_with_input(["load"], &archive).code, 0);
        deaf
    }

    fn run(&self, args: &[&str]) -> Finished {
        let mut command = self.coffer.command(args);
        let output = command.env("COFFER_QEMU", &self.qemu).output().unwrap();
        Finished {
            code: output.status.code().unwrap(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
            elapsed: std::time::Duration::ZERO,
        }
    }

    fn ok(&self, args: &[&str]) -> String {
        let finished = self.run(args);
        assert_eq!(finished.code, 0, "{finished:?}");
        finished.text()
    }

    fn switch(&self, deaf: bool) {
        let flag = self.dir.path().join("deaf");
        if deaf {
            fs::write(flag, b"").unwrap();
        } else {
            fs::remove_file(flag).unwrap();
        }
    }
}

#[test]
fn a_fork_whose_agent_does_not_confirm_is_no_fork() {
    let deaf = Deaf::new();
    let parent = deaf.ok(&["run", "-d", BUSYBOX, "sleep", "1000000"]);
    deaf.switch(true);
    let fork = deaf.run(&["fork", &parent]);
    assert_eq!(fork.code, 1, "{fork:?}");
    assert_eq!(fork.text(), "", "{fork:?}");
    assert!(fork.stderr.contains("guest"), "{fork:?}");
    // Nothing of it is left, the parent runs, and a fork that confirms is one.
    assert_eq!(deaf.ok(&["ps", "-aq", "--no-trunc"]), parent);
    assert_eq!(deaf.ok(&["exec", &parent, "echo", "alive"]), "alive");
    deaf.switch(false);
    let fork = deaf.ok(&["fork", &parent]);
    assert_eq!(deaf.ok(&["exec", &fork, "hostname"]), fork[..12]);
}
