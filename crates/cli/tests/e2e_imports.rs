//! `coffer snapshot import` of what was damaged or is of elsewhere: the real program.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use cofferdam_testkit::{
    bundle::Bundle,
    coffer::{BUSYBOX, Coffer},
    exports::{Export, import, reject},
};
use serde_json::{Value, json};

#[test]
fn a_store_without_the_image_says_how_to_get_it() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::empty();
    let pull = format!("coffer pull {BUSYBOX}");
    reject(
        &there,
        &export.bytes,
        "no image",
        &["image", BUSYBOX, "hint: ", &pull],
    );
}

#[test]
fn a_file_that_was_cut_anywhere_is_refused() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let bundle = Bundle::parse(&export.bytes);
    let mut cuts = vec![0, 1, 7, 8, 12, 15, 16, 20, 24];
    let mut end = bundle.head.len();
    for part in &bundle.parts {
        let begin = end;
        end += 8 + part.payload.len() + 32;
        cuts.extend([begin, begin + 8, end - 32, end - 1]);
    }
    assert_eq!(end, export.bytes.len());
    // Of the many parts of data some.
    cuts.dedup();
    let step = (cuts.len() / 40).max(1);
    let tail = cuts.len() - 6;
    let some = cuts
        .iter()
        .enumerate()
        .filter(|(index, _)| *index < 12 || *index > tail || index % step == 0);
    for (_, cut) in some {
        reject(&there, &export.bytes[..*cut], &format!("cut at {cut}"), &[]);
    }
    let mut longer = export.bytes.clone();
    longer.push(0);
    reject(&there, &longer, "one byte more", &[]);
    assert_eq!(import(&there, &export.bytes, &[]).code, 0);
}

#[test]
fn a_turned_bit_in_any_kind_of_part_is_found() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let bundle = Bundle::parse(&export.bytes);
    let mut places: Vec<usize> = (0..bundle.head.len()).collect();
    let mut seen = Vec::new();
    let mut begin = bundle.head.len();
    for part in &bundle.parts {
        let payload = begin + 8;
        let seal = payload + part.payload.len();
        // The first of each kind is as good as any.
        if !seen.contains(&part.kind) {
            seen.push(part.kind);
            places.extend([begin, begin + 4, begin + 7, seal, seal + 31]);
            if !part.payload.is_empty() {
                places.extend([payload, payload + part.payload.len() / 2, seal - 1]);
            }
        }
        begin = seal + 32;
    }
    assert_eq!(seen.len(), 5);
    for place in places {
        for bit in [0, 7] {
            let mut bytes = export.bytes.clone();
            bytes[place] ^= 1 << bit;
            reject(&there, &bytes, &format!("bit {bit} of byte {place}"), &[]);
        }
    }
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let coffer = Coffer::private();
    for (about, bytes) in [
        ("nothing", &b""[..]),
        ("text", b"hello\n"),
        ("zeroes", &[0; 100_000]),
        (
            "an archive",
            &cofferdam_testkit::image::busybox_archive("x:y"),
        ),
    ] {
        reject(&coffer, bytes, about, &[]);
    }
    coffer.refused(&["snapshot", "import", "/"], &[]);
}

#[test]
fn a_newer_form_is_refused_by_its_number() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let mut bundle = Bundle::parse(&export.bytes);
    let mut manifest = bundle.manifest();
    manifest["format"] = 2.into();
    // A newer form may have fields that this version does not know.
    manifest["new"] = json!({"in": "version 2"});
    let bytes = bundle.with_manifest(&manifest).bytes();
    reject(&there, &bytes, "manifest", &["form 2", "newer Cofferdam"]);
    bundle.head[8] = 2;
    reject(&there, &bundle.bytes(), "bundle", &["version 2"]);
}

#[test]
fn a_machine_that_this_host_cannot_continue_is_refused_with_what_goes_everywhere() {
    let (here, there) = (Coffer::shared(), Coffer::private());
    let export = Export::make(&here, &[]);
    let bundle = Bundle::parse(&export.bytes);
    let manifest = bundle.manifest();
    let ours = manifest["compatibility"].as_str().unwrap();
    let others = [
        json!(ours.replace("max", "Skylake")),
        json!("qemu-kvm 99"),
        json!(""),
        Value::Null,
    ];
    for other in others {
        let mut manifest = manifest.clone();
        manifest["compatibility"] = other.clone();
        let bytes = bundle.with_manifest(&manifest).bytes();
        reject(
            &there,
            &bytes,
            &other.to_string(),
            &["cannot continue", "this host has", "`--disk-only`"],
        );
    }
    for backend in ["nope", "qemu-kvm\u{1b}[31m"] {
        let mut manifest = manifest.clone();
        manifest["backend"] = backend.into();
        let bytes = bundle.with_manifest(&manifest).bytes();
        reject(&there, &bytes, backend, &["backend"]);
    }
}
