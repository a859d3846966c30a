//! The directory that `archive_command = 'test ! -f /archive/%f && cp %p /archive/%f'` fills.
//!
//! `cp` gives a file its name before it has its content, so a file may be half there. It is left alone until it is
//! whole: until a segment has the size that its first page says, and does not end in zeros unless its records end
//! there with a switch (see [`wal_records`](crate::pg::wal_records)). PostgreSQL archives one file after the other, so
//! one that is not whole while a later segment of its timeline is there will never be, and is a finding.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::ops::{Error, wal_file};
use crate::pg::wal_page::{LONG_HEADER_BYTES, LongHeader};
use crate::pg::wal_records::{RecordWalk, RecordsEnd};
use crate::pg::{SystemIdentifier, WalFileName};

/// How many of the last segments are looked at to find one that says whose it is.
const LAST_SEGMENTS: usize = 8;

/// The WAL files of a directory, by their names.
#[derive(Debug)]
pub struct SourceDirectory {
    pub path: PathBuf,
    pub names: BTreeSet<WalFileName>,
}

/// What a file of the directory is.
#[derive(Debug)]
pub enum Look {
    /// Whole, and what its name says. A segment says of which system it is.
    Whole { file: File, system: Option<SystemIdentifier>, size_bytes: u64 },
    /// Not whole, and why.
    Incomplete(String),
    /// Something else than its name says, and in what way.
    Wrong(String),
    /// Somebody removed it since the directory was listed.
    Gone,
}

impl SourceDirectory {
    /// Reads the names of all WAL files; others are nobody's business.
    pub fn list(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { action: "list", path: path.to_owned(), source };
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(path).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            names.extend(name.to_str().and_then(|name| WalFileName::parse(name).ok()));
        }
        Ok(Self { path: path.to_owned(), names })
    }

    pub fn path_of(&self, name: &WalFileName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// The system that one of the last segments says it belongs to, and which that is.
    pub fn system_of_last_segment(&self) -> Option<(&WalFileName, SystemIdentifier)> {
        let segments = self.names.iter().rev().filter(|name| matches!(name, WalFileName::Segment(_)));
        let header = |name: &WalFileName| {
            let mut bytes = Vec::new();
            let file = File::open(self.path_of(name)).ok()?;
            file.take(LONG_HEADER_BYTES as u64).read_to_end(&mut bytes).ok()?;
            LongHeader::parse(&bytes).ok()
        };
        let mut found =
            segments.take(LAST_SEGMENTS).filter_map(|name| Some((name, header(name)?.system_identifier)));
        found.next()
    }

    /// Whether a later segment of its timeline shows that this file will never be finished.
    pub fn has_later(&self, name: &WalFileName) -> bool {
        let is_later = |other: &&WalFileName| {
            matches!(other, WalFileName::Segment(_))
                && other.timeline() == name.timeline()
                && other.place() > name.place()
        };
        // Segments come first in the order of names, each timeline's together.
        self.names.iter().rev().find(is_later).is_some()
    }

    /// Opens a file and looks whether it is whole and what its name says.
    pub fn look_at(&self, name: &WalFileName) -> io::Result<Look> {
        let mut file = match File::open(self.path_of(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Gone),
            opened => opened?,
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Look::Wrong("it is not a regular file".to_owned()));
        }
        let size_bytes = metadata.len();
        let mut beginning = Vec::new();
        (&file).take(wal_file::BEGINNING_BYTES as u64).read_to_end(&mut beginning)?;
        if let Some(reason) = is_short(name, &beginning, size_bytes) {
            return Ok(Look::Incomplete(reason));
        }
        let system = match wal_file::check(name, &beginning, size_bytes) {
            Ok(system) => system,
            Err(error) => return Ok(Look::Wrong(error.to_string())),
        };
        if matches!(name, WalFileName::Segment(_))
            && let Some(ending) = zeros_at_the_end(&mut file, &beginning, size_bytes)?
        {
            return Ok(ending);
        }
        Ok(Look::Whole { file, system, size_bytes })
    }
}

/// Why a file can be seen to be shorter than it will be.
fn is_short(name: &WalFileName, beginning: &[u8], size_bytes: u64) -> Option<String> {
    match name {
        WalFileName::Segment(_) | WalFileName::Partial(_) => {
            if size_bytes < LONG_HEADER_BYTES as u64 {
                return Some(format!("it has {size_bytes} bytes so far"));
            }
            if beginning.iter().all(|&byte| byte == 0) {
                return Some("it has nothing but zeros so far".to_owned());
            }
            let segment_bytes = LongHeader::parse(beginning).ok()?.segment_size.bytes();
            (size_bytes < segment_bytes)
                .then(|| format!("it has {size_bytes} of {segment_bytes} bytes so far"))
        }
        // The server ends each of their lines.
        WalFileName::History(_) | WalFileName::BackupNote(_) => (size_bytes == beginning.len() as u64
            && beginning.last() != Some(&b'\n'))
        .then(|| format!("it has {size_bytes} bytes so far, without the end of its last line")),
    }
}

/// Follows the records of a segment whose last page is all zeros; `None` when that is as it should be.
fn zeros_at_the_end(file: &mut File, beginning: &[u8], size_bytes: u64) -> io::Result<Option<Look>> {
    let header = LongHeader::parse(beginning).expect("the file was found to be a segment");
    let mut page = vec![0; header.page_bytes as usize];
    file.seek(SeekFrom::Start(size_bytes - page.len() as u64))?;
    file.read_exact(&mut page)?;
    if page.iter().any(|&byte| byte != 0) {
        return Ok(None);
    }
    let mut walk = RecordWalk::new(header.page.address);
    file.rewind()?;
    let mut reader = io::BufReader::with_capacity(64 * page.len(), file);
    for _ in 0..size_bytes / page.len() as u64 {
        reader.read_exact(&mut page)?;
        walk.feed_page(&page);
    }
    Ok(match walk.finish() {
        RecordsEnd::Switch | RecordsEnd::Full => None,
        RecordsEnd::Zeros { at } => {
            Some(Look::Incomplete(format!("from {at} on it has nothing but zeros so far")))
        }
        RecordsEnd::Broken { at } => {
            Some(Look::Wrong(format!("its page at {at} is not the continuation of the records before it")))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &[u8])]) -> (tempfile::TempDir, SourceDirectory) {
        let scratch = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(scratch.path().join(name), content).unwrap();
        }
        let listed = SourceDirectory::list(scratch.path()).unwrap();
        (scratch, listed)
    }

    fn name(text: &str) -> WalFileName {
        WalFileName::parse(text).unwrap()
    }

    #[test]
    fn only_wal_is_listed() {
        let (_scratch, listed) =
            directory(&[("000000010000000000000001", b""), (".0000", b""), ("a.tmp", b""), ("x", b"")]);
        assert_eq!(listed.names, BTreeSet::from([name("000000010000000000000001")]));
        assert!(SourceDirectory::list(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn a_text_is_whole_with_the_end_of_its_last_line() {
        let (_scratch, listed) = directory(&[
            ("00000002.history", b"1\t0/3000000\treason\n"),
            ("00000003.history", b"1\t0/300000"),
            ("00000004.history", b""),
            ("00000005.history", b"nonsense\n"),
        ]);
        let look = |text: &str| listed.look_at(&name(text)).unwrap();
        assert!(matches!(look("00000002.history"), Look::Whole { system: None, size_bytes: 19, .. }));
        assert!(matches!(look("00000003.history"), Look::Incomplete(_)));
        assert!(matches!(look("00000004.history"), Look::Incomplete(_)));
        assert!(matches!(look("00000005.history"), Look::Wrong(_)));
        assert!(matches!(look("00000006.history"), Look::Gone));
    }

    #[test]
    fn a_segment_of_few_bytes_or_of_zeros_is_not_whole() {
        let (_scratch, listed) = directory(&[
            ("000000010000000000000001", b"12"),
            ("000000010000000000000002", &[0; 100]),
            ("000000010000000000000003", &[7; 100]),
        ]);
        let look = |number: u8| listed.look_at(&name(&format!("00000001000000000000000{number}"))).unwrap();
        assert!(matches!(look(1), Look::Incomplete(_)));
        assert!(matches!(look(2), Look::Incomplete(_)));
        assert!(matches!(look(3), Look::Wrong(_)));
        assert!(listed.has_later(&name("000000010000000000000002")));
        assert!(!listed.has_later(&name("000000010000000000000003")));
        assert!(!listed.has_later(&name("000000020000000000000001")), "of another timeline");
        assert_eq!(listed.system_of_last_segment(), None);
    }
}
