//! The index: which names and ids there are. SQLite, so that several processes may claim names
//! at once; worthless beside the directories, from which it is rebuilt when it is lost.

use std::{path::Path, time::Duration};

use cofferdam_types::SandboxId;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::base::error::{Error, ErrorKind, Result};

/// How long a process waits for another's transaction; each is a few rows.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Version of the tables; another one means rebuild.
const SCHEMA_VERSION: i64 = 1;

/// An open index.
#[derive(Debug)]
pub(crate) struct Index {
    tables: Connection,
    /// Whether it is in memory for want of space on the disk. Others do not see it, so that no
    /// name can be claimed in it.
    is_transient: bool,
}

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
            // What frees space needs to know what there is.
            Err(error) if is_full(&error) => {
                Self::transient().map_err(|error| failed("make", error))
            }
            Err(error) => Err(failed("open", error)),
        }
    }

    fn try_open(path: &Path) -> rusqlite::Result<(Self, bool)> {
        let tables = Connection::open(path)?;
        tables.busy_timeout(BUSY_TIMEOUT)?;
        let version: i64 = tables.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let is_new = version != SCHEMA_VERSION;
        if is_new {
            // The directories are the truth: a row lost in a power cut is found there again.
            tables.pragma_update(None, "journal_mode", "WAL")?;
            make_tables(&tables)?;
        }
        let index = Self {
            tables,
            is_transient: false,
        };
        Ok((index, is_new))
    }

    /// An index that lasts as long as this process, and must be filled.
    fn transient() -> rusqlite::Result<(Self, bool)> {
        let tables = Connection::open_in_memory()?;
        make_tables(&tables)?;
        let index = Self {
            tables,
            is_transient: true,
        };
        Ok((index, true))
    }

    /// Whether it lasts no longer than this process.
    pub(crate) const fn is_transient(&self) -> bool {
        self.is_transient
    }

    /// Claims a name for an id.
    pub(crate) fn insert(&self, entry: &IndexEntry) -> Result<()> {
        if self.is_transient {
            return Err(no_space("write"));
        }
        self.put(entry)
    }

    /// Enters what has its name already.
    pub(crate) fn put(&self, entry: &IndexEntry) -> Result<()> {
        // WAL with `synchronous = OFF` writes no fsync; see above for what that may lose.
        self.tables
            .pragma_update(None, "synchronous", "OFF")
            .and_then(|()| {
                self.tables.execute(
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
                    "Choose another name, or remove that one with `coffer rm {}`",
                    entry.name
                )),
                _ => failed("write", error),
            })
    }

    /// Forgets an id.
    pub(crate) fn remove(&self, id: SandboxId) -> Result<()> {
        self.tables
            .execute("DELETE FROM sandboxes WHERE id = ?1", [id.to_string()])
            .map(drop)
            .map_err(|error| failed("write", error))
    }

    /// The id of a name.
    pub(crate) fn by_name(&self, name: &str) -> Result<Option<SandboxId>> {
        let id: Option<String> = self
            .tables
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
            self.tables
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

/// Whether the disk is full. On a tmpfs it is the shared memory of the log that finds no room.
fn is_full(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}

fn no_space(verb: &str) -> Error {
    let what = format!("Could not {verb} the index of sandboxes: no space is left");
    Error::new(ErrorKind::NoSpace, what).hint(
        "Free some: `coffer rm`, `coffer prune`, `coffer snapshot prune` and `coffer template rm` need none",
    )
}

fn make_tables(tables: &Connection) -> rusqlite::Result<()> {
    tables.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         DROP TABLE IF EXISTS sandboxes;
         CREATE TABLE sandboxes (
             id TEXT PRIMARY KEY,
             name TEXT NOT NULL UNIQUE
         ) WITHOUT ROWID;
         PRAGMA user_version = {SCHEMA_VERSION};
         COMMIT;"
    ))
}

fn failed(verb: &str, error: rusqlite::Error) -> Error {
    if is_full(&error) {
        return no_space(verb).because(error);
    }
    let kind = match error.sqlite_error_code() {
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
    fn without_room_what_is_there_can_be_found_and_removed_and_no_name_claimed() {
        let (index, must_be_filled) = Index::transient().unwrap();
        assert!(must_be_filled);
        index.put(&entry(1, "web")).unwrap();
        assert_eq!(index.by_name("web").unwrap(), Some(entry(1, "web").id));
        let error = index.insert(&entry(2, "other")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        index.remove(entry(1, "web").id).unwrap();
        assert!(index.all().unwrap().is_empty());
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
