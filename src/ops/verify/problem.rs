//! What is wrong with an object, as whoever looked at it sees it: without what follows from it, which is for
//! [`conclusion`](super::conclusion) to say.

use crate::catalog::BackupName;
use crate::catalog::wal::Gap;
use crate::pg::{SegmentName, SystemIdentifier, Timeline};
use crate::pipe;

#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub code: &'static str,
    /// The object's key, or that of the directory it should be in.
    pub object: String,
    pub inside: Option<String>,
    pub expected: Option<String>,
    pub found: String,
    pub subject: Subject,
    /// A remedy that goes before the usual one.
    pub hint: Option<String>,
}

/// What cannot be relied on because of a problem.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A backup whose record can be read: it cannot be restored.
    Backup(BackupName),
    /// A backup with pages that were damaged before it was taken: it can be restored, damage and all.
    PagesOf(BackupName),
    /// A backup of which not even the record can be read.
    UnknownBackup(BackupName),
    Segment(SystemIdentifier, SegmentName),
    /// Segments that are not there.
    Gap(SystemIdentifier, Gap),
    History(SystemIdentifier, Timeline),
    /// WAL of which it is not known what it is.
    SomeWal,
    Nothing,
}

impl Subject {
    /// The backup that the problem is one of.
    pub fn backup(&self) -> Option<BackupName> {
        match self {
            Self::Backup(name) | Self::PagesOf(name) | Self::UnknownBackup(name) => Some(*name),
            _ => None,
        }
    }
}

impl Problem {
    pub fn new(
        code: &'static str,
        object: impl Into<String>,
        subject: Subject,
        found: impl Into<String>,
    ) -> Self {
        Self {
            code,
            object: object.into(),
            inside: None,
            expected: None,
            found: found.into(),
            subject,
            hint: None,
        }
    }

    pub fn expecting(self, expected: impl Into<String>) -> Self {
        Self { expected: Some(expected.into()), ..self }
    }

    pub fn inside(self, place: impl Into<String>) -> Self {
        Self { inside: Some(place.into()), ..self }
    }

    pub fn with_hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }

    /// What the reader of an archive found. What its storage could not give is not among that.
    pub fn of_archive(object: &str, subject: Subject, error: &pipe::Error) -> Self {
        let problem = |code, found: String| Self::new(code, object, subject.clone(), found);
        match error {
            pipe::Error::Digest { found, expected } => {
                problem("digest-differs", format!("SHA-256 {found}")).expecting(format!("SHA-256 {expected}"))
            }
            pipe::Error::TooShort { found_bytes, expected_bytes } => {
                problem("size-differs", format!("{found_bytes} bytes"))
                    .expecting(format!("{expected_bytes} bytes"))
            }
            pipe::Error::TooLong { expected_bytes } => {
                problem("size-differs", format!("more than {expected_bytes} bytes"))
                    .expecting(format!("{expected_bytes} bytes"))
            }
            other => problem("damaged", other.to_string()),
        }
    }

    /// In a line, for the memory of proofs.
    pub fn in_words(&self) -> String {
        let inside = self.inside.as_ref().map(|inside| format!(", {inside}")).unwrap_or_default();
        let expected =
            self.expected.as_ref().map(|expected| format!(", expected {expected}")).unwrap_or_default();
        format!("{}{inside}: {}{expected} [{}]", self.object, self.found, self.code)
    }
}
