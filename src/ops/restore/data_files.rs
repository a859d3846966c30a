//! Files on their way from an archive to their place, checked against the manifest while they are written.
//!
//! What they are, and what each should be, [`backup_files`](crate::ops::backup_files) says.

use std::collections::HashSet;
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
use crate::ops::backup_files::{self, Expected, ExpectedWal, Facts, Pieces, Unexpected};
use crate::ops::data_directory::CONTROL_FILE;
use crate::pipe::tar::{EntryHeader, EntryKind};
use crate::pipe::{EntrySink, Unpack};
use crate::repo::layout::ArchiveContent;

/// Where `pg_control` is written until everything else is in place.
const CONTROL_FILE_UNTIL_LAST: &str = "global/pg_control.pgbak";

/// Receives one archive after the other.
pub struct DataFiles<'a> {
    pub places: &'a Places,
    pub owner: Owner,
    pub meter: Arc<Meter>,
    pub interrupt: Interrupt,
    pub expected: Expected,
    /// With `--delta`: files that are as they should be already.
    pub kept: HashSet<Vec<u8>>,
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
    pub wal: ExpectedWal,
}

impl<'a> DataFiles<'a> {
    pub fn control_file(&self) -> PathBuf {
        self.places.data.join(CONTROL_FILE_UNTIL_LAST)
    }

    /// Expects once more what the last archive brought: it will be unpacked again.
    pub fn expect_again(&mut self) {
        self.expected.expect_again(self.taken.drain(..));
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
        let path = backup_files::path_in_cluster(self.content, header)?;
        match &header.kind {
            EntryKind::Directory if path.is_empty() => Ok(None),
            EntryKind::Directory => {
                let place = self.place(&path)?;
                self.files.directory(&place, header).map(|()| None)
            }
            // The links of tablespaces are made afterwards, to where these really are.
            EntryKind::Symlink { .. } if path.starts_with(b"pg_tblspc/") => Ok(None),
            EntryKind::Symlink { .. } => {
                Err(Unexpected::new(&path, "a link, where no server makes one").into())
            }
            EntryKind::File => self.file(path, header),
        }
    }
}

impl Unpacking<'_, '_> {
    fn file(&mut self, path: Vec<u8>, header: &EntryHeader) -> io::Result<Option<Arc<dyn EntrySink>>> {
        let facts = match self.content {
            ArchiveContent::Wal => {
                self.wal.take(header)?;
                None
            }
            ArchiveContent::Base | ArchiveContent::Tablespace(_) => {
                let facts = self.files.expected.take(&path)?;
                facts.must_have_size(&path, header.size_bytes)?;
                self.files.taken.push((path.clone(), facts));
                Some(facts)
            }
        };
        if self.files.kept.contains(&path) {
            self.files.meter.add(header.size_bytes);
            return Ok(None);
        }
        let place = match path == CONTROL_FILE.as_bytes() {
            true => self.files.control_file(),
            false => self.place(&path)?,
        };
        Ok(Some(self.files.file(place, header, facts)))
    }

    fn place(&self, path: &[u8]) -> io::Result<PathBuf> {
        let place = self.files.places.resolve(path);
        let place = place.ok_or_else(|| Unexpected::new(path, "a path that leads out of the data directory"));
        Ok(place?)
    }
}

/// Who owned it; a number that no account has stands for nobody.
fn recorded(header: &EntryHeader) -> (u32, u32) {
    let account = |id: u64| u32::try_from(id).unwrap_or(u32::MAX - 1);
    (account(header.uid), account(header.gid))
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
    pieces: Pieces,
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
        open.pieces.add(offset_bytes, size_bytes, crc32c);
        self.meter.add(size_bytes);
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        self.opened().map_err(|error| self.context(error))?;
        let mut open = self.open.lock().expect("no thread panics while it holds this");
        // Closes it.
        open.file = None;
        let Some(facts) = self.facts else { return Ok(()) };
        facts.must_have_crc32c(self.path.as_os_str().as_bytes(), std::mem::take(&mut open.pieces))?;
        Ok(())
    }
}
