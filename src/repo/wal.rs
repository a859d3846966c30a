//! WAL files in a repository: each stored once, never changed, found under whichever codec it was stored with.
//!
//! Whether a file is what its name says is for the caller to check, on the way in and on the way out; here it is
//! bytes with a name.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{Error, Repository, Result, layout};
use crate::digest_line::{self, Checked};
use crate::pg::history;
use crate::pg::{SegmentPart, SystemIdentifier, Timeline, WalFileName};
use crate::pipe::{ArchiveReader, ArchiveWriter, Codec, Compression, Workers, read_some};
use crate::storage::{self, ErrorKind};

/// How much is compared at a time.
const CHUNK_SIZE_BYTES: usize = 256 << 10;

/// No WAL file is larger than the largest segment.
pub const FILE_SIZE_MAX_BYTES: u64 = 1 << 30;

/// What storing a file came to. Either way it is durable now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    New,
    /// It had been stored before, with the same content.
    Already,
}

/// Whether a missing file may be the end of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Nothing later is there on its timeline.
    AtTheEnd,
    /// Something later is there, so that the archive has a gap.
    InTheMiddle,
}

/// What is to be stored, read from its beginning as often as need be.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    File(&'a File),
    /// A part of a file, which may grow behind it meanwhile.
    Part(&'a File, SegmentPart),
}

impl<'a> Content<'a> {
    /// What is to be stored of `file`: all of it. But a text that was put back by hand from a repository still has the
    /// line that vouches for it there, and that is no part of the text.
    pub(super) fn of(file: &'a File, codec: Codec, key: &str) -> Result<Self> {
        let mut text = Vec::new();
        if codec == Codec::Text {
            let mut reader = FileReader { file, offset: 0 }.take(history::MAX_BYTES);
            let read = reader.read_to_end(&mut text);
            read.map_err(|source| Error::Source { what: key.to_owned(), source })?;
        }
        Ok(match digest_line::check(&text) {
            Checked::Whole(lines) => Self::Part(file, SegmentPart { begin: 0, end: lines.len() as u64 }),
            Checked::WithoutDigest | Checked::Altered { .. } => Self::File(file),
        })
    }

    fn reader(self) -> Box<dyn Read + 'a> {
        match self {
            Self::File(file) => Box::new(FileReader { file, offset: 0 }),
            Self::Part(file, part) => Box::new(PartReader { file, left: part }),
        }
    }
}

/// Keeps its own place in the file: several repositories may be storing it at a time.
struct FileReader<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(into, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

struct PartReader<'a> {
    file: &'a File,
    left: SegmentPart,
}

impl Read for PartReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = into.len().min(usize::try_from(self.left.size_bytes()).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut into[..wanted], self.left.begin)?;
        if count == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left.begin += count as u64;
        Ok(count)
    }
}

/// What a stored file has in common with another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Same,
    Different,
    /// The stored one cannot be read back.
    Unreadable,
}

/// How a WAL file is stored: histories and backup notes are a few lines, and are left readable.
pub fn stored_as(name: &WalFileName, compression: Compression) -> Compression {
    match uncompressed(name) {
        Codec::Text => Compression::new(Codec::Text, None).expect("a text has no level to be wrong"),
        _ => compression,
    }
}

/// How a WAL file is stored whose name tells of no codec.
pub(super) fn uncompressed(name: &WalFileName) -> Codec {
    match name {
        WalFileName::Segment(_) | WalFileName::Partial(_) => Codec::None,
        WalFileName::History(_) | WalFileName::BackupNote(_) => Codec::Text,
    }
}

impl Repository {
    /// Stores `source` as `name`, durably.
    ///
    /// The same content again succeeds; other content is [`Error::Conflict`] and nothing is touched. A stored object
    /// that cannot be read back is worth nothing, and is replaced.
    pub fn store_wal(
        &self,
        system: SystemIdentifier,
        name: &WalFileName,
        source: &File,
        compression: Compression,
        workers: &Arc<Workers>,
    ) -> Result<Stored> {
        self.ensure_exists()?;
        self.must_know(system)?;
        if let Some((key, codec)) = self.find_wal(system, name)? {
            let content = Content::of(source, codec, &key)?;
            if let Some(stored) = self.settle(&key, codec, content, workers)? {
                return Ok(stored);
            }
            tracing::warn!("{key} in repository {} cannot be read back and is replaced", self.name());
            self.storage().delete(&key)?;
        }
        self.add_wal(system, name, source, compression, workers).map(|(stored, _)| stored)
    }

    /// Opens a WAL file; `None` when there is none of this name. Reading ends in an error where it is damaged.
    pub fn open_wal(
        &self,
        system: SystemIdentifier,
        name: &WalFileName,
        workers: &Arc<Workers>,
    ) -> Result<Option<(String, ArchiveReader<'static>)>> {
        let Some((key, codec)) = self.find_wal(system, name)? else { return Ok(None) };
        match self.storage().open(&key) {
            Ok(object) => Ok(Some((key, ArchiveReader::new(workers, codec, object, None)))),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Says what it means that a file is not there. See [`Missing`].
    pub fn missing_wal(&self, system: SystemIdentifier, name: &WalFileName) -> Result<Missing> {
        self.must_exist()?;
        let timeline = name.timeline();
        // The first timeline has no history, but recovery asks for it before it begins a new one.
        if *name == WalFileName::History(Timeline::FIRST) {
            return Ok(Missing::AtTheEnd);
        }
        let directories = self.storage().list(&layout::wal_of(system))?;
        let on_timeline = directories.iter().filter_map(|entry| {
            let (of, log) = layout::parse_segment_directory(&entry.name)?;
            (entry.is_directory() && of == timeline).then_some((log, entry))
        });
        for (_, directory) in on_timeline.filter(|(log, _)| may_hold_later(name, *log)) {
            let path = storage::join(&layout::wal_of(system), &directory.name);
            let files = self.storage().list(&path)?;
            let stored = files.iter().filter(|entry| entry.size_bytes().is_some());
            if stored
                .filter_map(|entry| layout::parse_wal_file(&entry.name))
                .any(|(file, _)| is_later(&file, name))
            {
                return Ok(Missing::InTheMiddle);
            }
        }
        Ok(Missing::AtTheEnd)
    }

    /// Refuses WAL of a cluster that this repository has never seen, if it holds another's.
    ///
    /// `pg_upgrade` makes a new cluster, and so does a configuration that was copied to another server. What tells
    /// them apart is a base backup: nobody takes one by mistake, and WAL is of no use before there is one.
    pub fn must_know(&self, system: SystemIdentifier) -> Result<()> {
        let systems = self.systems()?;
        if systems.is_empty() || systems.contains(&system) {
            return Ok(());
        }
        match self.backups()?.iter().any(|backup| backup.system_identifier == system) {
            true => Ok(()),
            false => Err(Error::OtherCluster {
                repository: self.name().to_owned(),
                expected: system,
                found: systems,
            }),
        }
    }

    /// The key of a WAL file and how it is stored; `None` when there is none of this name.
    pub fn find_wal(&self, system: SystemIdentifier, name: &WalFileName) -> Result<Option<(String, Codec)>> {
        let directory = layout::wal_directory(system, name);
        let found = self.storage().list(&directory)?.into_iter().find_map(|entry| {
            entry.size_bytes()?;
            let (found, codec) = layout::parse_wal_file(&entry.name)?;
            (found == *name).then_some(codec)
        });
        Ok(found.map(|codec| (layout::wal_file(system, name, codec), codec)))
    }

    /// Says how many bytes it took.
    pub(super) fn upload(
        &self,
        key: &str,
        content: Content<'_>,
        compression: Compression,
        workers: &Arc<Workers>,
    ) -> Result<u64> {
        let failed_source = |error| Error::Source { what: key.to_owned(), source: error };
        let mut source = content.reader();
        let upload = self.storage().create(key)?;
        let writer = ArchiveWriter::new(workers, compression, vec![upload]);
        let mut writer = writer.map_err(|source| Error::Threads { source })?;
        loop {
            let length = read_some(&mut source, writer.spare()).map_err(failed_source)?;
            // What went wrong in the sink comes back from `finish`.
            if length == 0 || writer.advance(length).is_err() {
                break;
            }
        }
        let finished = writer.finish();
        let sink = finished.sinks.into_iter().next().expect("there is one sink");
        let mut upload =
            sink.map_err(|error| storage::Error::from_io("write", key, self.storage(), error))?;
        upload.commit()?;
        Ok(finished.stored_bytes)
    }

    /// Compares what is stored with `content`: `None` when it cannot be read back.
    pub(super) fn settle(
        &self,
        key: &str,
        codec: Codec,
        content: Content<'_>,
        workers: &Arc<Workers>,
    ) -> Result<Option<Stored>> {
        match self.compare(key, codec, content, workers)? {
            Comparison::Unreadable => Ok(None),
            Comparison::Different => {
                Err(Error::Conflict { repository: self.name().to_owned(), key: key.to_owned() })
            }
            Comparison::Same => {
                self.make_durable(key)?;
                Ok(Some(Stored::Already))
            }
        }
    }

    /// Compares the object that is stored as `key` with `source`.
    pub fn compare_wal(
        &self,
        key: &str,
        codec: Codec,
        source: &File,
        workers: &Arc<Workers>,
    ) -> Result<Comparison> {
        self.compare(key, codec, Content::of(source, codec, key)?, workers)
    }

    fn compare(
        &self,
        key: &str,
        codec: Codec,
        content: Content<'_>,
        workers: &Arc<Workers>,
    ) -> Result<Comparison> {
        let source = content.reader();
        let stored = ArchiveReader::new(workers, codec, self.storage().open(key)?, None);
        match same_content(stored, source) {
            Err(CompareError::Stored(error)) => {
                tracing::debug!("{key}: {error}");
                Ok(Comparison::Unreadable)
            }
            Err(CompareError::Source(error)) => Err(Error::Source { what: key.to_owned(), source: error }),
            Ok(true) => Ok(Comparison::Same),
            Ok(false) => Ok(Comparison::Different),
        }
    }
}

/// Whether a directory of log number `log` may hold something later than `name` on its timeline.
fn may_hold_later(name: &WalFileName, log: u32) -> bool {
    match name {
        WalFileName::Segment(text) | WalFileName::Partial(text) | WalFileName::BackupNote(text) => {
            u32::from_str_radix(&text[8..16], 16).is_ok_and(|own| log >= own)
        }
        // Every segment of a timeline comes after its history.
        WalFileName::History(_) => true,
    }
}

/// Whether `file` is WAL that comes after `name`, both on one timeline. Names of one timeline sort as their LSNs do.
fn is_later(file: &WalFileName, name: &WalFileName) -> bool {
    let (WalFileName::Segment(file) | WalFileName::Partial(file)) = file else { return false };
    match name {
        WalFileName::Segment(name) | WalFileName::Partial(name) | WalFileName::BackupNote(name) => {
            file[..24] > name[..24]
        }
        WalFileName::History(_) => true,
    }
}

enum CompareError {
    Stored(io::Error),
    Source(io::Error),
}

fn same_content(mut stored: impl Read, mut source: impl Read) -> std::result::Result<bool, CompareError> {
    let (mut ours, mut theirs) = (vec![0; CHUNK_SIZE_BYTES], vec![0; CHUNK_SIZE_BYTES]);
    let mut same = true;
    // The stored file is read to its end even after a difference: only whole can it be in conflict.
    loop {
        let length = fill(&mut stored, &mut theirs).map_err(CompareError::Stored)?;
        let own_length = fill(&mut source, &mut ours).map_err(CompareError::Source)?;
        same &= theirs[..length] == ours[..own_length];
        if length == 0 {
            return Ok(same);
        }
    }
}

/// Reads until `buffer` is full or there is no more.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match read_some(reader, &mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::repo::Distance;
    use crate::storage::{Memory, walk};

    #[test]
    fn one_file_can_be_stored_in_several_repositories_at_a_time() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(&bytes).unwrap();
        for content in [Content::File(&source), Content::Part(&source, SegmentPart { begin: 0, end: 100 })] {
            let mut readers = [(); 2].map(|()| (content.reader(), Vec::new()));
            for _ in 0..10 {
                for (reader, read) in &mut readers {
                    let mut piece = [0; 10];
                    reader.read_exact(&mut piece).unwrap();
                    read.extend(piece);
                }
            }
            assert!(readers.iter().all(|(_, read)| *read == bytes));
        }
    }

    #[test]
    fn a_text_that_came_from_a_repository_is_the_text_that_went_there() {
        let workers = Arc::new(Workers::new(1).unwrap());
        let repository = Repository::new("disk", Arc::new(Memory::default()), Distance::Near);
        let name = WalFileName::parse("00000002.history").unwrap();
        let lines = b"1\t0/3000000\tno recovery target specified\n";
        let push = |text: &[u8]| {
            let mut source = tempfile::tempfile().unwrap();
            source.write_all(text).unwrap();
            repository.store_wal(SystemIdentifier(42), &name, &source, Compression::default(), &workers)
        };
        assert_eq!(push(lines).unwrap(), Stored::New);
        let mut stored = Vec::new();
        let key = layout::wal_file(SystemIdentifier(42), &name, Codec::Text);
        repository.open(&key).unwrap().read_to_end(&mut stored).unwrap();
        assert_eq!(stored, [&lines[..], digest_line::of(lines).as_bytes()].concat());
        for again in [&lines[..], &stored] {
            assert_eq!(push(again).unwrap(), Stored::Already);
        }
        assert!(matches!(push(b"1\t0/4000000\tanother\n"), Err(Error::Conflict { .. })));
        let (_, mut archive) = repository.open_wal(SystemIdentifier(42), &name, &workers).unwrap().unwrap();
        let mut read = Vec::new();
        archive.read_to_end(&mut read).unwrap();
        assert_eq!(read, lines);
        assert_eq!(
            repository.history(SystemIdentifier(42), name.timeline(), Codec::Text).unwrap().unwrap(),
            lines
        );
    }

    #[test]
    fn a_push_that_dies_at_any_change_leaves_a_whole_file_or_none_and_the_next_one_goes_through() {
        let workers = Arc::new(Workers::new(1).unwrap());
        let name = WalFileName::parse("000000010000000000000001").unwrap();
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(b"a segment").unwrap();
        for change in 0.. {
            let memory = Memory::default();
            let repository = Repository::new("disk", Arc::new(memory.clone()), Distance::Near);
            let push = || {
                repository.store_wal(SystemIdentifier(42), &name, &source, Compression::default(), &workers)
            };
            memory.dies_at(change);
            let died = push().is_err();
            memory.revive();
            let held = repository.find_wal(SystemIdentifier(42), &name).unwrap();
            if let Some((key, codec)) = held {
                let compared = repository.compare_wal(&key, codec, &source, &workers).unwrap();
                assert_eq!(compared, Comparison::Same, "after change {change}");
            } else {
                assert!(died, "acknowledged, and not there");
            }
            let expected = if died { Stored::New } else { Stored::Already };
            assert_eq!(push().unwrap(), expected, "after change {change}");
            if !died {
                let unfinished =
                    walk(&memory, "").unwrap().iter().filter(|(_, entry)| entry.is_unfinished()).count();
                assert_eq!((change, unfinished), (2, 0), "the guide, and the file");
                return;
            }
        }
    }

    #[test]
    fn what_a_signal_interrupts_is_read_on() {
        struct Interrupted<'a> {
            bytes: &'a [u8],
            calls: u32,
        }
        impl Read for Interrupted<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.calls += 1;
                match self.calls % 3 {
                    0 => self.bytes.read(&mut into[..1]),
                    _ => Err(io::ErrorKind::Interrupted.into()),
                }
            }
        }
        let mut buffer = [0; 8];
        let mut reader = Interrupted { bytes: b"segment", calls: 0 };
        assert_eq!(read_some(&mut reader, &mut buffer).unwrap(), 1);
        assert_eq!(fill(&mut reader, &mut buffer).unwrap(), 6);
        assert_eq!(&buffer[..6], b"egment");
    }
}
