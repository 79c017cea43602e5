//! Filters of `network ls`, as Docker's: values of one key are alternatives, keys are all to fit.

use cofferdam::{Error, ErrorKind, NetworkInfo, Result};

/// All filters of a command.
#[derive(Debug, Default)]
pub(super) struct Filters(Vec<(String, String)>);

impl Filters {
    /// Reads filters.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`].
    pub(super) fn parse(texts: &[String]) -> Result<Self> {
        let read = |text: &String| {
            let invalid = || Error::new(ErrorKind::InvalidSpec, format!("`{text}` is no filter"));
            let hint = "Filters are name=, id=, label= and dangling=";
            let (key, value) = text.split_once('=').ok_or_else(|| invalid().hint(hint))?;
            let known = matches!(key, "name" | "id" | "label")
                || (key == "dangling" && value.parse::<bool>().is_ok());
            match known {
                true => Ok((key.to_owned(), value.to_owned())),
                false => Err(invalid().hint(hint)),
            }
        };
        Ok(Self(texts.iter().map(read).collect::<Result<_>>()?))
    }

    /// Whether a network fits.
    pub(super) fn fit(&self, info: &NetworkInfo) -> bool {
        self.0.iter().all(|(key, value)| match key.as_str() {
            // Each label has to fit.
            "label" => has_label(info, value),
            key => {
                let same = self.0.iter().filter(|(other, _)| other == key);
                let mut values = same.map(|(_, value)| value.as_str());
                values.any(|value| fits(info, key, value))
            }
        })
    }
}

fn fits(info: &NetworkInfo, key: &str, value: &str) -> bool {
    match key {
        "name" => info.name.contains(value),
        "id" => info.id.starts_with(value),
        _ => info.members.is_empty() == (value == "true"),
    }
}

fn has_label(info: &NetworkInfo, text: &str) -> bool {
    match text.split_once('=') {
        Some((key, value)) => info.labels.get(key).is_some_and(|has| has == value),
        None => info.labels.contains_key(text),
    }
}
