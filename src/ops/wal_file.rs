//! Whether a WAL file is what its name says: asked before one is stored, and before PostgreSQL sees one.

use super::Error;
use crate::pg::history::TimelineHistory;
use crate::pg::wal_page::{self, Expected, LONG_HEADER_BYTES, LongHeader, Mismatch};
use crate::pg::{SegmentPart, SystemIdentifier, WalFileName};
use crate::repo::Repository;

/// How much of a file's beginning [`check`] looks at: a segment's first page, or all of a history or backup note.
pub use crate::repo::wal_copy::BEGINNING_BYTES;

/// Why a file is not what its name says.
#[derive(Debug, thiserror::Error)]
pub enum WrongContent {
    #[error(transparent)]
    Segment(#[from] Mismatch),

    #[error("it says that its segments have {segment_bytes} bytes, and then there is none of this name")]
    NameOutOfRange { segment_bytes: u64 },

    #[error("expected bytes {} to {} of a segment, found {size_bytes} bytes", part.begin, part.end)]
    OtherPart { part: SegmentPart, size_bytes: u64 },

    #[error("expected a few lines of text, found {size_bytes} bytes")]
    NotALine { size_bytes: u64 },

    #[error(transparent)]
    History(#[from] crate::pg::history::HistoryError),
}

/// Checks a file by how it begins and by its size. A segment says whose it is; a history or a backup note does not.
pub fn check(
    name: &WalFileName,
    beginning: &[u8],
    size_bytes: u64,
) -> Result<Option<SystemIdentifier>, WrongContent> {
    if let Some(part) = name.part() {
        return check_part(name, part, beginning, size_bytes);
    }
    match name {
        WalFileName::Segment(_) | WalFileName::Partial(_) => {
            check_segment(name, beginning, size_bytes).map(|header| Some(header.system_identifier))
        }
        WalFileName::History(_) | WalFileName::BackupNote(_)
            if beginning.is_empty() || size_bytes != beginning.len() as u64 =>
        {
            Err(WrongContent::NotALine { size_bytes })
        }
        WalFileName::History(timeline) => Ok(TimelineHistory::parse(*timeline, beginning).map(|_| None)?),
        WalFileName::BackupNote(_) => Ok(None),
    }
}

/// Of a segment's parts only one that begins it can say whose it is, and whether it is what its name says.
fn check_part(
    name: &WalFileName,
    part: SegmentPart,
    beginning: &[u8],
    size_bytes: u64,
) -> Result<Option<SystemIdentifier>, WrongContent> {
    if size_bytes != part.size_bytes() {
        return Err(WrongContent::OtherPart { part, size_bytes });
    }
    if part.begin > 0 || size_bytes < LONG_HEADER_BYTES as u64 {
        return Ok(None);
    }
    let header = LongHeader::parse(beginning)?;
    let segment_bytes = header.segment_size.bytes();
    if part.end > segment_bytes {
        return Err(WrongContent::NameOutOfRange { segment_bytes });
    }
    let page_bytes = (header.page_bytes as usize).min(beginning.len());
    let mut page = beginning[..page_bytes].to_vec();
    page.resize(header.page_bytes as usize, 0);
    check_segment(name, &page, segment_bytes).map(|header| Some(header.system_identifier))
}

/// How long a file is at most that begins like this, and is to pass [`check`].
pub fn size_max_bytes(name: &WalFileName, beginning: &[u8]) -> u64 {
    if let Some(part) = name.part() {
        return part.size_bytes();
    }
    match (name, LongHeader::parse(beginning)) {
        (WalFileName::Segment(_) | WalFileName::Partial(_), Ok(header)) => header.segment_size.bytes(),
        _ => BEGINNING_BYTES as u64,
    }
}

fn check_segment(name: &WalFileName, beginning: &[u8], size_bytes: u64) -> Result<LongHeader, WrongContent> {
    let header = LongHeader::parse(beginning)?;
    let (segment_size, system_identifier) = (header.segment_size, header.system_identifier);
    let segment = name.segment(segment_size);
    let segment = segment.ok_or(WrongContent::NameOutOfRange { segment_bytes: segment_size.bytes() })?;
    let expected = Expected { segment, segment_size, system_identifier };
    Ok(wal_page::check_first_page(beginning, size_bytes, expected)?)
}

/// The one cluster that these repositories hold WAL of, for a file that does not say whose it is.
pub fn only_system(name: &WalFileName, repositories: &[Repository]) -> Result<SystemIdentifier, Error> {
    let mut known = Vec::new();
    for repository in repositories {
        repository.must_exist()?;
        known.extend(repository.systems()?);
    }
    known.sort_unstable();
    known.dedup();
    match known[..] {
        [system] => Ok(system),
        _ => Err(Error::UnknownCluster {
            name: name.to_string(),
            reason: "there is no data directory that it could belong to".to_owned(),
        }),
    }
}
