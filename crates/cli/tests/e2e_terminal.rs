//! Terminals, closed and slow readers, limits and the verbs that tidy up: the real program, a
//! real guest. Terminals are made by `script` of util-linux.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    sandboxes::until,
};

/// The program on a terminal of its own.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: ChildStdout,
}

impl Terminal {
    fn start(coffer: &Coffer, args: &str) -> Self {
        let probe = coffer.command(["version"]);
        let program = probe.get_program().to_str().unwrap();
        let mut command = Command::new("script");
        command
            .args(["-q", "-e", "-f", "-c"])
            .arg(format!(
                "stty rows 31 cols 97; '{program}' {args}; code=$?; stty -a; exit $code"
            ))
            .arg("/dev/null")
            .env("COFFER_HOME", coffer.home())
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            keys: child.stdin.take().unwrap(),
            screen: child.stdout.take().unwrap(),
            child,
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    /// Reads until the screen shows `text`; the test's own time limit bounds it.
    fn shows(&mut self, text: &str) {
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(text.as_bytes()) {
            let length = self.screen.read(&mut byte).unwrap();
            assert_eq!(
                length,
                1,
                "`{text}` in `{}`",
                String::from_utf8_lossy(&seen)
            );
            seen.push(byte[0]);
        }
    }

    /// The exit code, and what was shown since.
    fn end(mut self) -> (i32, String) {
        let mut rest = String::new();
        self.screen.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code().unwrap(), rest)
    }
}

#[test]
fn a_shell_on_a_terminal_has_its_size_and_keys_and_leaves_the_terminal_as_it_was() {
    let coffer = Coffer::shared();
    let mut terminal = Terminal::start(&coffer, &format!("run --rm -it {BUSYBOX} sh"));
    terminal.shows("# ");
    terminal.press(b"stty size\n");
    terminal.shows("31 97");
    terminal.press(b"sh -c 'echo wai''ting; sleep 100000'\n");
    terminal.shows("waiting");
    // The shell lives on after an interrupt; its child does not.
    terminal.press(b"\x03");
    terminal.shows("# ");
    terminal.press(b"echo in''terrupted; exit 6\n");
    terminal.shows("interrupted");
    let (code, after) = terminal.end();
    assert_eq!(code, 6, "{after}");
    assert!(
        after.contains(" icanon") && after.contains(" echo "),
        "{after}"
    );
}

#[test]
fn a_terminal_that_hangs_up_leaves_a_sandbox_running_and_two_can_type_into_one() {
    let coffer = Coffer::private();
    let hang_up = |mut terminal: Terminal| {
        // The end of `script` closes the terminal: all on it get SIGHUP.
        terminal.child.kill().unwrap();
        terminal.child.wait().unwrap();
    };
    // The size is there before the program is.
    let args = format!("run --name hung -it {BUSYBOX} sh -c \"stty size; exec sh\"");
    let mut terminal = Terminal::start(&coffer, &args);
    terminal.shows("31 97");
    terminal.shows("# ");
    hang_up(terminal);
    let mut first = Terminal::start(&coffer, "attach hung");
    let mut second = Terminal::start(&coffer, "attach hung");
    first.press(b"echo fi''rst\n");
    first.shows("first");
    second.press(b"echo sec''ond\n");
    second.shows("second");
    first.shows("second");
    hang_up(first);
    second.press(b"echo al''one\n");
    second.shows("alone");
    hang_up(second);
    assert_eq!(coffer.status("hung"), "running");
    let mut third = Terminal::start(&coffer, "attach hung");
    third.press(b"exit 4\n");
    assert_eq!(third.end().0, 4);
    assert_eq!(coffer.ok(["wait", "hung"]), "4");
    coffer.ok(["rm", "hung"]);
}

#[test]
fn a_signal_that_the_caller_ignores_stays_ignored() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let probe = coffer.command(["version"]);
    let program = probe.get_program().to_str().unwrap();
    let inner = "trap 'echo heard' HUP; echo up; read line; echo $line";
    let outer = format!(
        "trap '' HUP; exec '{program}' exec -i {} sh -c \"$1\"",
        sandbox.id
    );
    let mut child = Command::new("sh")
        .args(["-c", &outer, "sh", inner])
        .env("COFFER_HOME", coffer.home())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 3]).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    child.stdin.take().unwrap().write_all(b"end\n").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "end\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_detach_keys_leave_a_sandbox_running() {
    let coffer = Coffer::shared();
    let id = coffer.ok(["run", "-dit", BUSYBOX, "sh"]);
    let mut terminal = Terminal::start(&coffer, &format!("attach {id}"));
    terminal.press(b"echo here''I am\n");
    terminal.shows("hereI am");
    terminal.press(b"\x10\x11");
    let (code, after) = terminal.end();
    assert_eq!(code, 0, "{after}");
    assert!(after.contains(" icanon"), "{after}");

    let args = format!("attach --detach-keys ctrl-x,q {id}");
    let mut terminal = Terminal::start(&coffer, &args);
    terminal.press(b"echo ag''ain\n");
    terminal.shows("again");
    terminal.press(b"\x18q");
    let (code, after) = terminal.end();
    assert_eq!(code, 0, "{after}");
    assert!(coffer.ok(["ps", "-q", "--no-trunc"]).contains(&id));
    coffer.ok(["rm", "-f", &id]);
}

#[test]
fn the_detach_keys_leave_a_sandbox_that_was_started_for_a_terminal_running() {
    let coffer = Coffer::private();
    let args = format!("run --rm --name left -it {BUSYBOX} sh");
    let mut terminal = Terminal::start(&coffer, &args);
    terminal.shows("# ");
    terminal.press(b"\x10\x11");
    let (code, after) = terminal.end();
    assert_eq!(code, 0, "{after}");
    assert_eq!(coffer.status("left"), "running");

    // A command goes on too: it ends only when it is told to.
    let wait = "exec -it left sh -c 'echo up; until test -e /go; do sleep 0.1; done; touch /gone'";
    let mut terminal = Terminal::start(&coffer, &wait.replace('\'', "\""));
    terminal.shows("up");
    terminal.press(b"\x10\x11");
    assert_eq!(terminal.end().0, 0);
    let told = "touch /go; until test -e /gone; do sleep 0.1; done; echo ended";
    assert_eq!(coffer.ok(["exec", "left", "sh", "-c", told]), "ended");
    coffer.ok(["kill", "left"]);
    until("its removal", || coffer.ok(["ps", "-aq"]).is_empty());

    coffer.ok(["create", "-it", "--name", "again", BUSYBOX, "sh"]);
    let args = "start -ai --detach-keys ctrl-x,q again";
    let mut terminal = Terminal::start(&coffer, args);
    terminal.press(b"echo here''I am\n");
    terminal.shows("hereI am");
    terminal.press(b"\x18q");
    assert_eq!(terminal.end().0, 0);
    assert_eq!(coffer.status("again"), "running");
}

#[test]
fn a_command_whose_reader_went_away_ends_by_sigpipe() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let script = "echo $$ > /pid; while :; do echo flood; done";
    let mut child = coffer
        .command(["exec", &sandbox.id, "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut byte).unwrap();
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(141));
    let wait = "while test -d /proc/$(cat /pid); do sleep 0.05; done; echo gone";
    assert_eq!(sandbox.exec(&["sh", "-c", wait]).text(), "gone");
}

#[test]
fn a_signal_gets_through_while_nobody_reads_the_output() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let mut child = coffer
        .command([
            "exec",
            &sandbox.id,
            "sh",
            "-c",
            "while :; do echo flood; done",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // Its process is gone at once, whether or not its output was read.
    let wait = "while ps | grep -q '[e]cho flood'; do sleep 0.05; done; echo gone";
    assert_eq!(sandbox.exec(&["sh", "-c", wait]).text(), "gone");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn output_that_cannot_be_written_is_told() {
    let coffer = Coffer::shared();
    for (args, code) in [
        (&["ps", "-a"][..], 1),
        (&["--help"], 1),
        (&["help", "run"], 1),
        (&["run", "--rm", BUSYBOX, "echo", "x"], 125),
    ] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = coffer.command(args).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?} {stderr}");
        assert!(stderr.contains("space"), "{args:?} {stderr}");
    }
    let mut gone = coffer
        .command(["completion", "bash"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // More than a pipe holds is written to nobody.
    drop(gone.stdout.take());
    let gone = gone.wait().unwrap();
    assert!(
        gone.code().is_some_and(|code| code != 101 && code != 134),
        "{gone:?}"
    );
}

#[test]
fn limits_hold_in_the_guest() {
    let coffer = Coffer::shared();
    let args = [
        "run",
        "--rm",
        "--ulimit",
        "nofile=77:88",
        "--ulimit",
        "core=0",
        "--pids-limit",
        "20",
    ];
    let more = [
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "--memory-reservation",
        "32m",
    ];
    let script = "ulimit -n; ulimit -Hn; ulimit -c; for i in $(seq 40); do sleep 1 & done; wait";
    let command = ["--disk", "1g", BUSYBOX, "sh", "-c", script];
    let done = coffer.run(args.iter().chain(&more).chain(&command));
    assert_eq!(done.text(), "77\n88\n0", "{done:?}");
    assert!(done.stderr.contains("can't fork"), "{done:?}");
    let wrong = coffer.run(["run", "--rm", "--ulimit", "nope=1", BUSYBOX, "true"]);
    assert_eq!(wrong.code, 125, "{wrong:?}");
}

#[test]
fn prune_removes_what_has_ended_and_nothing_else() {
    let coffer = Coffer::private();
    assert_eq!(
        coffer.run(["run", "--name", "done", BUSYBOX, "true"]).code,
        0
    );
    coffer.ok(["create", "--name", "fresh", BUSYBOX, "true"]);
    let unasked = coffer.run(["prune"]);
    assert_eq!(unasked.code, 1, "{unasked:?}");
    assert!(unasked.stderr.contains("--force"), "{unasked:?}");
    assert!(coffer.ok(["prune", "-f"]).contains("Deleted sandbox"));
    assert_eq!(
        coffer.ok(["ps", "-a", "--json"]).matches("\"id\"").count(),
        1
    );
    // Templates are many and made again on demand.
    assert_ne!(coffer.ok(["template", "list", "-q"]), "");
    let pruned = coffer.ok(["prune", "-af"]);
    assert!(pruned.contains("Deleted template: "), "{pruned}");
    assert!(pruned.contains("space of templates: "), "{pruned}");
    assert_eq!(coffer.ok(["template", "list", "-q"]), "");
    // An image that a sandbox uses stays, whatever is asked.
    coffer.ok(["image", "prune", "-af"]);
    assert!(coffer.ok(["image", "ls"]).contains("busybox"));
    coffer.ok(["rm", "fresh"]);
    coffer.ok(["image", "prune", "-af"]);
    assert_eq!(coffer.ok(["image", "ls", "-q"]), "");
    // Templates go with the images that they are of.
    assert_eq!(coffer.ok(["template", "list", "-q"]), "");
}

#[test]
fn lists_are_cut_and_printed_in_the_form_asked_for() {
    let coffer = Coffer::private();
    for name in ["one", "two", "three"] {
        coffer.ok(["create", "--name", name, BUSYBOX, "true"]);
    }
    let names = |args: &[&str]| {
        let list: serde_json::Value = serde_json::from_str(&coffer.ok(args)).unwrap();
        let names = list.as_array().unwrap().iter();
        names
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&["ps", "-n", "2", "--json"]), ["three", "two"]);
    let newest = coffer.json(["ps", "-l", "--json"])[0].take();
    assert_eq!(newest["directory"], coffer.inspect("three")["directory"]);
    assert_ne!(newest["directory"], "");
    assert_eq!(names(&["ps", "-l", "--format", "json"]), ["three"]);
    let template = coffer.ok(["ps", "-l", "--format", "{{.Names}}"]);
    assert_eq!(template, "three");
    assert_eq!(
        coffer.ok(["images", "-q", "busybox"]),
        coffer.ok(["images", "-q"])
    );
    assert_eq!(coffer.ok(["images", "-q", "box"]), "");
    let kinds = coffer.run(["inspect", "--type", "sandbox", BUSYBOX]);
    assert_eq!(kinds.code, 1, "{kinds:?}");
}
