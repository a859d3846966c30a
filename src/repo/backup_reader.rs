//! Reading one backup back. Nothing is believed that was not checked against the record, and the record itself
//! against its own invariants.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use super::layout::{self, ArchiveContent};
use super::{Repository, Result};
use crate::catalog::BackupInfo;
use crate::catalog::backup::StoredFile;
use crate::pg::manifest::Manifest;
use crate::pipe::{ArchiveReader, Codec, Digester, StoredDigest, Workers};
use crate::storage::Entry;

/// A manifest has about 150 bytes a file; this is some seven million files.
const MANIFEST_SIZE_MAX_BYTES: u64 = 1 << 30;
const CHECKSUMS_SIZE_MAX_BYTES: u64 = 16 << 20;

/// How an archive is checked while it is read, beside each frame's own checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The stored bytes are those recorded.
    ByDigest,
    /// By nothing more: the caller knows every content to expect, and checks it.
    ByContent,
}

/// A recorded backup in one repository.
#[derive(Debug)]
pub struct BackupReader<'a> {
    repository: &'a Repository,
    info: &'a BackupInfo,
}

impl<'a> BackupReader<'a> {
    pub fn new(repository: &'a Repository, info: &'a BackupInfo) -> Self {
        Self { repository, info }
    }

    /// Proves what can be proven without reading the archives: every recorded file is there with its size, there is
    /// an archive for the data directory, each tablespace and the WAL, and `SHA256SUMS` says what the record says.
    pub fn check(&self) -> Result<()> {
        let directory = layout::backup_directory(self.info.name);
        let entries = self.repository.storage().list(&directory)?;
        for file in &self.info.files {
            let key = self.key(&file.name);
            let found = entries.iter().find(|entry| entry.name == file.name).and_then(Entry::size_bytes);
            match found {
                None => return Err(self.repository.missing(&key)),
                Some(size_bytes) if size_bytes == file.size_bytes => {}
                Some(size_bytes) => {
                    let reason = format!("expected {} bytes, found {size_bytes}", file.size_bytes);
                    return Err(self.repository.damaged(&key, reason));
                }
            }
        }
        for content in self.contents() {
            self.archive(content)?;
        }
        self.check_sums()
    }

    /// What the backup's archives hold: tablespaces, the data directory, the WAL; in the order to unpack them.
    pub fn contents(&self) -> Vec<ArchiveContent> {
        let tablespaces =
            self.info.tablespaces.iter().map(|tablespace| ArchiveContent::Tablespace(tablespace.oid));
        tablespaces.chain([ArchiveContent::Base, ArchiveContent::Wal]).collect()
    }

    /// The manifest, checked against the record and against its own checksum, and as it is stored, byte for byte.
    pub fn manifest(&self) -> Result<(Manifest, Vec<u8>)> {
        let key = self.key(layout::MANIFEST);
        let bytes = self.repository.read_small(&key, MANIFEST_SIZE_MAX_BYTES)?;
        self.must_match(layout::MANIFEST, &bytes)?;
        let manifest = Manifest::parse(&bytes).map_err(|error| self.repository.damaged(&key, error))?;
        Ok((manifest, bytes))
    }

    /// Opens an archive; what is read from it ends in an error where it is not as `check` has it.
    pub fn open(
        &self,
        content: ArchiveContent,
        check: Check,
        workers: &Arc<Workers>,
    ) -> Result<ArchiveReader<'static>> {
        let (file, codec) = self.archive(content)?;
        let object = self.repository.storage().open(&self.key(&file.name))?;
        let sha256 = file.sha256.parse().expect("a record has no other digests");
        let expected = StoredDigest { size_bytes: file.size_bytes, sha256 };
        let expected = (check == Check::ByDigest).then_some(expected);
        Ok(ArchiveReader::new(workers, codec, object, expected))
    }

    /// The key of an archive, for messages.
    pub fn archive_key(&self, content: ArchiveContent) -> Result<String> {
        self.archive(content).map(|(file, _)| self.key(&file.name))
    }

    fn archive(&self, content: ArchiveContent) -> Result<(&'a StoredFile, Codec)> {
        let names = Codec::ALL.map(|codec| (content.file_name(codec), codec));
        let found = names.iter().find_map(|(name, codec)| Some((self.file(name)?, *codec)));
        found.ok_or_else(|| {
            let reason = format!("it names no {}", content.file_name(Codec::None));
            self.repository.damaged(&self.key(layout::RECORD), reason)
        })
    }

    fn file(&self, name: &str) -> Option<&'a StoredFile> {
        self.info.files.iter().find(|file| file.name == name)
    }

    fn key(&self, file_name: &str) -> String {
        layout::backup_file(self.info.name, file_name)
    }

    fn must_match(&self, file_name: &str, bytes: &[u8]) -> Result<()> {
        let key = self.key(file_name);
        let file = self.file(file_name).ok_or_else(|| {
            self.repository.damaged(&self.key(layout::RECORD), format!("it does not name {file_name}"))
        })?;
        let mut digester = Digester::default();
        digester.write_all(bytes).expect("digesting does not fail");
        match digester.finish().sha256.to_string() == file.sha256 {
            true => Ok(()),
            false => Err(self.repository.damaged(&key, "its SHA-256 is not the recorded one")),
        }
    }

    /// Compares `SHA256SUMS` with the record.
    pub fn check_sums(&self) -> Result<()> {
        let key = self.key(layout::CHECKSUMS);
        let bytes = self.repository.read_small(&key, CHECKSUMS_SIZE_MAX_BYTES)?;
        let text = String::from_utf8_lossy(&bytes);
        let listed: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once("  ")).map(|(sum, name)| (name, sum)).collect();
        for file in &self.info.files {
            if listed.get(file.name.as_str()) != Some(&file.sha256.as_str()) {
                let reason = format!("it does not give {} the recorded SHA-256 {}", file.name, file.sha256);
                return Err(self.repository.damaged(&key, reason));
            }
        }
        Ok(())
    }
}
