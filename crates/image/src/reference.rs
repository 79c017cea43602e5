//! Image references as Docker reads them: `debian` is `docker.io/library/debian:latest`.
//!
//! *Source:* the grammar of `distribution/reference` (reference.go) and its normalisation
//! (normalize.go): the first component is a registry if it holds a `.` or `:`, is `localhost`, or
//! has an upper-case letter; Docker Hub's one-component repositories live under `library/`.

use std::{fmt, str::FromStr};

use cofferdam_types::Digest;

use crate::error::{Error, ErrorKind};

/// The registry that a reference without one means.
const DEFAULT_REGISTRY: &str = "docker.io";
/// An old name of the default registry, normalize.go `legacyDefaultDomain`.
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";
/// Where Docker Hub keeps repositories of one component.
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// reference.go `RepositoryNameTotalLengthMax`, registry included.
const NAME_BYTES_MAX: usize = 255;
/// reference.go, `tag`: one word character and up to 127 more.
const TAG_BYTES_MAX: usize = 128;

/// A full image reference: registry, repository, and a tag or a digest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host name with an optional port, such as `docker.io`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry, such as `library/debian`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; absent only when a digest takes its place.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the reference pins; it wins over the tag.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `registry/repository` without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The short form that people write: without `docker.io/library/`.
    #[must_use]
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    /// [`Self::familiar`] without tag and digest, as `docker images` shows it.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        let short = self
            .repository
            .strip_prefix(OFFICIAL_PREFIX)
            .filter(|rest| !rest.contains('/'))
            .unwrap_or(&self.repository);
        // `a.b/c` alone would mean the registry `a.b`.
        if split_registry(short) != (DEFAULT_REGISTRY, short) {
            return self.name();
        }
        short.to_owned()
    }

    /// The same repository, pinned to `digest`.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            tag: None,
            digest: Some(digest),
        }
    }

    /// The name without a digest; none when only a digest tells which image is meant.
    #[must_use]
    pub(crate) fn tagged(self) -> Option<Self> {
        let is_tagged = self.tag.is_some();
        is_tagged.then_some(Self {
            digest: None,
            ..self
        })
    }

    /// Whether `text` is a repository alone, without tag and digest.
    #[must_use]
    pub(crate) fn is_repository(text: &str) -> bool {
        let last = text.rsplit('/').next().unwrap_or(text);
        !last.contains([':', '@']) && text.parse::<Self>().is_ok()
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}"));
        let digest = self.digest.map(|digest| format!("@{digest}"));
        format!("{}{}", tag.unwrap_or_default(), digest.unwrap_or_default())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| {
            let shown: String = text
                .chars()
                .take(300)
                .flat_map(char::escape_debug)
                .collect();
            Error::new(
                ErrorKind::InvalidReference,
                format!("`{shown}` is no image reference: {why}"),
            )
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    // normalize.go refuses these: they could not be told from an image id.
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hex digits are an image id");
    }
    let id = text.strip_prefix("sha256:").unwrap_or_default();
    if !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("it is an image id");
    }
    if text == "scratch" {
        return Err("`scratch` is no image, but what images are built from");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest
                .parse()
                .map_err(|_| "only `sha256:` digests are supported")?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        // A colon before the last slash is that of a port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag has a character that is not allowed, or is too long");
    }
    let (registry, repository) = split_registry(name);
    if !is_registry(registry) {
        return Err("the registry is no host name with an optional port");
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository must be lower-case");
    }
    if !repository.split('/').all(is_component) {
        return Err("the repository has an empty part or a character that is not allowed");
    }
    let registry = if registry == LEGACY_DEFAULT_REGISTRY {
        DEFAULT_REGISTRY
    } else {
        registry
    };
    let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
    let repository = format!(
        "{}{repository}",
        if official { OFFICIAL_PREFIX } else { "" }
    );
    if registry.len() + 1 + repository.len() > NAME_BYTES_MAX {
        return Err("the name is longer than 255 characters");
    }
    let tag = tag.or_else(|| digest.is_none().then_some(DEFAULT_TAG));
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// normalize.go `splitDockerDomain`.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

/// reference.go `domain`: labels or a bracketed IPv6 address, then an optional port.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, rest)) => match rest.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_is_good = if text.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    host_is_good
        && port.is_none_or(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
        })
}

/// reference.go `path-component`: runs of lower-case letters and digits, joined by one `.`, one
/// or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(is_word) || !text.ends_with(is_word) {
        return false;
    }
    text.split(is_word)
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
        && text.bytes().next().is_some_and(is_word)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn short_names_become_full_ones_as_docker_reads_them() {
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            (
                "library/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "docker.io/library/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "index.docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            ("quay.io/x/y:v1", "quay.io/x/y:v1", "quay.io/x/y:v1"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "localhost:5000/x",
                "localhost:5000/x:latest",
                "localhost:5000/x:latest",
            ),
            ("host:5000/x:1", "host:5000/x:1", "host:5000/x:1"),
            ("HOST/x", "HOST/x:latest", "HOST/x:latest"),
            (
                "127.0.0.1:5000/x",
                "127.0.0.1:5000/x:latest",
                "127.0.0.1:5000/x:latest",
            ),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            (
                "[2001:db8::1]/x:t",
                "[2001:db8::1]/x:t",
                "[2001:db8::1]/x:t",
            ),
            (
                "docker.io/a.b/c",
                "docker.io/a.b/c:latest",
                "docker.io/a.b/c:latest",
            ),
            (
                "a__b/c-d--e.f",
                "docker.io/a__b/c-d--e.f:latest",
                "a__b/c-d--e.f:latest",
            ),
            ("x:_T.a-9", "docker.io/library/x:_T.a-9", "x:_T.a-9"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_default_tag_and_stays_beside_a_given_one() {
        let pinned: Reference = format!("debian@sha256:{HEX}").parse().unwrap();
        assert_eq!(pinned.tag(), None);
        assert_eq!(pinned.digest().unwrap().hex(), HEX);
        let both: Reference = format!("debian:12@sha256:{HEX}").parse().unwrap();
        assert_eq!(
            both.to_string(),
            format!("docker.io/library/debian:12@sha256:{HEX}")
        );
    }

    #[test]
    fn what_docker_refuses_is_refused_with_a_reason() {
        let long_tag = format!("x:{}", "t".repeat(129));
        let long_name = "n".repeat(256);
        for text in [
            "",
            ":",
            "@",
            ":tag",
            "x:",
            "x@",
            "/x",
            "x/",
            "a//b",
            "Debian",
            "x/Y",
            "-x",
            "x-",
            "_x",
            "x_",
            ".x",
            "a..b",
            "a___b",
            "a._b",
            "x:-t",
            "x:.t",
            "x:a b",
            "x y",
            "x:1:2",
            "é",
            "x@sha256:00",
            "x@md5:0123",
            "host:port/x",
            "host:99999/x",
            "host:-1/x",
            "-h.io/x",
            "h-.io/x",
            "a..io/x",
            "[::1/x",
            "[::g]/x",
            "[::1]5000/x",
            "http://x.io/y",
            HEX,
            "sha256:0123456789ab",
            &format!("sha256:{HEX}"),
            "scratch",
            "x\0",
            "x\n",
            &long_tag,
            &long_name,
        ] {
            let error = text.parse::<Reference>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidReference, "{text}");
        }
    }

    proptest! {
        #[test]
        fn full_and_familiar_forms_parse_to_the_same_reference(
            registry in proptest::option::of("[a-z]{1,5}\\.[a-z]{2,3}(:[1-9][0-9]{1,3})?"),
            repository in "[a-z0-9]{1,5}((/|[._]|__|-{1,3})[a-z0-9]{1,5}){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in proptest::option::of(proptest::array::uniform32(any::<u8>())),
        ) {
            // Without a registry, a first part with a dot would be taken for one.
            let registry = registry.unwrap_or_else(|| "docker.io".to_owned()) + "/";
            let tag = tag.map(|t| format!(":{t}")).unwrap_or_default();
            let digest = digest.map(|d| format!("@{}", Digest::from_sha256(d))).unwrap_or_default();
            let reference: Reference = format!("{registry}{repository}{tag}{digest}").parse().unwrap();
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in ".{0,80}") {
            let _ = text.parse::<Reference>();
        }
    }
}
