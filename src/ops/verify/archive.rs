//! One file of a backup, by what is stored: every byte against the recorded digest, every frame against its own
//! checksum.
//!
//! The digest alone would prove that the bytes are those that were written. The frames prove that what was written can
//! be read: a machine with bad memory compresses nonsense, and digests it faithfully. The WAL that comes with a backup
//! is small, so its segments are looked at as well, like those of the archive.

use std::collections::BTreeSet;
use std::io::{self, Read};

use super::lanes::{Counted, Reading, Stop};
use super::problem::{Problem, Subject};
use crate::catalog::BackupInfo;
use crate::catalog::backup::StoredFile;
use crate::ops::backup_files;
use crate::pg::history::{self, TimelineHistory};
use crate::pg::manifest::{self, ManifestError};
use crate::pg::wal_page::{Expected, PageCheck};
use crate::pg::{SegmentName, WalFileName};
use crate::pipe::tar::{EntryHeader, EntryKind, Event, Scanner};
use crate::pipe::{self, ArchiveReader, Codec, Digester, StoredDigest};
use crate::repo::layout::{self, ArchiveContent};

/// What kind of archive a file of a backup is; `None` for one that is no archive.
pub fn content_of(file_name: &str) -> Option<(ArchiveContent, Codec)> {
    let (name, codec) = Codec::of_file(file_name);
    let content = match name.strip_suffix(".tar")? {
        "base" => ArchiveContent::Base,
        "pg_wal" => ArchiveContent::Wal,
        oid => ArchiveContent::Tablespace(oid.parse().ok()?),
    };
    Some((content, codec))
}

pub fn check_file(reading: &Reading<'_>, backup: &BackupInfo, file_name: &str) -> Result<Vec<Problem>, Stop> {
    let file = backup.files.iter().find(|file| file.name == file_name);
    let file = file.expect("a task names a file of its backup's record");
    let key = layout::backup_file(backup.name, &file.name);
    let subject = Subject::Backup(backup.name);
    let object = match reading.open(&key, &subject)? {
        Ok(object) => object,
        Err(problem) => return Ok(vec![problem]),
    };
    let Some((content, codec)) = content_of(file_name) else {
        return check_plain(reading, file, &key, subject, object);
    };
    let archive = reading.archive(codec, object, Some(recorded_digest(file)));
    let checked = match content {
        ArchiveContent::Wal => check_wal_archive(archive, backup, &key),
        ArchiveContent::Base | ArchiveContent::Tablespace(_) => check_frames(archive).map(|()| Vec::new()),
    };
    match checked {
        Ok(problems) => Ok(problems),
        Err(error) => Ok(vec![reading.failed(&key, &subject, error)?]),
    }
}

pub fn recorded_digest(file: &StoredFile) -> StoredDigest {
    let sha256 = file.sha256.parse().expect("a record has no other digests");
    StoredDigest { size_bytes: file.size_bytes, sha256 }
}

fn check_frames(mut archive: ArchiveReader<'_>) -> Result<(), pipe::Error> {
    while archive.next_frame()?.is_some() {}
    Ok(())
}

/// Digests what it reads.
struct Digesting<R> {
    inner: R,
    digester: Digester,
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.digester.update(&into[..count]);
        Ok(count)
    }
}

/// The manifest, and whatever later versions may store.
fn check_plain(
    reading: &Reading<'_>,
    file: &StoredFile,
    key: &str,
    subject: Subject,
    object: Counted<'_>,
) -> Result<Vec<Problem>, Stop> {
    let mut object = Digesting { inner: object, digester: Digester::default() };
    let is_manifest = file.name == layout::MANIFEST;
    let parsed = match is_manifest {
        true => manifest::read::<ManifestError>(&mut object, &mut |_| Ok(())).map(drop),
        false => Ok(()),
    };
    if let Err(error) = io::copy(&mut object, &mut io::sink()) {
        return Ok(vec![reading.failed_to_read(key, &subject, error)?]);
    }
    let (found, expected) = (object.digester.finish(), recorded_digest(file));
    Ok(match parsed {
        _ if found != expected => vec![different(key, subject, found, expected)],
        Err(error) => vec![Problem::new("manifest-damaged", key, subject, error.to_string())],
        Ok(()) => Vec::new(),
    })
}

fn different(key: &str, subject: Subject, found: StoredDigest, expected: StoredDigest) -> Problem {
    let error = match found.size_bytes == expected.size_bytes {
        true => pipe::Error::Digest { found: found.sha256, expected: expected.sha256 },
        false => pipe::Error::TooShort { found_bytes: found.size_bytes, expected_bytes: expected.size_bytes },
    };
    Problem::of_archive(key, subject, &error)
}

/// The WAL that makes the backup consistent: that it is all there, from start to stop, and is what it should be.
fn check_wal_archive(
    mut archive: ArchiveReader<'_>,
    backup: &BackupInfo,
    key: &str,
) -> Result<Vec<Problem>, pipe::Error> {
    let mut scanner = Scanner::default();
    let mut walk = WalWalk { backup, key, segments: BTreeSet::new(), entry: None, problems: Vec::new() };
    while let Some(frame) = archive.next_frame()? {
        walk.feed(&mut scanner, &frame)?;
    }
    scanner.finish()?;
    Ok(walk.finish())
}

/// The files of the WAL's archive, one after the other.
struct WalWalk<'a> {
    backup: &'a BackupInfo,
    key: &'a str,
    /// Those that were there, whole or not.
    segments: BTreeSet<u64>,
    entry: Option<Entry>,
    problems: Vec<Problem>,
}

enum Entry {
    Segment { segment: SegmentName, name: String, check: Option<PageCheck> },
    History { name: WalFileName, content: Vec<u8> },
    Other,
}

impl WalWalk<'_> {
    fn feed(&mut self, scanner: &mut Scanner, frame: &[u8]) -> Result<(), pipe::Error> {
        let mut rest = frame;
        while let Some(event) = scanner.next(&mut rest)? {
            match event {
                Event::Entry(header) => self.entry = Some(self.begin(&header)),
                Event::Data(data) => self.data(data),
                Event::EntryEnd => self.end(),
                Event::ArchiveEnd => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, header: &EntryHeader) -> Entry {
        if header.kind != EntryKind::File {
            return Entry::Other;
        }
        let size = self.backup.wal_segment_size;
        let name = match backup_files::wal_entry(&header.path) {
            Ok(Some(name)) => name,
            Ok(None) => return Entry::Other,
            Err(unexpected) => {
                self.problem("file-unexpected", &unexpected.path, unexpected.what);
                return Entry::Other;
            }
        };
        match (&name, name.segment(size)) {
            (WalFileName::History(_), _) if header.size_bytes <= history::MAX_BYTES => {
                Entry::History { name, content: Vec::new() }
            }
            (WalFileName::Segment(text), Some(segment)) => {
                let system_identifier = self.backup.system_identifier;
                let expected = Expected { segment, segment_size: size, system_identifier };
                Entry::Segment { segment, name: text.clone(), check: Some(PageCheck::new(expected)) }
            }
            _ => Entry::Other,
        }
    }

    fn data(&mut self, data: &[u8]) {
        match &mut self.entry {
            Some(Entry::Segment { name, check, .. }) => {
                if let Some(Err(mismatch)) = check.as_mut().map(|check| check.feed(data)) {
                    *check = None;
                    let name = name.clone();
                    self.problem("wal-damaged", &name, mismatch.to_string());
                }
            }
            Some(Entry::History { content, .. }) => content.extend_from_slice(data),
            Some(Entry::Other) | None => {}
        }
    }

    fn end(&mut self) {
        match self.entry.take() {
            Some(Entry::Segment { segment, name, check: Some(check) }) => match check.finish() {
                Ok(_) => self.segments.extend(self.own_number(segment)),
                Err(mismatch) => self.problem("wal-damaged", &name, mismatch.to_string()),
            },
            Some(Entry::History { name, content }) => {
                if let Err(error) = TimelineHistory::parse(name.timeline(), &content) {
                    self.problem("history-damaged", &name.to_string(), error.to_string());
                }
            }
            // What was wrong with it was told when it was found.
            Some(Entry::Segment { segment, .. }) => self.segments.extend(self.own_number(segment)),
            Some(Entry::Other) | None => {}
        }
    }

    /// The number of a segment of the backup's own timeline.
    fn own_number(&self, segment: SegmentName) -> Option<u64> {
        (segment.timeline == self.backup.timeline).then_some(segment.number)
    }

    fn finish(mut self) -> Vec<Problem> {
        let (timeline, size) = (self.backup.timeline, self.backup.wal_segment_size);
        let first = SegmentName::holding(self.backup.start_lsn, timeline, size).number;
        let last = SegmentName::ending(self.backup.stop_lsn, timeline, size).number;
        for number in (first..=last).filter(|number| !self.segments.contains(number)).take(MISSING_MAX) {
            let name = SegmentName { timeline, number }.file_name(size).to_string();
            let problem = Problem::new("wal-missing", self.key, Subject::Backup(self.backup.name), "nothing");
            let (start, stop) = (self.backup.start_lsn, self.backup.stop_lsn);
            let expected = format!("the WAL from {start} to {stop}");
            self.problems.push(problem.inside(name).expecting(expected));
        }
        self.problems
    }

    fn problem(&mut self, code: &'static str, inside: &str, found: String) {
        let problem = Problem::new(code, self.key, Subject::Backup(self.backup.name), found);
        self.problems.push(problem.inside(inside));
    }
}

/// So many are told one by one.
const MISSING_MAX: usize = 100;
