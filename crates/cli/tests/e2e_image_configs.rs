//! What images say of how to run them, in real guests: as Docker takes it.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    image::{ImageBuilder, busybox},
};
use serde_json::json;

fn load(coffer: &Coffer, image: ImageBuilder, name: &str) {
    let done = coffer.run_with_input(["load", "-q"], &image.archive(name));
    assert_eq!(done.code, 0, "{done:?}");
}

/// A static program for 32-bit x86 that prints `32 bits` and exits with 42.
/// *Source:* System V ABI, Intel386 supplement, chapters 4 and 5; Linux `int 0x80`.
fn program_of_32_bits() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let text = b"32 bits\n";
    let code_bytes: u32 = 5 + 5 + 5 + 5 + 2 + 5 + 5 + 2;
    let text_at = BASE + HEADERS + code_bytes;
    let total = HEADERS + code_bytes + u32::try_from(text.len()).unwrap();
    let mut program = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Executable, for the 80386.
    program.extend([2_u16, 3].map(u16::to_le_bytes).concat());
    // Version, entry, program headers, no section headers, no flags.
    program.extend([1, BASE + HEADERS, 52, 0, 0].map(u32::to_le_bytes).concat());
    program.extend([52_u16, 32, 1, 40, 0, 0].map(u16::to_le_bytes).concat());
    // One segment, loaded, readable and executable.
    let segment = [1, 0, BASE, BASE, total, total, 5, 0x1000];
    program.extend(segment.map(u32::to_le_bytes).concat());
    let set = |register: u8, value: u32| [&[register][..], &value.to_le_bytes()].concat();
    const EAX: u8 = 0xb8;
    const ECX: u8 = 0xb9;
    const EDX: u8 = 0xba;
    const EBX: u8 = 0xbb;
    const CALL: [u8; 2] = [0xcd, 0x80];
    // write(1, text, 8); exit(42).
    for part in [
        set(EAX, 4),
        set(EBX, 1),
        set(ECX, text_at),
        set(EDX, 8),
        CALL.to_vec(),
    ] {
        program.extend(part);
    }
    for part in [set(EAX, 1), set(EBX, 42), CALL.to_vec()] {
        program.extend(part);
    }
    program.extend(text);
    program
}

#[test]
fn programs_of_32_bits_run_and_their_images_are_taken() {
    let coffer = Coffer::shared();
    let image = ImageBuilder::new()
        .architecture("386")
        .file("hello", 0o755, &program_of_32_bits())
        .config("Cmd", json!(["/hello"]));
    load(&coffer, image, "e2e/bits:32");
    let done = coffer.run(["run", "--rm", "e2e/bits:32"]);
    assert_eq!(
        (done.code, done.text().as_str()),
        (42, "32 bits"),
        "{done:?}"
    );
    let asked = coffer.run(["run", "--rm", "--platform", "linux/386", "e2e/bits:32"]);
    assert_eq!(asked.code, 42, "{asked:?}");
}

#[test]
fn a_config_means_what_it_means_to_docker() {
    let coffer = Coffer::shared();
    let image = busybox()
        .config("Entrypoint", json!([""]))
        .config(
            "Env",
            json!(["PATH=/bin", "A=1", "B=1", "A=2", "HOME=", "B=2"]),
        )
        .config("Volumes", json!({"/data": {}, "v2/in": {}}))
        .config("StopSignal", json!("SIGBOGUS"))
        .config(
            "Cmd",
            json!(["sh", "-c", "env | sort; stat -c '%n %a %u' /data /v2/in"]),
        );
    load(&coffer, image, "e2e/config:1");
    let done = coffer.run([
        "run",
        "--rm",
        "-e",
        "B=3",
        "--hostname",
        "h",
        "e2e/config:1",
    ]);
    assert_eq!(done.code, 0, "{done:?}");
    let lines: Vec<_> = done.text().lines().map(str::to_owned).collect();
    let of = |name: &str| {
        let lines = lines.iter().filter(|line| line.starts_with(name));
        lines.cloned().collect::<Vec<_>>()
    };
    assert_eq!(of("A="), ["A=2"], "{lines:?}");
    assert_eq!(of("B="), ["B=3"], "{lines:?}");
    assert_eq!(of("HOME="), ["HOME=/root"], "{lines:?}");
    assert_eq!(of("/"), ["/data 755 0", "/v2/in 755 0"], "{lines:?}");
    assert!(
        done.stderr.contains("warning: ") && done.stderr.contains("SIGBOGUS"),
        "{done:?}"
    );
}

#[test]
fn templates_go_with_their_image_and_the_room_of_all_is_shown() {
    let coffer = Coffer::private();
    load(
        &coffer,
        busybox().config("Labels", json!({"a": "b"})),
        "space:1",
    );
    coffer.ok(["template", "build", "space:1"]);
    let usage = coffer.json(["system", "df", "--json"]);
    let items = usage["templates"]["items"].as_array().unwrap();
    assert!(
        items.iter().any(|item| item["name"] == "space:1"),
        "{usage}"
    );
    assert!(
        usage["templates"]["size_bytes"].as_u64().unwrap() > 1 << 20,
        "{usage}"
    );
    assert_eq!(usage["templates_limit_bytes"], 4_u64 << 30);
    let table = coffer.ok(["system", "df"]);
    for word in [
        "Images",
        "Sandboxes",
        "Templates",
        "Snapshots",
        "RECLAIMABLE",
    ] {
        assert!(table.contains(word), "{table}");
    }
    assert!(coffer.ok(["system", "df", "-v"]).contains("space:1"));
    let info = coffer.json(["info", "--json"]);
    assert_eq!(info["templates"], items.len(), "{info}");

    // Memory of a template that is gone is held by the machines that came from it.
    let id = coffer.ok(["run", "-d", "space:1", "sleep", "1000"]);
    assert_eq!(
        coffer.json(["system", "df", "--json"])["held_open_bytes"],
        0
    );
    coffer.ok(["template", "rm", "space:1"]);
    let usage = coffer.json(["system", "df", "--json"]);
    assert!(
        usage["held_open_bytes"].as_u64().unwrap() > 1 << 20,
        "{usage}"
    );
    coffer.ok(["rm", "-f", &id]);

    coffer.ok(["template", "build", "space:1"]);
    coffer.ok(["rmi", "space:1"]);
    let names = |coffer: &Coffer| {
        let usage = coffer.json(["system", "df", "--json"]);
        let items = usage["templates"]["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|item| item["name"].to_string())
            .collect::<Vec<_>>()
    };
    assert!(!names(&coffer).contains(&"\"space:1\"".to_owned()));
    // Nothing needs what is left, once there are neither images nor sandboxes.
    for image in coffer.ok(["images", "-q"]).lines() {
        coffer.ok(["rmi", "-f", image]);
    }
    coffer.ok(["prune", "-f"]);
    assert_eq!(names(&coffer), Vec::<String>::new());
}

#[test]
fn one_template_serves_every_size_of_shm_and_every_tmpfs() {
    let coffer = Coffer::private();
    coffer.ok(["template", "build", BUSYBOX]);
    let templates = || coffer.ok(["template", "list", "-q"]).lines().count();
    let before = templates();
    let script = "df -k /dev/shm /scratch/in | awk 'NR>1 {print $2}'; \
                  mount | grep -c ' /scratch/in '; touch /dev/shm/x /scratch/in/x && echo ok";
    let flags = [
        "--shm-size",
        "8m",
        "--tmpfs",
        "/scratch",
        "--tmpfs",
        "/scratch/in:size=4m",
    ];
    let run = ["--timings", "run", "--rm"].iter().chain(&flags);
    let done = coffer.run(run.chain(&[BUSYBOX, "sh", "-c", script]));
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.text(), "8192\n4096\n1\nok", "{done:?}");
    assert!(done.stderr.contains("image template"), "{done:?}");
    assert_eq!(templates(), before);
}
