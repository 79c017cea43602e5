//! What users of Docker write: flags with values, filters, templates, other names.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use cofferdam_testkit::coffer::{BUSYBOX, Coffer};

/// The variable that the test image has.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[test]
fn lists_are_filtered_and_formatted_as_in_docker() {
    let coffer = Coffer::private();
    let make = |name: &str, code: &str| {
        let label = format!("of={name}");
        let run = ["run", "--name", name, "-l", &label, BUSYBOX, "sh", "-c"];
        let script = format!("exit {code}");
        coffer.run(run.into_iter().chain([script.as_str()]));
    };
    make("one", "0");
    make("two", "3");
    make("three", "3");
    let ps = |args: &[&str]| -> Vec<String> {
        let all = ["ps", "-a", "--format", "{{.Names}}"].iter().chain(args);
        coffer.ok(all).lines().map(str::to_owned).collect()
    };
    assert_eq!(ps(&["-f", "name=^t"]), ["three", "two"]);
    assert_eq!(ps(&["-f", "name=^/one$"]), ["one"]);
    assert_eq!(ps(&["-f", "exited=3"]), ["three", "two"]);
    assert_eq!(ps(&["-f", "before=two"]), ["one"]);
    assert_eq!(
        ps(&["-f", "since=one", "-f", "exited=3", "-f", "name=w"]),
        ["two"]
    );
    assert_eq!(ps(&["-f", "label=of=one", "-f", "label=of=two"]), [""; 0]);
    assert_eq!(ps(&["-f", "name=one", "-f", "name=two"]), ["two", "one"]);
    coffer.refused(&["ps", "-f", "name=("], &["regular expression"]);
    coffer.refused(&["ps", "-f", "before=nope"], &["nope"]);

    let table = "table {{.Names}}\\t{{.State}}\\t{{.Label \"of\"}}\\t{{.Status | len | lt 3}}";
    let shown = coffer.ok(["container", "ls", "-a", "-f", "name=one", "--format", table]);
    let words: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(words[1], ["one", "exited", "one", "true"], "{shown}");
    assert_eq!(words[0][..2], ["NAMES", "STATE"], "{shown}");

    let inspect = |format: &str, name: &str| coffer.ok(["inspect", "-f", format, name]);
    assert_eq!(
        inspect("{{.State.Status}} {{.State.ExitCode}} {{.Name}}", "two"),
        "exited 3 /two"
    );
    assert_eq!(inspect("{{.status}} {{.exit_code}}", "two"), "stopped 3");
    let state = "{{.State.Running}} {{.State.OOMKilled}} {{.State.Error}}.";
    assert_eq!(inspect(state, "two"), "false false .");
    let (id, all) = (inspect("{{.Id}}", "two"), coffer.inspect("two"));
    assert_eq!(
        (&all["id"], &all["State"]["ExitCode"]),
        (&id.into(), &3.into())
    );
    assert!(inspect("{{.State.FinishedAt}}", "two").ends_with('Z'));
    assert_eq!(
        inspect("{{.Config.Image}} {{index .Config.Env 0}}", "two"),
        format!("{BUSYBOX} {PATH}")
    );
    assert_eq!(inspect("{{json .Config.Labels}}", "two"), r#"{"of":"two"}"#);
    assert_eq!(inspect("{{index .Config.Labels \"of\"}}", "two"), "two");
    assert_eq!(
        inspect("{{range .Config.Cmd}}<{{.}}>{{end}}", "two"),
        "<sh><-c><exit 3>"
    );
    assert_eq!(
        inspect("{{join .RepoTags \",\"}} {{.Os}}", BUSYBOX),
        format!("{BUSYBOX} linux")
    );
    coffer.refused(&["inspect", "-f", "{{.Nope}}", "two"], &["`Nope`", "hint"]);
    coffer.refused(&["ps", "--format", "{{.Names"], &["template"]);
    let images = coffer.ok(["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(images, BUSYBOX);

    let usage = coffer.json(["system", "df", "--json"]);
    assert_eq!(
        usage["sandboxes"]["items"].as_array().unwrap().len(),
        3,
        "{usage}"
    );
    let rows = coffer.ok(["system", "df", "--format", "{{.Type}} {{.TotalCount}}"]);
    assert!(rows.contains("Sandboxes 3\n"), "{rows}");
    coffer.ok(["container", "rm", "one"]);
    coffer.ok(["container", "prune", "-f"]);
    assert_eq!(ps(&[]), [""; 0]);
}

#[test]
fn flags_may_be_empty_have_truth_values_and_name_what_is_so_already() {
    let coffer = Coffer::shared();
    let dir = tempfile::tempdir().unwrap();
    let cid = dir.path().join("cid");
    let cid = cid.to_str().unwrap();
    let flags = [
        "run",
        "--rm=true",
        "-i=false",
        "--tty=0",
        "-w",
        "",
        "--hostname=",
        "--cpus",
        "0",
        "-m",
        "0",
        "--restart",
        "no",
        "--no-healthcheck",
        "--cidfile",
        cid,
        "-a",
        "stdout",
    ];
    let script = "pwd; echo unseen >&2";
    let done = coffer.run(flags.iter().chain(&[BUSYBOX, "sh", "-c", script]));
    assert_eq!((done.code, done.text().as_str()), (0, "/"), "{done:?}");
    assert_eq!(done.stderr, "");
    let id = fs::read_to_string(cid).unwrap();
    assert_eq!(id.len(), 64);
    let made = coffer.ok(["create", "-a", "stdout", "--attach=STDERR", BUSYBOX, "true"]);
    assert_eq!(coffer.ok(["start", &made]), made);
    coffer.ok(["rm", "-f", &made]);
    let usage = coffer.run(["create", "-a", "tape", BUSYBOX]);
    assert_eq!(usage.code, 125, "{usage:?}");
    coffer.refused(&["inspect", &id], &[&id[..12]]);
    let again = coffer.run(["run", "--rm", "--cidfile", cid, BUSYBOX, "true"]);
    assert_eq!(again.code, 125, "{again:?}");
    assert!(again.stderr.contains("--cidfile"), "{again:?}");

    let gone = coffer.run(["rm", "-f", "no-such-sandbox"]);
    assert_eq!(gone.code, 0, "{gone:?}");
    assert!(gone.stderr.contains("no-such-sandbox"), "{gone:?}");
    coffer.refused(&["rm", "no-such-sandbox"], &["no-such-sandbox"]);
    let build = coffer.run(["build", "."]);
    assert_eq!(build.code, 1, "{build:?}");
    assert!(build.stderr.contains("coffer load"), "{build:?}");
    let log = coffer.run(["run", "--rm", "--log-driver", "none", BUSYBOX, "true"]);
    assert_eq!(log.code, 125, "{log:?}");
    assert!(log.stderr.contains("json-file"), "{log:?}");
}

#[test]
fn only_what_is_attached_is_sent_and_shown() {
    let coffer = Coffer::shared();
    let cat = ["run", "-i", "-a", "stdin", BUSYBOX, "cat"];
    let done = coffer.run_with_input(cat, b"fed\n");
    assert_eq!(done.code, 0, "{done:?}");
    let sandbox = coffer.keep(done.text());
    coffer.ok(["wait", &sandbox.id]);
    for all in ["--tail=-1", "--tail=all"] {
        assert_eq!(coffer.ok(["logs", all, &sandbox.id]), "fed");
    }
    let error = [
        "run",
        "--rm",
        "-a",
        "stderr",
        BUSYBOX,
        "sh",
        "-c",
        "echo out; echo err >&2",
    ];
    let done = coffer.run(error);
    assert_eq!((done.text().as_str(), done.stderr.as_str()), ("", "err\n"));
}

#[test]
fn a_signal_that_is_not_handed_on_ends_only_the_client() {
    let coffer = Coffer::shared();
    let dir = tempfile::tempdir().unwrap();
    let cid = dir.path().join("cid");
    let run = [
        "run",
        "--sig-proxy=false",
        "--cidfile",
        cid.to_str().unwrap(),
        BUSYBOX,
    ];
    let script = "trap 'exit 4' INT; echo up; while :; do sleep 1; done";
    let mut client = coffer
        .command(run.iter().chain(&["sh", "-c", script]))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "up\n");
    let sandbox = coffer.keep(fs::read_to_string(&cid).unwrap());
    let pid = rustix::process::Pid::from_child(&client);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(130));
    assert_eq!(sandbox.status(), "running");
}
