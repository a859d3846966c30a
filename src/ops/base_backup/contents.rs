//! What passes through the archives: every file's size and checksum, to be held against the manifest.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use super::Error;
use crate::pg::backup_label::BackupLabel;
use crate::pg::manifest::{self, ManifestError, ManifestFile};
use crate::pipe::tar::{Ending, EntryKind, Event, Scanner};
use crate::repo::layout::ArchiveContent;

/// A label has nine lines, the longest of which is what the operator gave it.
const LABEL_SIZE_MAX_BYTES: usize = 16 << 10;

/// Every regular file received, by its path in the data directory.
#[derive(Debug, Default)]
pub struct Received {
    files: HashMap<Box<[u8]>, Facts>,
    backup_label: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    size_bytes: u64,
    crc32c: u32,
}

/// One archive on its way past.
pub struct Contents {
    scanner: Scanner,
    walk: Walk,
}

struct Walk {
    /// What the archive's paths are relative to, seen from the data directory.
    prefix: Vec<u8>,
    file: Option<(Box<[u8]>, Facts)>,
}

impl Contents {
    pub fn of(content: ArchiveContent) -> Self {
        let prefix = match content {
            ArchiveContent::Tablespace(oid) => format!("pg_tblspc/{oid}/").into_bytes(),
            ArchiveContent::Base | ArchiveContent::Wal => Vec::new(),
        };
        Self { scanner: Scanner::default(), walk: Walk { prefix, file: None } }
    }

    pub fn feed(&mut self, mut bytes: &[u8], received: &mut Received) -> Result<(), Error> {
        while let Some(event) = self.scanner.next(&mut bytes).map_err(|error| unsound(error.to_string()))? {
            self.walk.on_event(event, received);
        }
        Ok(())
    }

    pub fn finish(self) -> Result<(), Error> {
        match self.scanner.finish().map_err(|error| unsound(error.to_string()))? {
            Ending::Complete => Ok(()),
            Ending::WithoutZeroBlocks => Err(unsound("an archive ends without its end marker".into())),
        }
    }
}

impl Walk {
    fn is_in_label(&self) -> bool {
        self.file.as_ref().is_some_and(|(path, _)| **path == *b"backup_label")
    }

    fn on_event(&mut self, event: Event<'_>, received: &mut Received) {
        match event {
            Event::Entry(header) if header.kind == EntryKind::File => {
                let path = [self.prefix.as_slice(), header.path.as_slice()].concat();
                self.file = Some((path.into(), Facts { size_bytes: header.size_bytes, crc32c: 0 }));
            }
            // The manifest lists files only.
            Event::Entry(_) => self.file = None,
            Event::Data(bytes) => {
                if let Some((_, facts)) = &mut self.file {
                    facts.crc32c = crc32c::crc32c_append(facts.crc32c, bytes);
                }
                if self.is_in_label() && received.backup_label.len() + bytes.len() <= LABEL_SIZE_MAX_BYTES {
                    received.backup_label.extend_from_slice(bytes);
                }
            }
            Event::EntryEnd => received.files.extend(self.file.take()),
            Event::ArchiveEnd => {}
        }
    }
}

impl Received {
    /// The size of all files together, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.files.values().map(|facts| facts.size_bytes).sum()
    }

    /// The label that the server put into the data directory's archive.
    pub fn backup_label(&self) -> Result<BackupLabel, Error> {
        BackupLabel::parse(&self.backup_label).map_err(|error| unsound(format!("its backup_label: {error}")))
    }

    /// Reads the manifest and holds every file of it against what was received, and the other way round.
    pub fn check(mut self, mut manifest: impl Read) -> Result<(), Error> {
        let mut first_fault = None;
        let read = manifest::read::<ManifestError>(&mut manifest, &mut |file| {
            if let Err(fault) = self.check_file(&file) {
                first_fault.get_or_insert(fault);
            }
            Ok(())
        });
        // The rest is read all the same, so that the manifest's own checksum is known.
        read.map_err(|error| unsound(format!("its manifest cannot be read: {error}")))?;
        if let Some(path) = self.files.keys().next() {
            let fault = format!("{} was sent, but is not in the manifest", OsStr::from_bytes(path).display());
            first_fault.get_or_insert(fault);
        }
        first_fault.map_or(Ok(()), |fault| Err(unsound(fault)))
    }

    fn check_file(&mut self, file: &ManifestFile) -> Result<(), String> {
        let path = file.path.display();
        let found = self.files.remove(file.path.as_bytes());
        let found = found.ok_or_else(|| format!("{path} is in the manifest, but was not sent"))?;
        if found.size_bytes != file.size_bytes {
            let expected = file.size_bytes;
            return Err(format!(
                "{path} has {} bytes, expected {expected} by its manifest",
                found.size_bytes
            ));
        }
        match file.crc32c() {
            Some(expected) if expected == found.crc32c => Ok(()),
            Some(expected) => Err(format!(
                "{path} has CRC-32C {:08x}, expected {expected:08x} by its manifest",
                found.crc32c
            )),
            None => Err(format!("the manifest gives {path} no CRC-32C")),
        }
    }
}

fn unsound(reason: String) -> Error {
    Error::UnsoundStream { reason }
}
