//! The user's settings: `config.json` in the store.
//!
//! The file holds only what was set, by key, with a version. Every value is checked when it is
//! set and when it is read; what the file does not hold has its default.

use std::{collections::BTreeMap, time::Duration};

use cofferdam_base::{LockFile, fs};
use cofferdam_types::ByteSize;
use serde::{Deserialize, Serialize};

use crate::{
    base::error::{Error, ErrorKind, Result, io},
    store::layout::Layout,
};

/// Version of the file's form.
const VERSION: u32 = 1;

/// A file of a few settings is far smaller.
const MAX_BYTES: u64 = 64 << 10;

/// Longest time that an automatic standby may wait, in seconds: a day.
const MAX_STANDBY_SECONDS: u32 = 86_400;

/// A setting that there is.
#[derive(Debug)]
struct Key {
    name: &'static str,
    default: &'static str,
    about: &'static str,
    check: fn(&str) -> bool,
    form: &'static str,
}

const KEYS: [Key; 3] = [
    Key {
        name: "standby.auto",
        default: "off",
        about: "Keep one standby of the image that ran last",
        check: |value| switch(value).is_some(),
        form: "`on` or `off`",
    },
    Key {
        name: "standby.memory",
        default: "1g",
        about: "Largest memory of a sandbox that gets such a standby",
        check: |value| value.parse::<ByteSize>().is_ok(),
        form: "a size such as `512m`",
    },
    Key {
        name: "standby.seconds",
        default: "60",
        about: "How long such a standby waits before it ends",
        check: |value| seconds(value).is_some(),
        form: "a number of seconds from 1 to 86400",
    },
];

fn switch(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn seconds(value: &str) -> Option<u32> {
    let seconds = value.parse().ok()?;
    (1..=MAX_STANDBY_SECONDS)
        .contains(&seconds)
        .then_some(seconds)
}

/// One setting as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Whether it was set; else the value is the default.
    pub is_set: bool,
    /// What it is for.
    pub about: String,
}

/// The settings of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    version: u32,
    settings: BTreeMap<String, String>,
}

impl Config {
    /// Reads the settings; those of a store without a file are the defaults.
    ///
    /// # Errors
    /// When the file cannot be read or holds what is no setting.
    pub fn load(layout: &Layout) -> Result<Self> {
        let path = layout.config();
        let shown = path.display();
        let config: Self = match fs::read_json(&path, MAX_BYTES) {
            Ok(config) => config,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self {
                version: VERSION,
                settings: BTreeMap::new(),
            },
            Err(error) => {
                return Err(
                    io(format!("Could not read the settings in `{shown}`"), error)
                        .hint("Remove that file to have the defaults"),
                );
            }
        };
        if config.version != VERSION {
            let what = format!("`{shown}` has form {}, not {VERSION}", config.version);
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        for (key, value) in &config.settings {
            checked(key, value).map_err(|error| {
                let hint = format!("Remove it with `coffer config unset {key}`");
                let what = format!("`{shown}` holds a bad setting");
                Error::new(error.kind(), what).because(error).hint(hint)
            })?;
        }
        Ok(config)
    }

    /// One setting.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn get(&self, key: &str) -> Result<Setting> {
        Ok(self.setting(find(key)?))
    }

    /// Every setting that there is.
    #[must_use]
    pub fn list(&self) -> Vec<Setting> {
        KEYS.iter().map(|key| self.setting(key)).collect()
    }

    /// Sets one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for the key, [`ErrorKind::InvalidSpec`] for the value, and the file
    /// system's.
    pub fn set(layout: &Layout, key: &str, value: &str) -> Result<()> {
        checked(key, value)?;
        Self::change(layout, |settings| {
            settings.insert(key.to_owned(), value.to_owned());
        })
    }

    /// Gives one its default again. A key that is unknown may be taken out of the file too.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and the file system's.
    pub fn unset(layout: &Layout, key: &str) -> Result<()> {
        let mut was_there = false;
        Self::change(layout, |settings| {
            was_there = settings.remove(key).is_some();
        })?;
        if was_there {
            Ok(())
        } else {
            find(key).map(drop)
        }
    }

    fn change(layout: &Layout, change: impl FnOnce(&mut BTreeMap<String, String>)) -> Result<()> {
        let failed = |error| io("Could not write the settings", error);
        let path = layout.config();
        let _lock = LockFile::exclusive(&path.with_extension("lock")).map_err(failed)?;
        // Not checked: a bad setting must not keep itself from being unset.
        let mut config: Self = match fs::read_json(&path, MAX_BYTES) {
            Ok(config) => config,
            Err(_) if !path.exists() => Self {
                version: VERSION,
                settings: BTreeMap::new(),
            },
            Err(error) => return Err(failed(error)),
        };
        change(&mut config.settings);
        fs::publish_json(&path, &config, true).map_err(failed)
    }

    fn setting(&self, key: &Key) -> Setting {
        let set = self.settings.get(key.name);
        Setting {
            key: key.name.to_owned(),
            value: set.map_or(key.default, String::as_str).to_owned(),
            is_set: set.is_some(),
            about: key.about.to_owned(),
        }
    }

    /// The value of a key of this file.
    fn value<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let default = KEYS.iter().find(|key| key.name == name)?.default;
        let set = self.settings.get(name).and_then(|value| parse(value));
        set.or_else(|| parse(default))
    }

    /// Whether a standby is kept of the image that ran last.
    #[must_use]
    pub fn standby_auto(&self) -> bool {
        self.value("standby.auto", switch).unwrap_or(false)
    }

    /// Largest memory of a sandbox that gets such a standby.
    pub(crate) fn standby_memory(&self) -> ByteSize {
        let parsed = self.value("standby.memory", |value| value.parse().ok());
        parsed.unwrap_or(ByteSize::from_mib(1024))
    }

    /// How long such a standby waits.
    pub(crate) fn standby_time(&self) -> Duration {
        let parsed = self.value("standby.seconds", seconds);
        Duration::from_secs(parsed.unwrap_or(60).into())
    }
}

fn find(name: &str) -> Result<&'static Key> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        let what = format!("There is no setting `{name}`");
        Error::new(ErrorKind::NotFound, what).hint("List them with `coffer config list`")
    })
}

fn checked(name: &str, value: &str) -> Result<()> {
    let key = find(name)?;
    if (key.check)(value) {
        return Ok(());
    }
    let what = format!("`{value}` is not a value of `{name}`");
    Err(Error::new(ErrorKind::InvalidSpec, what).hint(format!("It takes {}", key.form)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::at(home.path()).unwrap();
        (home, layout)
    }

    #[test]
    fn every_default_is_a_value_of_its_key() {
        for key in KEYS {
            assert!(checked(key.name, key.default).is_ok(), "{}", key.name);
        }
    }

    #[test]
    fn what_was_set_is_there_until_it_is_unset() {
        let (_home, layout) = layout();
        assert!(!Config::load(&layout).unwrap().standby_auto());
        Config::set(&layout, "standby.auto", "on").unwrap();
        Config::set(&layout, "standby.seconds", "5").unwrap();
        let config = Config::load(&layout).unwrap();
        assert!(config.standby_auto());
        assert_eq!(config.standby_time(), Duration::from_secs(5));
        assert_eq!(config.standby_memory(), ByteSize::from_mib(1024));
        Config::unset(&layout, "standby.auto").unwrap();
        let auto = Config::load(&layout).unwrap().get("standby.auto").unwrap();
        assert_eq!((auto.value.as_str(), auto.is_set), ("off", false));
    }

    #[test]
    fn bad_keys_and_values_are_refused() {
        let (_home, layout) = layout();
        let kind = |result: Result<()>| result.unwrap_err().kind();
        let set = |key, value| kind(Config::set(&layout, key, value));
        assert_eq!(set("standby", "on"), ErrorKind::NotFound);
        for (key, value) in [
            ("standby.auto", "yes"),
            ("standby.memory", "much"),
            ("standby.seconds", "0"),
            ("standby.seconds", "86401"),
        ] {
            assert_eq!(set(key, value), ErrorKind::InvalidSpec);
        }
        assert_eq!(kind(Config::unset(&layout, "nope")), ErrorKind::NotFound);
        assert!(!layout.config().exists() || Config::load(&layout).is_ok());
    }

    #[test]
    fn a_bad_setting_in_the_file_is_an_error_and_can_be_unset() {
        let (_home, layout) = layout();
        let text = r#"{"version":1,"settings":{"standby.auto":"maybe","of.later":"1"}}"#;
        std::fs::write(layout.config(), text).unwrap();
        assert!(Config::load(&layout).is_err());
        Config::unset(&layout, "standby.auto").unwrap();
        assert!(Config::load(&layout).is_err());
        Config::unset(&layout, "of.later").unwrap();
        assert!(Config::load(&layout).is_ok());
        std::fs::write(layout.config(), "{}").unwrap();
        let error = Config::load(&layout).unwrap_err();
        assert!(error.hint_text().is_some());
    }
}
