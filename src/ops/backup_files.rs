//! The files in a backup's archives, and what its manifest says of them: for `restore`, which writes them, and for
//! `verify`, which only looks.
//!
//! The pieces of a file arrive in any order, on any thread. Each is checksummed where it is used; when all are there,
//! the checksums are combined in order, and the file is what the manifest says or it is not.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use crate::catalog::BackupInfo;
use crate::pg::manifest::{Manifest, ManifestFile};
use crate::pg::{SegmentName, SegmentSize, Timeline, WalFileName, history};
use crate::pipe::tar::{EntryHeader, EntryKind};
use crate::repo::layout::ArchiveContent;

/// What the manifest says of the files that are still to come, by their paths.
#[derive(Debug)]
pub struct Expected {
    files: HashMap<Vec<u8>, Facts>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub size_bytes: u64,
    pub crc32c: u32,
}

/// Something in an archive that should not be there, or not so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct Unexpected {
    pub path: String,
    pub what: String,
}

/// The checksums of a file's pieces.
#[derive(Debug, Default)]
pub struct Pieces(Vec<Piece>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    offset_bytes: u64,
    size_bytes: u64,
    crc32c: u32,
}

impl Expected {
    /// Only manifests with CRC-32C come from pgbak; the path of the first file with another is the error.
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, String> {
        let facts = |file: &ManifestFile| {
            let crc32c = file.crc32c();
            let crc32c = crc32c.ok_or_else(|| format!("it gives {} no CRC-32C", file.path.display()))?;
            Ok((file.path.as_bytes().to_vec(), Facts { size_bytes: file.size_bytes, crc32c }))
        };
        let files = manifest.files.values().map(facts).collect::<Result<_, String>>()?;
        Ok(Self { files })
    }

    /// What the file should be that comes now.
    pub fn take(&mut self, path: &[u8]) -> Result<Facts, Unexpected> {
        let facts = self.files.remove(path);
        facts.ok_or_else(|| Unexpected::new(path, "a file that its manifest does not name"))
    }

    /// Expects these once more.
    pub fn expect_again(&mut self, files: impl IntoIterator<Item = (Vec<u8>, Facts)>) {
        self.files.extend(files);
    }

    /// The paths of the files that no archive brought.
    pub fn missing(&self) -> impl Iterator<Item = String> {
        self.files.keys().map(|path| shown(path))
    }
}

impl Facts {
    pub fn must_have_size(self, path: &[u8], found_bytes: u64) -> Result<(), Unexpected> {
        let expected_bytes = self.size_bytes;
        match found_bytes == expected_bytes {
            true => Ok(()),
            false => {
                let what = format!("{found_bytes} bytes, expected {expected_bytes} by its manifest");
                Err(Unexpected::new(path, what))
            }
        }
    }

    pub fn must_have_crc32c(self, path: &[u8], pieces: Pieces) -> Result<(), Unexpected> {
        let (expected, found) = (self.crc32c, pieces.crc32c());
        match found == expected {
            true => Ok(()),
            false => {
                let what = format!("CRC-32C {found:08x}, expected {expected:08x} by its manifest");
                Err(Unexpected::new(path, what))
            }
        }
    }
}

impl Pieces {
    pub fn add(&mut self, offset_bytes: u64, size_bytes: u64, crc32c: u32) {
        self.0.push(Piece { offset_bytes, size_bytes, crc32c });
    }

    /// The checksum of all pieces, in order.
    pub fn crc32c(mut self) -> u32 {
        self.0.sort_unstable();
        self.0.iter().fold(0, |crc32c, piece| {
            crc32c::crc32c_combine(crc32c, piece.crc32c, usize::try_from(piece.size_bytes).expect("64-bit"))
        })
    }
}

impl Unexpected {
    pub fn new(path: &[u8], what: impl Into<String>) -> Self {
        Self { path: shown(path), what: what.into() }
    }
}

impl From<Unexpected> for io::Error {
    fn from(unexpected: Unexpected) -> Self {
        Self::new(io::ErrorKind::InvalidData, unexpected.to_string())
    }
}

/// An entry's path, seen from the data directory; empty for that itself.
pub fn path_in_cluster(content: ArchiveContent, header: &EntryHeader) -> Result<Vec<u8>, Unexpected> {
    let own = header.path.strip_prefix(b"./").unwrap_or(&header.path);
    let own = own.strip_suffix(b"/").unwrap_or(own);
    let own = if own == b"." { b"" } else { own };
    match content {
        ArchiveContent::Base if own.starts_with(b"pg_tblspc/") && header.kind == EntryKind::File => {
            Err(Unexpected::new(own, "a tablespace's file outside the tablespace's archive"))
        }
        ArchiveContent::Base => Ok(own.to_vec()),
        ArchiveContent::Tablespace(oid) if own.is_empty() => Ok(format!("pg_tblspc/{oid}").into_bytes()),
        ArchiveContent::Tablespace(oid) => Ok([format!("pg_tblspc/{oid}/").as_bytes(), own].concat()),
        ArchiveContent::Wal => Ok([b"pg_wal/", own].concat()),
    }
}

/// The WAL that an archive may still bring: in the order in which it was received each segment from the backup's start
/// on, whole; the history of its timeline; and a status for each, which is empty.
#[derive(Debug)]
pub struct ExpectedWal {
    timeline: Timeline,
    segment_size: SegmentSize,
    next: u64,
}

impl ExpectedWal {
    pub fn of(backup: &BackupInfo) -> Self {
        let (timeline, segment_size) = (backup.timeline, backup.wal_segment_size);
        let next = SegmentName::holding(backup.start_lsn, timeline, segment_size).number;
        Self { timeline, segment_size, next }
    }

    /// Refuses what no backup of ours holds, before anything of it is written.
    pub fn take(&mut self, header: &EntryHeader) -> Result<(), Unexpected> {
        let unexpected = |what: String| Err(Unexpected::new(&header.path, what));
        let size_bytes = header.size_bytes;
        let Some(name) = wal_entry(&header.path)? else {
            return match size_bytes {
                0 => Ok(()),
                _ => unexpected(format!("{size_bytes} bytes, where a segment's status has none")),
            };
        };
        match (&name, name.segment(self.segment_size)) {
            (WalFileName::History(timeline), _) if *timeline == self.timeline => match size_bytes {
                ..=history::MAX_BYTES => Ok(()),
                _ => unexpected(format!("{size_bytes} bytes, more than any history has")),
            },
            (WalFileName::Segment(_), Some(segment)) => {
                let due = SegmentName { timeline: self.timeline, number: self.next };
                if segment != due {
                    return unexpected(format!("WAL where {} was due", due.file_name(self.segment_size)));
                }
                self.next += 1;
                match self.segment_size.bytes() {
                    expected if expected == size_bytes => Ok(()),
                    expected => unexpected(format!("{size_bytes} bytes, expected {expected}")),
                }
            }
            _ => unexpected("a file that is no WAL of this backup".to_owned()),
        }
    }
}

/// What a file of the WAL's archive is: `NAME`, or `archive_status/NAME.done`, which is `None`.
pub fn wal_entry(path: &[u8]) -> Result<Option<WalFileName>, Unexpected> {
    let text = String::from_utf8_lossy(path);
    let text = text.strip_prefix("./").unwrap_or(&text);
    let parsed = match text.strip_prefix("archive_status/") {
        Some(status) => {
            status.strip_suffix(".done").and_then(|name| WalFileName::parse(name).ok()).map(|_| None)
        }
        None => WalFileName::parse(text).ok().map(Some),
    };
    parsed.ok_or_else(|| Unexpected::new(path, "a file that is not WAL"))
}

pub fn shown(path: &[u8]) -> String {
    OsStr::from_bytes(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_in_any_order_sum_up_to_the_whole(bytes: Vec<u8>, cuts: Vec<prop::sample::Index>, turn: usize) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut ranges: Vec<_> = cuts.windows(2).map(|pair| pair[0]..pair[1]).collect();
            let turn = turn % ranges.len();
            ranges.rotate_left(turn);
            let mut pieces = Pieces::default();
            ranges.into_iter().for_each(|range| {
                let piece = &bytes[range.clone()];
                pieces.add(range.start as u64, piece.len() as u64, crc32c::crc32c(piece));
            });
            prop_assert_eq!(pieces.crc32c(), crc32c::crc32c(&bytes));
        }
    }

    #[test]
    fn wal_comes_in_its_order_and_size() {
        let (timeline, segment_size) = (Timeline::new(2).unwrap(), SegmentSize::from_bytes(1 << 20).unwrap());
        let mut expected = ExpectedWal { timeline, segment_size, next: 3 };
        let mut take = |path: &str, size_bytes: u64| {
            let (path, kind) = (path.as_bytes().to_vec(), EntryKind::File);
            let header = EntryHeader { path, kind, size_bytes, mode: 0o600, uid: 0, gid: 0, mtime: 0 };
            expected.take(&header).map_err(|unexpected| unexpected.what)
        };
        assert_eq!(take("00000002.history", 50), Ok(()));
        assert!(take("00000003.history", 50).is_err());
        assert!(take("00000002.history", 1 << 30).unwrap_err().contains("more than any history"));
        assert_eq!(take("000000020000000000000003", 1 << 20), Ok(()));
        assert_eq!(take("archive_status/000000020000000000000003.done", 0), Ok(()));
        assert!(take("archive_status/000000020000000000000003.done", 1 << 40).is_err());
        let again = take("000000020000000000000003", 1 << 20).unwrap_err();
        assert_eq!(again, "WAL where 000000020000000000000004 was due");
        assert!(take("000000010000000000000004", 1 << 20).is_err(), "of another timeline");
        assert_eq!(
            take("000000020000000000000004", 1 << 40),
            Err("1099511627776 bytes, expected 1048576".into())
        );
        assert!(take("000000020000000000000005.partial", 1 << 20).is_err());
    }

    #[test]
    fn only_wal_and_its_status_lie_in_the_wal_s_archive() {
        let segment = "000000010000000000000003";
        assert_eq!(wal_entry(segment.as_bytes()), Ok(Some(WalFileName::parse(segment).unwrap())));
        assert_eq!(wal_entry(format!("./archive_status/{segment}.done").as_bytes()), Ok(None));
        for path in
            ["archive_status/x.done", "archive_status/000000010000000000000003.ready", "postgresql.conf", ""]
        {
            assert!(wal_entry(path.as_bytes()).is_err(), "{path}");
        }
    }
}
