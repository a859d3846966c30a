//! The tip of the WAL: the segment that the server is still writing, stored in parts.
//!
//! A part is an object like any other, written once: `NAME.partial.BEGIN-END.zst` holds the bytes of segment `NAME`
//! from the one offset up to the other. What comes later is another part. Parts that a longer one or the whole segment
//! covers are of no more use, and are deleted after that one is durable; whoever dies between leaves parts that
//! overlap and agree. [`SegmentPart::beginning`] says which to read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use super::wal::{Content, Stored};
use super::wal_copy::LogDirectory;
use super::{Error, Repository, Result, layout};
use crate::pg::{SegmentPart, SystemIdentifier, WalFileName};
use crate::pipe::{ArchiveReader, Codec, Compression, Workers};
use crate::storage::ErrorKind;

/// The parts of one segment, and how each is stored.
pub type Parts = BTreeMap<SegmentPart, Codec>;

impl Repository {
    /// Stores a part of a segment, durably; the repository is there, and knows its system.
    ///
    /// The same content again succeeds, other content is [`Error::Conflict`]. One that cannot be read back is replaced.
    pub fn add_part(
        &self,
        system: SystemIdentifier,
        segment: &str,
        part: SegmentPart,
        file: &File,
        compression: Compression,
        workers: &Arc<Workers>,
    ) -> Result<Stored> {
        let (key, content) =
            (part_key(system, segment, part, compression.codec()), Content::Part(file, part));
        let upload = || self.upload(&key, content, compression, workers).map(|_| Stored::New);
        match upload() {
            Err(Error::Storage(error)) if error.kind == ErrorKind::AlreadyExists => {}
            uploaded => return uploaded,
        }
        if let Some(stored) = self.settle(&key, compression.codec(), content, workers)? {
            return Ok(stored);
        }
        tracing::warn!("{key} in repository {} cannot be read back and is replaced", self.name());
        self.storage().delete(&key)?;
        upload()
    }

    /// What is there of a segment in parts.
    pub fn parts(&self, system: SystemIdentifier, segment: &str) -> Result<Parts> {
        let name = WalFileName::parse(segment).expect("a segment's name is the name of a WAL file");
        let directory = LogDirectory::of(&name).expect("a segment lies in a directory");
        let files = self.wal_files(system, directory)?;
        let of_segment = |name: &WalFileName| name.to_string().starts_with(segment);
        let parts = files.into_iter().filter(|(name, _)| of_segment(name));
        Ok(parts.filter_map(|(name, codec)| Some((name.part()?, codec))).collect())
    }

    /// Opens a part. Reading ends in an error where it is damaged.
    pub fn open_part(
        &self,
        system: SystemIdentifier,
        segment: &str,
        (part, codec): (SegmentPart, Codec),
        workers: &Arc<Workers>,
    ) -> Result<impl Read + use<>> {
        let object = self.open(&part_key(system, segment, part, codec))?;
        Ok(ArchiveReader::new(workers, codec, object, None))
    }

    /// Deletes a part; whoever calls knows that all it holds is durable elsewhere in this repository.
    pub fn delete_part(
        &self,
        system: SystemIdentifier,
        segment: &str,
        (part, codec): (SegmentPart, Codec),
    ) -> Result<()> {
        Ok(self.storage().delete(&part_key(system, segment, part, codec))?)
    }
}

fn part_key(system: SystemIdentifier, segment: &str, part: SegmentPart, codec: Codec) -> String {
    layout::wal_file(system, &WalFileName::of_part(segment, part), codec)
}
