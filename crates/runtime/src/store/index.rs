//! The index: which names and ids there are. SQLite, so that several processes may claim names
//! at once; worthless beside the directories, from which it is rebuilt when it is lost.

use std::{path::Path, time::Duration};

use cofferdam_types::SandboxId;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::error::{Error, ErrorKind, Result};

/// How long a process waits for another's transaction; each is a few rows.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Version of the tables; another one means rebuild.
const SCHEMA_VERSION: i64 = 1;

/// An open index.
#[derive(Debug)]
pub(crate) struct Index(Connection);

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) id: SandboxId,
    pub(crate) name: String,
}

impl Index {
    /// Opens the index, making it if needed. Returns whether it is new or had to be dropped, and
    /// so must be filled from the directories.
    pub(crate) fn open(path: &Path) -> Result<(Self, bool)> {
        match Self::try_open(path) {
            Ok(opened) => Ok(opened),
            Err(error) if is_corrupt(&error) => {
                for suffix in ["", "-wal", "-shm"] {
                    let mut name = path.as_os_str().to_owned();
                    name.push(suffix);
                    // A file that is not there needs no removal; another failure shows below.
                    let _ = std::fs::remove_file(name);
                }
                Self::try_open(path).map_err(|error| failed("open", error))
            }
            Err(error) => Err(failed("open", error)),
        }
    }

    fn try_open(path: &Path) -> rusqlite::Result<(Self, bool)> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version == SCHEMA_VERSION {
            return Ok((Self(connection), false));
        }
        // The directories are the truth: a row lost in a power cut is found there again.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             DROP TABLE IF EXISTS sandboxes;
             CREATE TABLE sandboxes (
                 id TEXT PRIMARY KEY,
                 name TEXT NOT NULL UNIQUE
             ) WITHOUT ROWID;
             PRAGMA user_version = {SCHEMA_VERSION};
             COMMIT;"
        ))?;
        Ok((Self(connection), true))
    }

    /// Claims a name for an id.
    pub(crate) fn insert(&self, entry: &IndexEntry) -> Result<()> {
        // WAL with `synchronous = OFF` writes no fsync; see above for what that may lose.
        self.0
            .pragma_update(None, "synchronous", "OFF")
            .and_then(|()| {
                self.0.execute(
                    "INSERT INTO sandboxes (id, name) VALUES (?1, ?2)",
                    params![entry.id.to_string(), entry.name],
                )
            })
            .map(drop)
            .map_err(|error| match error.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation) => Error::new(
                    ErrorKind::NameTaken,
                    format!("The name `{}` is taken by another sandbox", entry.name),
                )
                .hint(format!(
                    "Remove it with `coffer rm {}`, or choose another name",
                    entry.name
                )),
                _ => failed("write", error),
            })
    }

    /// Forgets an id.
    pub(crate) fn remove(&self, id: SandboxId) -> Result<()> {
        self.0
            .execute("DELETE FROM sandboxes WHERE id = ?1", [id.to_string()])
            .map(drop)
            .map_err(|error| failed("write", error))
    }

    /// The id of a name.
    pub(crate) fn by_name(&self, name: &str) -> Result<Option<SandboxId>> {
        let id: Option<String> = self
            .0
            .query_row("SELECT id FROM sandboxes WHERE name = ?1", [name], |row| {
                row.get(0)
            })
            .optional()
            .map_err(|error| failed("read", error))?;
        Ok(id.and_then(|id| id.parse().ok()))
    }

    /// The ids that start with `prefix`, which must be hex; at most two, which is ambiguous.
    pub(crate) fn by_prefix(&self, prefix: &str) -> Result<Vec<SandboxId>> {
        self.ids(
            "SELECT id FROM sandboxes WHERE id >= ?1 AND id < ?1 || 'g' LIMIT 2",
            prefix,
        )
    }

    /// Every id.
    pub(crate) fn all(&self) -> Result<Vec<SandboxId>> {
        self.ids("SELECT id FROM sandboxes WHERE id >= ?1", "")
    }

    fn ids(&self, query: &str, argument: &str) -> Result<Vec<SandboxId>> {
        let read = || -> rusqlite::Result<Vec<String>> {
            self.0
                .prepare(query)?
                .query_map([argument], |row| row.get(0))?
                .collect()
        };
        let ids = read().map_err(|error| failed("read", error))?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

fn failed(verb: &str, error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ErrorKind::NoSpace,
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ErrorKind::Permission
        }
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("Could not {verb} the index of sandboxes")).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(byte: u8, name: &str) -> IndexEntry {
        IndexEntry {
            id: SandboxId::from_random([byte; 32]),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_name_is_claimed_once() {
        let dir = tempfile::tempdir().unwrap();
        let (index, new) = Index::open(&dir.path().join("index.db")).unwrap();
        assert!(new);
        index.insert(&entry(1, "web")).unwrap();
        assert_eq!(
            index.insert(&entry(2, "web")).unwrap_err().kind(),
            ErrorKind::NameTaken
        );
        index.remove(entry(1, "web").id).unwrap();
        index.insert(&entry(2, "web")).unwrap();
    }

    #[test]
    fn prefixes_find_one_or_are_ambiguous() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(&dir.path().join("index.db")).unwrap();
        index.insert(&entry(0xab, "a")).unwrap();
        index.insert(&entry(0xac, "b")).unwrap();
        assert_eq!(index.by_prefix("ab").unwrap().len(), 1);
        assert_eq!(index.by_prefix("a").unwrap().len(), 2);
        assert_eq!(index.by_prefix("f").unwrap().len(), 0);
        assert_eq!(index.all().unwrap().len(), 2);
    }

    #[test]
    fn a_damaged_index_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        std::fs::write(&path, vec![0x55; 8192]).unwrap();
        let (index, new) = Index::open(&path).unwrap();
        assert!(new);
        assert!(index.all().unwrap().is_empty());
        drop(index);
        assert!(!Index::open(&path).unwrap().1);
    }
}
