//! The settings of a store.

use cofferdam_runtime::{Config, Result, Setting};

use crate::Coffer;

/// The settings of a store. They are read whenever they matter, so a change counts at once.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    coffer: &'a Coffer,
}

impl<'a> Settings<'a> {
    pub(crate) const fn new(coffer: &'a Coffer) -> Self {
        Self { coffer }
    }

    /// Every setting that there is, with its value.
    ///
    /// # Errors
    /// When the file of the settings is damaged.
    pub fn list(&self) -> Result<Vec<Setting>> {
        Ok(Config::load(self.coffer.runtime.store().layout())?.list())
    }

    /// One setting.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], or as [`Self::list`].
    pub fn get(&self, key: &str) -> Result<Setting> {
        Config::load(self.coffer.runtime.store().layout())?.get(key)
    }

    /// Changes one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for the key, [`crate::ErrorKind::InvalidSpec`] for the value,
    /// and the file system's.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        Config::set(self.coffer.runtime.store().layout(), key, value)
    }

    /// Gives one its default again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], and the file system's.
    pub fn unset(&self, key: &str) -> Result<()> {
        Config::unset(self.coffer.runtime.store().layout(), key)
    }
}
