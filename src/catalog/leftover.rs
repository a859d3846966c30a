//! What is in a repository without being named by any record.

use chrono::{DateTime, Utc};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The key of an object, or of a directory.
    pub key: String,
    pub kind: LeftoverKind,
    /// When it was written to last, by the clock of the machine that holds it.
    pub changed_at: DateTime<Utc>,
    pub stored_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftoverKind {
    /// An object that was never committed.
    Upload,
    /// Of a run that has ended, in a backup that is recorded.
    Lease,
    /// A backup's directory without a record.
    Unrecorded(Unrecorded),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unrecorded {
    /// A run holds it: by whom, in words.
    Held(String),
    /// Whoever wrote it has died.
    Abandoned,
    /// Its record was deleted, and then not all of the rest.
    HalfDeleted,
}
