//! What passes through the archives: every file's size and checksum, to be held against the manifest.

use std::collections::HashMap;
use std::io::Read;

use super::Error;
use crate::pg::manifest::{self, ManifestChecksum, ManifestFile};
use crate::pipe::tar::{EntryKind, Event, Scanner};
use crate::repo::layout::ArchiveContent;

/// Every regular file received, by its path in the data directory.
#[derive(Debug, Default)]
pub struct Received {
    files: HashMap<Box<[u8]>, Facts>,
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
    ended: bool,
}

impl Contents {
    pub fn of(content: ArchiveContent) -> Self {
        let prefix = match content {
            ArchiveContent::Tablespace(oid) => format!("pg_tblspc/{oid}/").into_bytes(),
            ArchiveContent::Base | ArchiveContent::Wal => Vec::new(),
        };
        Self { scanner: Scanner::new(), walk: Walk { prefix, file: None, ended: false } }
    }

    pub fn feed(&mut self, bytes: &[u8], received: &mut Received) -> Result<(), Error> {
        let walk = &mut self.walk;
        let scanned = self.scanner.feed(bytes, &mut |event| walk.on_event(event, received));
        scanned.map_err(|error| unsound(error.to_string()))
    }

    pub fn finish(self, received: &mut Received) -> Result<(), Error> {
        let Self { scanner, mut walk } = self;
        scanner.finish(&mut |event| walk.on_event(event, received)).map_err(|error| unsound(error.to_string()))?;
        match walk.ended {
            true => Ok(()),
            false => Err(unsound("an archive breaks off in the middle".into())),
        }
    }
}

impl Walk {
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
            }
            Event::EntryEnd => {
                received.files.extend(self.file.take());
            }
            Event::ArchiveEnd => self.ended = true,
        }
    }
}

impl Received {
    /// The size of all files together, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.files.values().map(|facts| facts.size_bytes).sum()
    }

    /// Reads the manifest and holds every file of it against what was received, and the other way round.
    pub fn check(mut self, manifest: impl Read) -> Result<(), Error> {
        let mut first_fault = None;
        let read = manifest::read(manifest, &mut |file| {
            if let Err(fault) = self.check_file(&file) {
                first_fault.get_or_insert(fault);
            }
        });
        // The rest is read all the same, so that the manifest's own checksum is known.
        read.map_err(|error| unsound(format!("its manifest cannot be read: {error}")))?;
        if let Some(path) = self.files.keys().next() {
            let fault = format!("{} was sent, but is not in the manifest", String::from_utf8_lossy(path));
            first_fault.get_or_insert(fault);
        }
        first_fault.map_or(Ok(()), |fault| Err(unsound(fault)))
    }

    fn check_file(&mut self, file: &ManifestFile) -> Result<(), String> {
        let path = String::from_utf8_lossy(&file.path);
        let found = self.files.remove(file.path.as_slice());
        let found = found.ok_or_else(|| format!("{path} is in the manifest, but was not sent"))?;
        if found.size_bytes != file.size_bytes {
            let expected = file.size_bytes;
            return Err(format!("{path} has {} bytes, expected {expected} by its manifest", found.size_bytes));
        }
        match file.checksum {
            Some(ManifestChecksum::Crc32c(expected)) if expected == found.crc32c => Ok(()),
            Some(ManifestChecksum::Crc32c(expected)) => {
                Err(format!("{path} has CRC-32C {:08x}, expected {expected:08x} by its manifest", found.crc32c))
            }
            _ => Err(format!("the manifest gives {path} no CRC-32C")),
        }
    }
}

fn unsound(reason: String) -> Error {
    Error::UnsoundStream { reason }
}
