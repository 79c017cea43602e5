//! Archives in and out: docker archives, OCI layouts, streams, and bad ones.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

mod store_support;

use std::{fs, process::Command};

use cofferdam_image::{
    ErrorKind, LoadSource, NoProgress, Progress, ProgressEvent, ROOT_DISK_CLASSES_BYTES, SaveFormat,
};
use store_support::{OCI_INDEX, OCI_MANIFEST, Sample, TestStore, amd64, gzip, load, tar};

#[test]
fn a_docker_archive_from_a_stream_becomes_a_named_image_with_its_root() {
    let test = TestStore::new();
    let sample = Sample::new("hello");
    let loaded = test
        .load(sample.docker_archive(&["debian:12", "example.com/x"]))
        .unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(
        loaded[0].references,
        ["docker.io/library/debian:12", "example.com/x:latest"]
    );
    let image = test.store.resolve("debian:12", &amd64()).unwrap().unwrap();
    assert_eq!(image.id.to_string(), sample.id());
    assert_eq!(image.config.cmd, ["/bin/sh"]);
    assert_eq!(image.config.env, ["A=b"]);
    let rootfs = test.store.rootfs(&image, &NoProgress).unwrap();
    assert_eq!(rootfs.disk_bytes, ROOT_DISK_CLASSES_BYTES[0]);
    let image_file = fs::metadata(&rootfs.path).unwrap();
    assert_eq!(image_file.len(), ROOT_DISK_CLASSES_BYTES[0]);
}

#[test]
fn a_gzipped_archive_and_a_zstd_one_are_read() {
    let archive = Sample::new("x").docker_archive(&["a"]);
    for archive in [
        gzip(&archive),
        zstd::encode_all(archive.as_slice(), 1).unwrap(),
    ] {
        assert_eq!(TestStore::new().load(archive).unwrap().len(), 1);
    }
}

#[test]
fn an_oci_layout_is_read_as_a_tar_and_as_a_directory() {
    let name = r#","annotations":{"io.containerd.image.name":"docker.io/library/a:1"}"#;
    let sample = Sample::new("x").gzipped();
    let test = TestStore::new();
    let loaded = test.load(sample.layout_tar(name)).unwrap();
    assert_eq!(loaded[0].references, ["docker.io/library/a:1"]);

    let layout = tempfile::tempdir().unwrap();
    for (path, content) in sample.layout("") {
        let path = layout.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let other = TestStore::new();
    let loaded = other.load_path(layout.path()).unwrap();
    assert!(loaded[0].references.is_empty());
    assert_eq!(loaded[0].image.id.to_string(), sample.id());
    assert!(
        other
            .store
            .resolve(&sample.id()[7..19], &amd64())
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_bare_tag_in_a_layout_names_no_image() {
    let tag = r#","annotations":{"org.opencontainers.image.ref.name":"latest"}"#;
    let loaded = TestStore::new()
        .load(Sample::new("x").layout_tar(tag))
        .unwrap();
    assert!(loaded[0].references.is_empty());
}

#[test]
fn a_layer_that_is_a_link_in_an_old_archive_is_followed() {
    let sample = Sample::new("x");
    let mut builder = tar::Builder::new(Vec::new());
    let mut file = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).unwrap();
    };
    file("one/layer.tar", &sample.layer);
    file("c.json", &sample.config);
    file(
        "manifest.json",
        br#"[{"Config":"c.json","RepoTags":["a"],"Layers":["two/layer.tar"]}]"#,
    );
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "two/layer.tar", "../one/layer.tar")
        .unwrap();
    assert_eq!(
        TestStore::new()
            .load(builder.into_inner().unwrap())
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn names_in_an_archive_never_become_paths_on_the_host() {
    let sample = Sample::new("x");
    let list =
        br#"[{"Config":"c.json","RepoTags":["a"],"Layers":["../../../tmp/cofferdam-escape"]}]"#;
    let mut archive = Vec::new();
    for (path, content) in [
        ("../../../tmp/cofferdam-escape", sample.layer.as_slice()),
        ("c.json", &sample.config),
        ("manifest.json", list),
    ] {
        let mut header = tar::Header::new_old();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    TestStore::new().load(archive).unwrap();
    assert!(!std::path::Path::new("/tmp/cofferdam-escape").exists());
}

#[test]
fn save_and_load_give_the_same_image_in_both_formats() {
    for sample in [Sample::new("plain"), Sample::new("gz").gzipped()] {
        let test = TestStore::new();
        test.load(sample.layout_tar("")).unwrap();
        test.store
            .tag(&sample.id(), &"example.com/a:1".parse().unwrap())
            .unwrap();
        for format in [SaveFormat::Docker, SaveFormat::Oci] {
            let mut archive = Vec::new();
            test.store
                .save(&["example.com/a:1".into()], format, &mut archive)
                .unwrap();
            let loaded = TestStore::new().load(archive).unwrap();
            assert_eq!(loaded[0].image.id.to_string(), sample.id());
            assert_eq!(loaded[0].references, ["example.com/a:1"], "{format:?}");
        }
    }
}

#[test]
fn an_archive_of_two_images_and_two_names_keeps_them_all() {
    let test = TestStore::new();
    test.load(Sample::new("one").docker_archive(&["one", "uno"]))
        .unwrap();
    test.load(Sample::new("two").docker_archive(&["two"]))
        .unwrap();
    let mut archive = Vec::new();
    let names = ["one".to_owned(), "uno".into(), "two".into()];
    test.store
        .save(&names, SaveFormat::Docker, &mut archive)
        .unwrap();
    let other = TestStore::new();
    assert_eq!(other.load(archive).unwrap().len(), 2);
    for name in ["one", "uno", "two"] {
        assert!(
            other.store.resolve(name, &amd64()).unwrap().is_some(),
            "{name}"
        );
    }
}

#[test]
fn saving_an_unknown_image_writes_nothing() {
    let mut archive = Vec::new();
    let error = TestStore::new()
        .store
        .save(&["nope".into()], SaveFormat::Docker, &mut archive);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(archive.is_empty());
}

#[test]
fn an_archive_cut_anywhere_is_refused_and_leaves_nothing() {
    let archive = Sample::new(&"x".repeat(3000)).docker_archive(&["a"]);
    // Within the last entry's header and before it: after it only padding follows.
    for length in [0, 1, 511, 513, 1000, 2048, 4096, 6000] {
        let kind = TestStore::new().refused(archive[..length].to_vec());
        assert_eq!(kind, ErrorKind::Corrupt, "cut at {length}");
    }
    let packed = gzip(&archive);
    let kind = TestStore::new().refused(packed[..packed.len() / 2].to_vec());
    assert_eq!(kind, ErrorKind::Corrupt);
}

#[test]
fn what_is_no_image_archive_is_corrupt() {
    for archive in [
        tar(&[("README", b"hello")]),
        b"#!/bin/sh\n".repeat(100),
        tar(&[("manifest.json", b"{not json")]),
        tar(&[("manifest.json", br#"[{"Config":"c","Layers":["missing"]}]"#)]),
    ] {
        assert_eq!(TestStore::new().refused(archive), ErrorKind::Corrupt);
    }
}

#[test]
fn a_short_text_is_no_archive_and_not_a_cut_one() {
    let error = TestStore::new().load(b"hello\n".to_vec()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("no docker archive"), "{error}");
    assert!(error.hint_text().is_some());
}

#[test]
fn a_compression_that_is_not_supported_is_named_with_its_program() {
    for (start, program) in [(&b"\xfd7zXZ\x00\x00"[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
        let error = TestStore::new().load(start.to_vec()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(program), "{error}");
        let hint = error.hint_text().unwrap_or_default();
        assert!(hint.contains(&format!("{program} -dc")), "{hint}");
    }
}

#[test]
fn a_blob_that_is_not_what_its_name_says_is_a_digest_mismatch() {
    let sample = Sample::new("x");
    let mut files = sample.layout("");
    files[3].1[600] ^= 1;
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(n, c)| (n.as_str(), c.as_slice()))
        .collect();
    assert_eq!(
        TestStore::new().refused(tar(&files)),
        ErrorKind::DigestMismatch
    );
}

#[test]
fn a_layer_that_is_not_the_configs_is_a_digest_mismatch() {
    let mut sample = Sample::new("x");
    sample.layer = tar(&[("file", b"y")]);
    assert_eq!(
        TestStore::new().refused(sample.docker_archive(&["a"])),
        ErrorKind::DigestMismatch
    );
}

#[test]
fn a_layer_with_a_broken_checksum_is_corrupt() {
    let mut sample = Sample::new("x").gzipped();
    let crc = sample.layer.len() - 6;
    sample.layer[crc] ^= 0xff;
    assert_eq!(
        TestStore::new().refused(sample.docker_archive(&["a"])),
        ErrorKind::Corrupt
    );
}

#[test]
fn an_image_for_another_platform_is_refused_with_what_it_is_for() {
    let sample = Sample::of("s390x", &tar(&[("f", b"x")]));
    let test = TestStore::new();
    let error = test.load(sample.docker_archive(&["a"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PlatformMismatch);
    assert!(error.to_string().contains("`linux/s390x`"), "{error}");
    assert_eq!(
        test.refused(sample.layout_tar("")),
        ErrorKind::PlatformMismatch
    );
}

#[test]
fn an_index_in_a_layout_gives_the_wanted_platform() {
    let wanted = Sample::new("amd").gzipped();
    let other = Sample::of("arm64", &tar(&[("f", b"arm")]));
    let entry = |sample: &Sample| {
        let manifest = sample.manifest();
        let digest = cofferdam_testkit::registry::digest(&manifest);
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{}}}"#,
            manifest.len()
        )
    };
    let inner = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{},{}]}}"#,
        entry(&other),
        entry(&wanted)
    );
    let inner_digest = cofferdam_testkit::registry::digest(inner.as_bytes());
    let outer = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_INDEX}","digest":"{inner_digest}","size":{}}}]}}"#,
        inner.len()
    );
    let mut files = wanted.layout("");
    files.extend(other.layout(""));
    files.retain(|(name, _)| name != "index.json");
    files.push((format!("blobs/sha256/{}", &inner_digest[7..]), inner.into()));
    files.push(("index.json".into(), outer.into()));
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(n, c)| (n.as_str(), c.as_slice()))
        .collect();
    let loaded = TestStore::new().load(tar(&files)).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].image.id.to_string(), wanted.id());
}

#[test]
fn a_layer_of_an_unknown_media_type_is_unsupported() {
    let mut sample = Sample::new("x");
    sample.layer_kind = "application/vnd.example.cake".into();
    assert_eq!(
        TestStore::new().refused(sample.layout_tar("")),
        ErrorKind::Unsupported
    );
}

#[test]
fn a_source_that_is_missing_is_not_found() {
    let test = TestStore::new();
    let error = test
        .load_path(std::path::Path::new("/nonexistent/a.tar"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_reader_that_fails_is_an_error_not_an_end() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::PermissionDenied.into())
        }
    }
    let test = TestStore::new();
    let source = LoadSource::Reader(Box::new(Broken));
    let error = test.store.load(source, &amd64(), &NoProgress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
}

#[test]
fn other_tools_read_what_is_saved() {
    let has = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !has("skopeo") || !has("umoci") {
        cofferdam_testkit::skip("no skopeo or umoci");
        return;
    }
    let test = TestStore::new();
    let sample = Sample::new("x").gzipped();
    test.load(sample.docker_archive(&["example.com/a:1"]))
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (format, transport) in [
        (SaveFormat::Docker, "docker-archive"),
        (SaveFormat::Oci, "oci-archive"),
    ] {
        let archive = dir.path().join(transport);
        let mut file = fs::File::create(&archive).unwrap();
        test.store
            .save(&["example.com/a:1".into()], format, &mut file)
            .unwrap();
        let layout = dir.path().join(format!("{transport}-layout"));
        let copied = Command::new("skopeo")
            .args(["copy", "--insecure-policy"])
            .arg(format!("{transport}:{}", archive.display()))
            .arg(format!("oci:{}:t", layout.display()))
            .output()
            .unwrap();
        assert!(
            copied.status.success(),
            "{}",
            String::from_utf8_lossy(&copied.stderr)
        );
        let stat = Command::new("umoci")
            .args(["stat", "--image"])
            .arg(format!("{}:t", layout.display()))
            .output()
            .unwrap();
        assert!(
            stat.status.success(),
            "{}",
            String::from_utf8_lossy(&stat.stderr)
        );
        assert!(String::from_utf8_lossy(&stat.stdout).contains("ADD file"));
        // And the way back. From Docker's form skopeo writes the config anew, and so its id.
        let loaded = load(&TestStore::new().store, tar_of(&layout)).unwrap();
        assert_eq!(loaded[0].image.config.cmd, ["/bin/sh"]);
        if format == SaveFormat::Oci {
            assert_eq!(loaded[0].image.id.to_string(), sample.id());
        }
    }
}

fn tar_of(dir: &std::path::Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", dir).unwrap();
    builder.into_inner().unwrap()
}

/// Keeps the warnings of a load.
#[derive(Default)]
struct Warnings(std::sync::Mutex<Vec<String>>);

impl Progress for Warnings {
    fn event(&self, event: ProgressEvent<'_>) {
        if let ProgressEvent::Warning { text } = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

/// Loads and gives the names of what came, and the warnings.
fn load_with_warnings(test: &TestStore, archive: Vec<u8>) -> (Vec<Vec<String>>, Vec<String>) {
    let warnings = Warnings::default();
    let source = LoadSource::Reader(Box::new(std::io::Cursor::new(archive)));
    let loaded = test.store.load(source, &amd64(), &warnings).unwrap();
    let names = loaded.into_iter().map(|loaded| loaded.references).collect();
    (names, warnings.0.into_inner().unwrap())
}

fn tar_of_files(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    tar(&files)
}

#[test]
fn what_a_load_leaves_out_is_told() {
    let (here, other) = (
        Sample::new("amd"),
        Sample::of("arm64", &tar(&[("f", b"arm")])),
    );
    let mut files = Vec::new();
    let mut list = Vec::new();
    for (sample, tag) in [(&here, "multi:a"), (&other, "multi:arm")] {
        files.push((format!("{tag}.json"), sample.config.clone()));
        files.push((format!("{tag}.tar"), sample.layer.clone()));
        list.push(
            serde_json::json!({"Config": format!("{tag}.json"), "RepoTags": [tag],
            "Layers": [format!("{tag}.tar")]}),
        );
    }
    files.push(("manifest.json".into(), serde_json::to_vec(&list).unwrap()));
    let (names, warnings) = load_with_warnings(&TestStore::new(), tar_of_files(&files));
    assert_eq!(names, [["docker.io/library/multi:a"]]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("`multi:arm`") && warnings[0].contains("`linux/arm64`"));
}

#[test]
fn an_image_that_only_manifest_json_lists_or_lists_whole_is_loaded() {
    let (one, two) = (Sample::new("one"), Sample::new("two"));
    let blob = |content: &[u8]| {
        let digest = cofferdam_testkit::registry::digest(content);
        format!("blobs/sha256/{}", &digest[7..])
    };
    let list = |samples: &[(&Sample, &str)]| {
        let entry = |(sample, tag): &(&Sample, &str)| {
            serde_json::json!({"Config": blob(&sample.config), "RepoTags": [tag, null],
                "Layers": [blob(&sample.layer)], "LayerSources": null})
        };
        let entries: Vec<_> = samples.iter().map(entry).collect();
        (
            "manifest.json".to_owned(),
            serde_json::to_vec(&entries).unwrap(),
        )
    };
    let mut files = one.layout("");
    files.extend([
        (blob(&two.config), two.config.clone()),
        (blob(&two.layer), two.layer.clone()),
    ]);
    files.push(list(&[(&one, "one"), (&two, "two")]));
    let (names, warnings) = load_with_warnings(&TestStore::new(), tar_of_files(&files));
    assert_eq!(
        names,
        [
            ["docker.io/library/one:latest"],
            ["docker.io/library/two:latest"]
        ]
    );
    assert!(warnings.is_empty(), "{warnings:?}");

    // Docker 25.0.0-rc wrote manifests without layers; the list beside them is whole.
    let mut files = one.layout("");
    let broken = String::from_utf8(one.manifest()).unwrap();
    let layers = broken.find(r#""layers":["#).unwrap();
    let broken = format!(r#"{}"layers":null}}"#, &broken[..layers]).into_bytes();
    let index = format!(
        r#"{{"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{}}}]}}"#,
        cofferdam_testkit::registry::digest(&broken),
        broken.len()
    );
    files.retain(|(name, _)| name != "index.json" && name != "oci-layout");
    files.extend([(blob(&broken), broken), ("index.json".into(), index.into())]);
    files.push(list(&[(&one, "one")]));
    let (names, warnings) = load_with_warnings(&TestStore::new(), tar_of_files(&files));
    assert_eq!(names, [["docker.io/library/one:latest"]]);
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_name_that_cannot_be_one_is_left_out_and_the_image_is_there() {
    let test = TestStore::new();
    let digest = format!("x:1@sha256:{}", "0".repeat(64));
    let names = ["ok:1", "Bad:1", "", "<none>:<none>", digest.as_str()];
    let (loaded, warnings) = load_with_warnings(&test, Sample::new("x").docker_archive(&names));
    assert_eq!(
        loaded,
        [["docker.io/library/ok:1", "docker.io/library/x:1"]]
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("`Bad:1`"), "{warnings:?}");
}

#[test]
fn a_repository_alone_saves_all_its_tags_and_an_id_none() {
    let test = TestStore::new();
    let sample = Sample::new("one");
    test.load(sample.docker_archive(&["r:1", "r:2", "other:1"]))
        .unwrap();
    test.load(Sample::new("two").docker_archive(&["r:3"]))
        .unwrap();
    let saved = |name: &str, format| {
        let mut archive = Vec::new();
        test.store
            .save(&[name.to_owned()], format, &mut archive)
            .unwrap();
        let (mut names, _) = load_with_warnings(&TestStore::new(), archive);
        names.sort();
        names
    };
    for format in [SaveFormat::Docker, SaveFormat::Oci] {
        assert_eq!(
            saved("r", format),
            [
                vec!["docker.io/library/r:1", "docker.io/library/r:2"],
                vec!["docker.io/library/r:3"],
            ]
        );
        assert_eq!(saved("r:2", format), [["docker.io/library/r:2"]]);
        assert_eq!(saved(&sample.id()[7..19], format), [Vec::<String>::new()]);
    }
    let name = "sha256:1".parse::<cofferdam_image::Reference>();
    assert_eq!(name.unwrap_err().kind(), ErrorKind::InvalidReference);
    let error = test
        .store
        .tag("r:1", &"sha256:x".parse().unwrap())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidReference);
}

#[test]
fn a_layer_of_a_compression_that_is_not_read_is_refused_by_its_name() {
    for (start, program) in [(&b"\xfd7zXZ\x00\x00"[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
        let mut sample = Sample::new("x");
        sample.layer = start.to_vec();
        let error = TestStore::new()
            .load(sample.docker_archive(&["a"]))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(program), "{error}");
        assert!(error.hint_text().unwrap().contains("skopeo"));
    }
}

#[test]
fn an_image_of_32_bit_programs_is_taken_where_no_other_is() {
    let test = TestStore::new();
    test.load(Sample::of("386", &tar(&[("f", b"x")])).docker_archive(&["a"]))
        .unwrap();
    let found = test.store.resolve("a", &amd64()).unwrap().unwrap();
    assert_eq!(found.platform.to_string(), "linux/386");
    test.load(Sample::new("y").docker_archive(&["a"])).unwrap();
    let found = test.store.resolve("a", &amd64()).unwrap().unwrap();
    assert_eq!(found.platform.to_string(), "linux/amd64");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    #[test]
    fn an_archive_with_changed_bytes_loads_or_fails_whole(
        changes in proptest::collection::vec((0_usize..6000, 0_u8..), 1..6), form in 0..2
    ) {
        let sample = Sample::new("x");
        let mut archive = match form {
            0 => sample.docker_archive(&["a"]),
            _ => sample.layout_tar(""),
        };
        for (at, byte) in changes {
            let at = at % archive.len();
            archive[at] = byte;
        }
        let test = TestStore::new();
        if test.load(archive.clone()).is_err() {
            test.refused(archive);
        }
    }
}
