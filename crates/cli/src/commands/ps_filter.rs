//! Filters of `ps`, as Docker's: values of one key are alternatives, keys are all to fit.

use std::collections::BTreeMap;

use cofferdam::{Coffer, Error, ErrorKind, Result, SandboxInfo, SandboxStatus};
use regex_lite::Regex;

/// What a row must be.
#[derive(Debug)]
enum Filter {
    Name(Regex),
    Id(String),
    Image(String),
    Status(SandboxStatus),
    Exited(u8),
    /// Made before this time, in nanoseconds since the Unix epoch.
    Before(u64),
    /// Made after this time.
    Since(u64),
    Label(String, Option<String>),
}

/// All filters of a command.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// Alternatives by key; each label is a key of its own.
    by_key: BTreeMap<String, Vec<Filter>>,
    /// Whether they ask for a status, and thus also for those that do not run.
    pub(super) any_status: bool,
}

impl Filters {
    /// Reads filters.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`], and [`ErrorKind::NotFound`] for a sandbox that is not there.
    pub(super) fn parse(texts: &[String], coffer: &Coffer) -> Result<Self> {
        let created = |name: &str| Ok(coffer.sandbox(name)?.info()?.created_ns);
        let mut filters = Self::default();
        for text in texts {
            let (key, filter) = Filter::parse(text, created)?;
            filters.any_status |= matches!(filter, Filter::Status(_) | Filter::Exited(_));
            filters.by_key.entry(key).or_default().push(filter);
        }
        Ok(filters)
    }

    /// Whether a sandbox fits.
    pub(super) fn fit(&self, info: &SandboxInfo) -> bool {
        let mut keys = self.by_key.values();
        keys.all(|alternatives| alternatives.iter().any(|filter| filter.fits(info)))
    }
}

impl Filter {
    /// Its key, and what it asks for.
    fn parse(text: &str, created: impl Fn(&str) -> Result<u64>) -> Result<(String, Self)> {
        let invalid = |what: String| Error::new(ErrorKind::InvalidSpec, what);
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| invalid(format!("`{text}` is not `KEY=VALUE`")))?;
        let filter = match key {
            "name" => Self::Name(Regex::new(value).map_err(|error| {
                invalid(format!("`{value}` is not a regular expression")).because(error)
            })?),
            "id" => Self::Id(value.to_owned()),
            "image" | "ancestor" => Self::Image(value.to_owned()),
            "label" => match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            },
            "status" => Self::Status(status(value)?),
            "exited" => Self::Exited(
                value
                    .parse()
                    .map_err(|_| invalid(format!("`{value}` is not an exit code")))?,
            ),
            "before" => Self::Before(created(value)?),
            "since" => Self::Since(created(value)?),
            _ => {
                let hint = "Filter by name, id, image, status, exited, label, before or since";
                return Err(invalid(format!("`{key}` is not a filter")).hint(hint));
            }
        };
        let key = match key {
            "label" => text,
            "ancestor" => "image",
            key => key,
        };
        Ok((key.to_owned(), filter))
    }

    fn fits(&self, info: &SandboxInfo) -> bool {
        match self {
            // Docker's names begin with a slash that it does not show.
            Self::Name(name) => {
                name.is_match(&info.name) || name.is_match(&format!("/{}", info.name))
            }
            Self::Id(start) => info.id.to_string().starts_with(start),
            Self::Image(image) => info.image == *image,
            Self::Status(status) => info.status == *status,
            Self::Exited(code) => {
                info.status == SandboxStatus::Stopped && info.exit_code == Some(*code)
            }
            Self::Before(time) => info.created_ns < *time,
            Self::Since(time) => info.created_ns > *time,
            Self::Label(key, value) => info
                .labels
                .get(key)
                .is_some_and(|found| value.as_ref().is_none_or(|value| value == found)),
        }
    }
}

/// A status by our name or Docker's.
fn status(value: &str) -> Result<SandboxStatus> {
    let value = match value {
        "exited" => "stopped",
        "dead" => "failed",
        value => value,
    };
    let mut all = SandboxStatus::ALL.into_iter();
    all.find(|status| status.to_string() == value)
        .ok_or_else(|| Error::new(ErrorKind::InvalidSpec, format!("`{value}` is not a status")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(expression: &str) -> Vec<&'static str> {
        let Ok((_, Filter::Name(name))) = Filter::parse(expression, |_| Ok(0)) else {
            panic!("{expression}")
        };
        let all = ["web", "web-1", "my-web"];
        let fits = |one: &&str| name.is_match(one) || name.is_match(&format!("/{one}"));
        all.into_iter().filter(fits).collect()
    }

    #[test]
    fn a_name_is_a_regular_expression() {
        assert_eq!(names("name=^web$"), ["web"]);
        assert_eq!(names("name=^/web$"), ["web"]);
        assert_eq!(names("name=web"), ["web", "web-1", "my-web"]);
        assert_eq!(names("name=^web-[0-9]+$"), ["web-1"]);
        let error = Filter::parse("name=(", |_| Ok(0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    }

    #[test]
    fn statuses_are_ours_and_dockers() {
        assert_eq!(status("exited").unwrap(), SandboxStatus::Stopped);
        assert_eq!(status("running").unwrap(), SandboxStatus::Running);
        assert!(status("x").is_err() && Filter::parse("exited=x", |_| Ok(0)).is_err());
        assert!(
            Filter::parse("nope=x", |_| Ok(0))
                .unwrap_err()
                .hint_text()
                .is_some()
        );
    }
}
