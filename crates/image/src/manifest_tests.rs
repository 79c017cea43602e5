//! What counts as a manifest, an index, an entry for a platform.

use super::*;

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

fn descriptor(kind: &str, more: &str) -> String {
    let digest = Digest::from_sha256([7; 32]);
    format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":1{more}}}"#)
}

fn entry(kind: &str, platform: &str) -> String {
    let (os, architecture) = platform.split_once('/').unwrap();
    descriptor(
        kind,
        &format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#),
    )
}

fn manifest(config: &str, layer: &str) -> String {
    let (config, layer) = (descriptor(config, ""), descriptor(layer, ""));
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#)
}

fn index(entries: &[String]) -> Index {
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        entries.join(",")
    );
    match Document::parse(text.as_bytes(), None).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("no index"),
    }
}

fn is_manifest(text: &str) -> bool {
    matches!(
        Document::parse(text.as_bytes(), None),
        Ok(Document::Manifest(_))
    )
}

#[test]
fn docker_and_oci_manifests_are_read() {
    for (config, layer) in [
        (media::OCI_CONFIG, media::OCI_LAYER_ZSTD),
        (
            DOCKER_CONFIG,
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
        ("application/octet-stream", ""),
        (
            "text/html",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ),
    ] {
        assert!(is_manifest(&manifest(config, layer)), "{config} {layer}");
    }
}

#[test]
fn nulls_missing_types_and_keys_in_another_case_are_no_ground_for_a_refusal() {
    let digest = Digest::from_sha256([7; 32]);
    let plain = format!(r#"{{"digest":"{digest}","size":1}}"#);
    let null = descriptor("", r#","urls":null,"annotations":null,"platform":null"#);
    let odd = descriptor(
        "",
        r#","annotations":{"a":null},"platform":"linux","urls":["https://x.example/y"]"#,
    );
    for text in [
        format!(r#"{{"config":{plain},"layers":[{null},{odd},{plain}]}}"#),
        format!(r#"{{"SchemaVersion":2,"MEDIATYPE":null,"Config":{null},"LAYERS":[{plain}]}}"#),
        format!(
            r#"{{"schemaVersion":2,"mediaType":"","config":{plain},"layers":null,"subject":null,"manifests":null}}"#
        ),
    ] {
        assert!(is_manifest(&text), "{text}");
    }
    let empty = r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}"#;
    assert!(matches!(
        Document::parse(empty.as_bytes(), None),
        Ok(Document::Index(_))
    ));
}

#[test]
fn artifacts_schema_1_and_unknown_layers_are_refused_as_unsupported() {
    for text in [
        manifest("application/vnd.cncf.helm.config.v1+json", media::OCI_LAYER),
        manifest(media::OCI_CONFIG, "application/x-cake"),
        r#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#.to_owned(),
        r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(),
        r#"{"schemaVersion":2}"#.to_owned(),
    ] {
        let error = Document::parse(text.as_bytes(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
    }
}

#[test]
fn the_exact_platform_wins_and_attestations_are_never_chosen() {
    let index = index(&[
        entry(media::OCI_MANIFEST, "unknown/unknown"),
        entry(media::OCI_MANIFEST, "linux/386"),
        entry(media::OCI_MANIFEST, "linux/arm64"),
        entry(media::OCI_MANIFEST, "linux/amd64"),
    ]);
    let amd64 = "linux/amd64".parse().unwrap();
    let chosen = |platform: &Platform| index.select(platform).map(|c| c[0].platform().unwrap());
    assert_eq!(chosen(&amd64).unwrap(), amd64);
    let error = chosen(&"linux/s390x".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PlatformMismatch);
    assert!(
        error.to_string().contains("`linux/arm64`, `linux/amd64`"),
        "{error}"
    );
}

#[test]
fn an_entry_without_a_platform_is_a_last_resort_and_an_odd_one_is_left_out() {
    let amd64 = "linux/amd64".parse().unwrap();
    let odd = [
        r#"{"digest":"sha512:00","size":1}"#.to_owned(),
        r#"{"digest":5}"#.to_owned(),
        "null".to_owned(),
        r#""text""#.to_owned(),
    ];
    let unnamed = descriptor("", "");
    let empty = descriptor("", r#","platform":{"architecture":"","os":""}"#);
    let mut entries = odd.to_vec();
    entries.extend([unnamed, empty, entry(media::OCI_MANIFEST, "linux/arm64")]);
    assert_eq!(index(&entries).select(&amd64).unwrap().len(), 2);
    entries.push(entry(media::OCI_MANIFEST, "linux/amd64"));
    let chosen = index(&entries);
    let chosen = chosen.select(&amd64).unwrap();
    assert_eq!((chosen.len(), chosen[0].platform()), (1, Some(amd64)));
    assert!(index(&odd).select(&"linux/amd64".parse().unwrap()).is_err());
}
