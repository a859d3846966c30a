//! Files on their way from an archive to their place, checked against the manifest while they are written.
//!
//! The pieces of a file arrive in any order, on any thread. Each is checksummed where it is written; when all are
//! there, the checksums are combined in order, and the file is what the manifest says or the restore fails.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::places::Places;
use super::target::{self, Owner};
use crate::interrupt::Interrupt;
use crate::meter::Meter;
use crate::ops::data_directory::CONTROL_FILE;
use crate::pg::WalFileName;
use crate::pg::manifest::{Manifest, ManifestFile};
use crate::pipe::tar::{EntryHeader, EntryKind};
use crate::pipe::{EntrySink, Unpack};
use crate::repo::layout::ArchiveContent;

/// Where `pg_control` is written until everything else is in place.
const CONTROL_FILE_UNTIL_LAST: &str = "global/pg_control.pgbak";

/// What the manifest says of the files that are still to come, by their paths.
pub struct Expected {
    files: HashMap<Vec<u8>, Facts>,
    /// With `--delta`: files that are as they should be already.
    kept: HashSet<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub size_bytes: u64,
    pub crc32c: u32,
}

/// Receives one archive after the other.
pub struct DataFiles<'a> {
    pub places: &'a Places,
    pub owner: Owner,
    pub meter: Arc<Meter>,
    pub interrupt: Interrupt,
    pub expected: Expected,
    /// What the archive being unpacked has brought of what was expected.
    pub taken: Vec<(Vec<u8>, Facts)>,
    pub written: u64,
    /// 0700, or 0750 where the cluster allows its group to read.
    pub directory_mode: u32,
}

/// [`DataFiles`], at work on one archive.
pub struct Unpacking<'a, 'b> {
    pub files: &'b mut DataFiles<'a>,
    pub content: ArchiveContent,
}

impl Expected {
    /// Only manifests with CRC-32C come from pgbak; the path of the first file with another is the error.
    pub fn from_manifest(manifest: &Manifest, kept: HashSet<Vec<u8>>) -> Result<Self, String> {
        let facts = |file: &ManifestFile| {
            let crc32c = file.crc32c();
            let crc32c = crc32c.ok_or_else(|| format!("it gives {} no CRC-32C", file.path.display()))?;
            Ok((file.path.as_bytes().to_vec(), Facts { size_bytes: file.size_bytes, crc32c }))
        };
        let files = manifest.files.values().map(facts).collect::<Result<_, String>>()?;
        Ok(Self { files, kept })
    }

    /// A file that no archive brought.
    pub fn first_missing(&self) -> Option<String> {
        self.files.keys().next().map(|path| shown(path))
    }
}

impl<'a> DataFiles<'a> {
    pub fn control_file(&self) -> PathBuf {
        self.places.data.join(CONTROL_FILE_UNTIL_LAST)
    }

    /// Expects once more what the last archive brought: it will be unpacked again.
    pub fn expect_again(&mut self) {
        self.expected.files.extend(self.taken.drain(..));
    }

    fn directory(&mut self, path: &Path, header: &EntryHeader) -> io::Result<()> {
        // An old copy may have a link or a file of this name; a link to a directory, as for pg_wal, may stay.
        if !path.is_dir() {
            target::remove_if_there(path)?;
            target::make_directory(path).map_err(io::Error::other)?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(header.mode & 0o777))?;
        self.give(path, header)
    }

    fn file(&mut self, path: PathBuf, header: &EntryHeader, facts: Option<Facts>) -> Arc<dyn EntrySink> {
        if header.mode & 0o040 != 0 {
            self.directory_mode = 0o750;
        }
        self.written += 1;
        let owner = self.owner.resolve(recorded(header));
        Arc::new(DataFile {
            path,
            mode: header.mode & 0o777,
            owner,
            facts,
            meter: Arc::clone(&self.meter),
            open: Mutex::default(),
        })
    }

    fn give(&self, path: &Path, header: &EntryHeader) -> io::Result<()> {
        target::give(path, self.owner.resolve(recorded(header))).map_err(io::Error::other)
    }
}

impl Unpack for Unpacking<'_, '_> {
    type Error = io::Error;

    fn entry(&mut self, header: &EntryHeader) -> io::Result<Option<Arc<dyn EntrySink>>> {
        self.files.interrupt.check()?;
        let path = self.path_in_cluster(header)?;
        match &header.kind {
            EntryKind::Directory if path.is_empty() => Ok(None),
            EntryKind::Directory => {
                let place = self.place(&path)?;
                self.files.directory(&place, header).map(|()| None)
            }
            // The links of tablespaces are made afterwards, to where these really are.
            EntryKind::Symlink { .. } if path.starts_with(b"pg_tblspc/") => Ok(None),
            EntryKind::Symlink { .. } => Err(unexpected(&path, "a link, where no server makes one")),
            EntryKind::File => self.file(path, header),
        }
    }
}

impl Unpacking<'_, '_> {
    fn file(&mut self, path: Vec<u8>, header: &EntryHeader) -> io::Result<Option<Arc<dyn EntrySink>>> {
        let facts = match self.content {
            ArchiveContent::Wal => {
                must_be_wal(&header.path)?;
                None
            }
            ArchiveContent::Base | ArchiveContent::Tablespace(_) => {
                let facts = self.files.expected.files.remove(&path);
                let facts =
                    facts.ok_or_else(|| unexpected(&path, "a file that its manifest does not name"))?;
                if facts.size_bytes != header.size_bytes {
                    let (found, expected) = (header.size_bytes, facts.size_bytes);
                    return Err(unexpected(
                        &path,
                        &format!("{found} bytes, expected {expected} by its manifest"),
                    ));
                }
                self.files.taken.push((path.clone(), facts));
                Some(facts)
            }
        };
        if self.files.expected.kept.contains(&path) {
            self.files.meter.add(header.size_bytes);
            return Ok(None);
        }
        let place = match path == CONTROL_FILE.as_bytes() {
            true => self.files.control_file(),
            false => self.place(&path)?,
        };
        Ok(Some(self.files.file(place, header, facts)))
    }

    /// The entry's path, seen from the data directory.
    fn path_in_cluster(&self, header: &EntryHeader) -> io::Result<Vec<u8>> {
        let own = header.path.strip_prefix(b"./").unwrap_or(&header.path);
        let own = own.strip_suffix(b"/").unwrap_or(own);
        let own = if own == b"." { b"" } else { own };
        match self.content {
            ArchiveContent::Base if own.starts_with(b"pg_tblspc/") && header.kind == EntryKind::File => {
                Err(unexpected(own, "a tablespace's file outside the tablespace's archive"))
            }
            ArchiveContent::Base => Ok(own.to_vec()),
            ArchiveContent::Tablespace(oid) if own.is_empty() => Ok(format!("pg_tblspc/{oid}").into_bytes()),
            ArchiveContent::Tablespace(oid) => Ok([format!("pg_tblspc/{oid}/").as_bytes(), own].concat()),
            ArchiveContent::Wal => Ok([b"pg_wal/", own].concat()),
        }
    }

    fn place(&self, path: &[u8]) -> io::Result<PathBuf> {
        let place = self.files.places.resolve(path);
        place.ok_or_else(|| unexpected(path, "a path that leads out of the data directory"))
    }
}

/// Who owned it; a number that no account has stands for nobody.
fn recorded(header: &EntryHeader) -> (u32, u32) {
    let account = |id: u64| u32::try_from(id).unwrap_or(u32::MAX - 1);
    (account(header.uid), account(header.gid))
}

/// `NAME`, or `archive_status/NAME.done`.
fn must_be_wal(path: &[u8]) -> io::Result<()> {
    let text = String::from_utf8_lossy(path);
    let text = text.strip_prefix("./").unwrap_or(&text);
    let name = match text.strip_prefix("archive_status/") {
        Some(status) => status.strip_suffix(".done"),
        None => Some(text),
    };
    match name.map(WalFileName::parse) {
        Some(Ok(_)) => Ok(()),
        _ => Err(unexpected(path, "a file that is not WAL")),
    }
}

fn shown(path: &[u8]) -> String {
    OsStr::from_bytes(path).display().to_string()
}

fn unexpected(path: &[u8], what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", shown(path)))
}

/// One file that is being written.
struct DataFile {
    path: PathBuf,
    mode: u32,
    owner: Option<(u32, u32)>,
    /// What it must come out as; `None` for WAL, which is not in the manifest.
    facts: Option<Facts>,
    meter: Arc<Meter>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    file: Option<Arc<File>>,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    offset_bytes: u64,
    size_bytes: u64,
    crc32c: u32,
}

impl DataFile {
    /// Opens the file when its first piece arrives.
    fn opened(&self) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().expect("no thread panics while it holds this");
        if let Some(file) = &open.file {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.create()?);
        open.file = Some(Arc::clone(&file));
        Ok(file)
    }

    fn create(&self) -> io::Result<File> {
        // A file of an old copy goes rather than being written into: it may be a link, or linked elsewhere.
        let create = || File::options().write(true).create_new(true).mode(0o600).open(&self.path);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&self.path)?;
                create()?
            }
            created => created?,
        };
        if self.mode != 0o600 {
            file.set_permissions(fs::Permissions::from_mode(self.mode))?;
        }
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(file)
    }

    fn context(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("could not write \"{}\": {error}", self.path.display()))
    }
}

impl EntrySink for DataFile {
    fn write_at(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.opened().map_err(|error| self.context(error))?;
        let crc32c = if self.facts.is_some() { crc32c::crc32c(bytes) } else { 0 };
        file.write_all_at(bytes, offset_bytes).map_err(|error| self.context(error))?;
        let size_bytes = bytes.len() as u64;
        let mut open = self.open.lock().expect("no thread panics while it holds this");
        open.pieces.push(Piece { offset_bytes, size_bytes, crc32c });
        self.meter.add(size_bytes);
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        self.opened().map_err(|error| self.context(error))?;
        let mut open = self.open.lock().expect("no thread panics while it holds this");
        // Closes it.
        open.file = None;
        let Some(facts) = self.facts else { return Ok(()) };
        let mut pieces = std::mem::take(&mut open.pieces);
        pieces.sort_unstable();
        let found = pieces.iter().fold(0, |crc32c, piece| {
            crc32c::crc32c_combine(crc32c, piece.crc32c, usize::try_from(piece.size_bytes).expect("64-bit"))
        });
        match found == facts.crc32c {
            true => Ok(()),
            false => Err(unexpected(
                self.path.as_os_str().as_bytes(),
                &format!("CRC-32C {found:08x}, expected {:08x} by its manifest", facts.crc32c),
            )),
        }
    }
}
