//! The files in a backup's archives, and what its manifest says of them: for `restore`, which writes them, and for
//! `verify`, which only looks.
//!
//! The pieces of a file arrive in any order, on any thread. Each is checksummed where it is used; when all are there,
//! the checksums are combined in order, and the file is what the manifest says or it is not.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use crate::pg::WalFileName;
use crate::pg::manifest::{Manifest, ManifestFile};
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
