//! OCI platforms: `os/arch[/variant]`.
//!
//! Source: OCI image-spec, image-index.md §platform; the aliases are those of containerd's
//! `platforms` package.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An OCI target: operating system, architecture and, for ARM, a variant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawPlatform")]
pub struct Platform {
    os: String,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

/// The text is not `os/arch` or `os/arch/variant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsePlatformError(String);

impl Platform {
    /// A normalised platform.
    ///
    /// # Errors
    /// When a part is empty or holds anything but letters, digits, `.`, `_` and `-`.
    pub fn new(
        os: &str,
        architecture: &str,
        variant: Option<&str>,
    ) -> Result<Self, ParsePlatformError> {
        let part_is_good = |part: &str| {
            !part.is_empty()
                && part.len() <= 32
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        };
        let variant = variant.filter(|v| !v.is_empty());
        if ![os, architecture]
            .into_iter()
            .chain(variant)
            .all(part_is_good)
        {
            return Err(ParsePlatformError(
                format!("{os}/{architecture}").chars().take(80).collect(),
            ));
        }
        let (architecture, variant) = normalise(
            &architecture.to_ascii_lowercase(),
            variant.map(str::to_ascii_lowercase).as_deref(),
        );
        Ok(Self {
            os: os.to_ascii_lowercase(),
            architecture,
            variant,
        })
    }

    /// What this program was built for; guests are always Linux.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = normalise(std::env::consts::ARCH, None);
        Self {
            os: "linux".to_owned(),
            architecture,
            variant,
        }
    }

    /// Parses a comma-separated list; blanks around an item are allowed.
    ///
    /// # Errors
    /// When an item is no platform, or the list is empty.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, ParsePlatformError> {
        text.split(',').map(|item| item.trim().parse()).collect()
    }

    /// The operating system, such as `linux`.
    #[must_use]
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The architecture by its Go name, such as `amd64`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant, such as `v7`; absent where the architecture has a default.
    #[must_use]
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// Whether an image for `self` runs on `host` without emulating another architecture.
    #[must_use]
    pub fn runs_on(&self, host: &Self) -> bool {
        self.rank_on(host).is_some()
    }

    /// How well an image for `self` fits `host`: 0 for the very platform, 1 for another variant,
    /// 2 for 32-bit programs of the same processor; none when it does not run there.
    #[must_use]
    pub fn rank_on(&self, host: &Self) -> Option<u8> {
        let same_variant =
            self.variant.is_none() || host.variant.is_none() || self.variant == host.variant;
        if self.os != host.os {
            None
        } else if self == host {
            Some(0)
        } else if self.architecture == host.architecture && same_variant {
            Some(1)
        } else if self.architecture == "386" && host.architecture == "amd64" {
            Some(2)
        } else {
            None
        }
    }
}

/// Maps an architecture and variant to their canonical names; canonical ones map to themselves.
fn normalise(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let (architecture, variant) = match (architecture, variant) {
        ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
        ("x86_64" | "x86-64", other) => ("amd64", other),
        ("i386" | "i686" | "x86", other) => ("386", other),
        ("aarch64" | "arm64" | "arm64v8", Some("8" | "v8") | None) => ("arm64", None),
        ("aarch64" | "arm64v8", other) => ("arm64", other),
        ("armhf" | "armv7l", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("arm", Some("7") | None) => ("arm", Some("v7")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        other => other,
    };
    (architecture.to_owned(), variant.map(str::to_owned))
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture] => Self::new(os, architecture, None),
            [os, architecture, variant] if !variant.is_empty() => {
                Self::new(os, architecture, Some(variant))
            }
            _ => Err(ParsePlatformError(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<RawPlatform> for Platform {
    type Error = ParsePlatformError;

    fn try_from(raw: RawPlatform) -> Result<Self, Self::Error> {
        Self::new(&raw.os, &raw.architecture, raw.variant.as_deref())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant
            .as_ref()
            .map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl fmt::Display for ParsePlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a platform such as `linux/amd64` or `linux/arm/v7`",
            self.0
        )
    }
}

impl std::error::Error for ParsePlatformError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn aliases_become_canonical_names() {
        for (alias, canonical) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/x86-64", "linux/amd64"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64v8", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armv7l", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("linux/i686", "linux/386"),
            ("linux/x86", "linux/386"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(alias.parse::<Platform>().unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn incomplete_or_odd_text_is_refused() {
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/",
            "a/b/c/d",
            "linux/a b",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_very_platform_fits_best_and_32_bit_programs_run_too() {
        let rank = |image: &str, host: &str| {
            let image: Platform = image.parse().unwrap();
            image.rank_on(&host.parse().unwrap())
        };
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64/v3", "linux/amd64"), Some(1));
        assert_eq!(rank("linux/386", "linux/amd64"), Some(2));
        assert_eq!(rank("linux/amd64", "linux/386"), None);
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("windows/amd64", "linux/amd64"), None);
        assert_eq!(rank("linux/arm64", "linux/amd64"), None);
    }

    #[test]
    fn lists_are_split_at_commas() {
        let list = Platform::parse_list("linux/amd64, linux/arm64").unwrap();
        assert_eq!(list.len(), 2);
        assert!(Platform::parse_list("linux/amd64,,").is_err());
    }

    #[test]
    fn json_leaves_an_absent_variant_out() {
        let platform: Platform = "linux/amd64".parse().unwrap();
        let json = serde_json::to_string(&platform).unwrap();
        assert_eq!(json, r#"{"os":"linux","architecture":"amd64"}"#);
        assert_eq!(serde_json::from_str::<Platform>(&json).unwrap(), platform);
    }

    proptest! {
        #[test]
        fn display_then_parse_is_identity(
            os in "[a-z]{1,8}", arch in "[a-z0-9_-]{1,10}", variant in proptest::option::of("v[0-9]")
        ) {
            let platform = Platform::new(&os, &arch, variant.as_deref()).unwrap();
            prop_assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
        }
    }
}
