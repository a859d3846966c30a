//! A repository in a directory of this machine.
//!
//! An object is a file, its key the path below the root. An upload is a file beside it, of a name that no other
//! process can have taken, ending in [`UNFINISHED`]. Committing makes it durable, in this order: the file's bytes;
//! the directories above its own, which whoever made them may not have lived to sync; its name, which never replaces
//! another; the directory that holds the name. Nobody but the owner can ever read any of it: files are 0600 and
//! directories 0700 from their first moment.
//!
//! Only the root may be a symbolic link. Below it, links, sockets and the like are nobody's objects: a listing
//! leaves them out, and opening or listing one is an error, not a missing object.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use chrono::{DateTime, Utc};
use rustix::fs::{Advice, OFlags};
use tempfile::NamedTempFile;

use super::{Entry, EntryKind, Error, Result, Storage, UNFINISHED, Upload};
use super::{check_deletable, check_directory, check_key};

/// How often to begin again when another process removes a directory, or an object, just as it is needed.
const ATTEMPTS: u32 = 100;

/// Small writes are gathered up to this size; larger ones go straight to the file.
const BUFFER_BYTES: usize = 64 << 10;

/// Clones share what they know.
#[derive(Debug, Clone)]
pub struct Local {
    root: PathBuf,
    /// Directories that this process knows to survive a crash: their name in the directory above was synced.
    ///
    /// A directory with an unfinished file in it stays, so an upload may sync it first and note it here later. It is
    /// made and removed only under this lock, lest another that takes its name be taken for it.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Local {
    /// The repository at `root`. Nothing is touched yet; the first upload makes the directory if it is missing, but
    /// not the one that should hold it: where that is missing too, something is not mounted, or misspelt.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        // Only an empty path, or a working directory that is gone, cannot be made absolute; using it will say so.
        let root = std::path::absolute(&root).unwrap_or(root);
        Self { root, durable: Arc::default() }
    }

    fn path(&self, key: &str) -> PathBuf {
        match key {
            "" => self.root.clone(),
            _ => self.root.join(key),
        }
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().expect("nothing panics while it holds this lock")
    }

    fn create_unfinished(&self, directory: &Path, name: &OsStr) -> io::Result<NamedTempFile> {
        let mut prefix = name.to_owned();
        prefix.push(".");
        let mut attempt = 0;
        loop {
            let created = tempfile::Builder::new()
                .prefix(&prefix)
                .suffix(UNFINISHED)
                .permissions(Permissions::from_mode(0o600))
                .tempfile_in(directory);
            match created {
                Err(error) if error.kind() == ErrorKind::NotFound && attempt < ATTEMPTS => {
                    self.make_directory(directory)?;
                }
                created => return created,
            }
            attempt += 1;
        }
    }

    /// Makes `directory` and those above it up to the root, as far as they are missing. It may be gone again by the
    /// time this returns, as a concurrent delete removes what is empty.
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        let make = || {
            let mut durable = self.durable();
            durable.remove(directory);
            DirBuilder::new().mode(0o700).create(directory)
        };
        let made = match make() {
            Err(error) if error.kind() == ErrorKind::NotFound && directory != self.root => {
                self.make_directory(parent(directory))?;
                make()
            }
            made => made,
        };
        match made {
            // Each upload tries that too, but may not be permitted to; whoever may make the root is.
            Ok(()) if directory == self.root => sync_directory(parent(directory)),
            // Another made it, or removed the one above it meanwhile: whoever needs it will see.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound && directory != self.root => Ok(()),
            made => made,
        }
    }

    /// Makes `directory` and those above it durable, up to the root. Each is synced once in a process.
    fn sync_directories(&self, directory: &Path) -> io::Result<()> {
        for directory in directory.ancestors().take_while(|directory| directory.starts_with(&self.root)) {
            if self.durable().contains(directory) {
                continue;
            }
            match sync_directory(parent(directory)) {
                // Whoever made the root did sync it; the one that holds it may not be readable to us.
                Err(error) if error.kind() == ErrorKind::PermissionDenied && directory == self.root => {}
                synced => synced?,
            }
            self.durable().insert(directory.to_owned());
        }
        Ok(())
    }

    /// Gives `file` its name, durably. Where the name is taken, it is the older object that is made durable.
    fn publish(&self, mut file: NamedTempFile, target: &Path) -> io::Result<()> {
        file.as_file().sync_all()?;
        let directory = parent(target);
        self.sync_directories(directory)?;
        for _ in 0..ATTEMPTS {
            let clash = match file.persist_noclobber(target) {
                Ok(_) => return sync_directory(directory),
                Err(clash) if clash.error.kind() == ErrorKind::AlreadyExists => clash,
                Err(failure) => return Err(failure.error),
            };
            match sync_object(target) {
                Ok(()) => return Err(clash.error),
                Err(error) if error.kind() == ErrorKind::NotFound => file = clash.file,
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(ErrorKind::ResourceBusy, "another process deletes and makes it again and again"))
    }

    /// Removes `directory` and those above it, below the root, as far as they are empty.
    ///
    /// Best effort: an empty directory does no harm, and the next delete in it tries again. An upload that begins
    /// meanwhile either keeps the directory by its unfinished file or makes it again.
    fn remove_empty(&self, directory: &Path) {
        let below_root = |ancestor: &&Path| *ancestor != self.root && ancestor.starts_with(&self.root);
        for ancestor in directory.ancestors().take_while(below_root) {
            let mut durable = self.durable();
            match fs::remove_dir(ancestor) {
                Ok(()) => durable.remove(ancestor),
                Err(error) if error.kind() == ErrorKind::NotFound => durable.remove(ancestor),
                Err(_) => return,
            };
            drop(durable);
            // A directory that comes back after a crash is empty, and harmless.
            let _ = sync_directory(parent(ancestor));
        }
    }
}

impl Storage for Local {
    fn list(&self, directory: &str) -> Result<Vec<Entry>> {
        let failed = |error| Error::from_io("list", directory, self, error);
        check_directory(directory).map_err(|error| failed(io::Error::other(error)))?;
        list(&self.path(directory), directory.is_empty()).map_err(failed)
    }

    fn sync(&self, path: &str) -> Result<()> {
        let failed = |error| Error::from_io("sync", path, self, error);
        check_directory(path).map_err(|error| failed(io::Error::other(error)))?;
        let target = self.path(path);
        let is_directory = path.is_empty() || fs::symlink_metadata(&target).map_err(failed)?.is_dir();
        let synced = match is_directory {
            true => self.sync_directories(&target).and_then(|()| sync_directory(&target)),
            false => self.sync_directories(parent(&target)).and_then(|()| sync_object(&target)),
        };
        synced.map_err(failed)
    }

    fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        let failed = |error| Error::from_io("open", key, self, error);
        check_key(key).map_err(|error| failed(io::Error::other(error)))?;
        let file = open_object(&self.path(key)).map_err(failed)?;
        // Only a hint to read ahead: without it, reading is slower, not wrong.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Ok(Box::new(file))
    }

    fn create(&self, key: &str) -> Result<Box<dyn Upload>> {
        let failed = |error| Error::from_io("create", key, self, error);
        check_key(key).map_err(|error| failed(io::Error::other(error)))?;
        let target = self.path(key);
        let name = target.file_name().expect("a key has a last component");
        let file = self.create_unfinished(parent(&target), name).map_err(|error| {
            self.remove_empty(parent(&target));
            failed(error)
        })?;
        let file = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Box::new(LocalUpload {
            storage: self.clone(),
            key: key.to_owned(),
            target,
            file,
            published: false,
        }))
    }

    fn delete(&self, key: &str) -> Result<()> {
        let failed = |error| Error::from_io("delete", key, self, error);
        check_deletable(key).map_err(|error| failed(io::Error::other(error)))?;
        let path = self.path(key);
        let removed = match fs::remove_file(&path) {
            Err(error) if is_missing(&error) => Ok(()),
            removed => removed,
        };
        match removed.and_then(|()| sync_directory(parent(&path))) {
            Err(error) if !is_missing(&error) => return Err(failed(error)),
            _ => {}
        }
        self.remove_empty(parent(&path));
        Ok(())
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.display().fmt(f)
    }
}

struct LocalUpload {
    storage: Local,
    key: String,
    target: PathBuf,
    /// `None` once a commit was tried. Dropping it deletes it.
    file: Option<BufWriter<NamedTempFile>>,
    published: bool,
}

impl LocalUpload {
    fn file(&mut self) -> &mut BufWriter<NamedTempFile> {
        self.file.as_mut().expect("only commit takes it, and the upload with it")
    }
}

impl Write for LocalUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Upload for LocalUpload {
    fn commit(&mut self) -> Result<()> {
        let failed = |error| Error::from_io("commit", &self.key, &self.storage, error);
        let file = self.file.take().ok_or_else(|| failed(io::Error::other("it has failed before")))?;
        let written = file.into_inner().map_err(io::IntoInnerError::into_error);
        let published = written.and_then(|file| self.storage.publish(file, &self.target));
        self.published = published.is_ok();
        published.map_err(failed)
    }
}

impl Drop for LocalUpload {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // Without flushing what is buffered: it is not wanted.
            drop(file.into_parts());
        }
        if !self.published {
            self.storage.remove_empty(parent(&self.target));
        }
    }
}

fn list(path: &Path, is_root: bool) -> io::Result<Vec<Entry>> {
    let read = || {
        if !is_root && fs::symlink_metadata(path)?.is_symlink() {
            return Err(io::Error::other("it is a symbolic link"));
        }
        fs::read_dir(path)
    };
    let names = match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        names => names?,
    };
    let mut entries = Vec::new();
    for name in names {
        entries.extend(entry_of(&name?)?);
    }
    entries.sort();
    Ok(entries)
}

/// `None` for what vanished since its name was read, and for what cannot be an object.
fn entry_of(found: &fs::DirEntry) -> io::Result<Option<Entry>> {
    let Ok(name) = found.file_name().into_string() else { return Ok(None) };
    let metadata = match found.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    let kind = match () {
        () if metadata.is_dir() => EntryKind::Directory,
        () if metadata.is_file() && name.ends_with(UNFINISHED) => EntryKind::Unfinished,
        () if metadata.is_file() => EntryKind::Object { size_bytes: metadata.len() },
        () => return Ok(None),
    };
    Ok(Some(Entry { name, kind, modified_at: DateTime::<Utc>::from(metadata.modified()?) }))
}

/// Neither follows a link nor waits for a pipe's other end.
fn open_object(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Makes an object durable. Whoever published it has done this, unless it was killed, or copied it there by hand.
fn sync_object(path: &Path) -> io::Result<()> {
    open_object(path)?.sync_all()?;
    sync_directory(parent(path))
}

/// Makes durable which names are in a directory.
fn sync_directory(path: &Path) -> io::Result<()> {
    // Never waits for a pipe's other end.
    let mut options = OpenOptions::new();
    let directory = options.read(true).custom_flags(OFlags::DIRECTORY.bits() as i32).open(path)?;
    match directory.sync_all() {
        // A file system that cannot sync directories; the server itself carries on there, too.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// The directory that holds `path`; of `/`, it is that itself.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Whether there is no such file, be it that a directory above it is a file.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorKind as Kind, contract, walk};
    use super::*;

    fn put(storage: &Local, key: &str) {
        let mut upload = storage.create(key).unwrap();
        upload.write_all(key.as_bytes()).unwrap();
        upload.commit().unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_directory_keeps_the_contract() {
        let scratch = tempfile::tempdir().unwrap();
        contract::check(&Local::new(scratch.path()));
        contract::check(&Local::new(scratch.path().join("made-by-the-first-upload")));
    }

    #[test]
    fn nobody_else_can_read_what_is_stored() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        let storage = Local::new(&root);
        let usual = rustix::process::umask(rustix::fs::Mode::empty());
        let mut upload = storage.create("a/b/x").unwrap();
        let unfinished = storage.list("a/b").unwrap()[0].name.clone();
        let unfinished_mode = mode(&root.join("a/b").join(unfinished));
        upload.commit().unwrap();
        rustix::process::umask(usual);
        assert_eq!(unfinished_mode, 0o600);
        assert_eq!(mode(&root.join("a/b/x")), 0o600);
        for directory in [&root, &root.join("a"), &root.join("a/b")] {
            assert_eq!(mode(directory), 0o700, "{}", directory.display());
        }
    }

    #[test]
    fn a_root_whose_own_directory_is_missing_is_not_made() {
        let scratch = tempfile::tempdir().unwrap();
        let storage = Local::new(scratch.path().join("not-mounted/root"));
        let error = storage.create("x").err().expect("there is nowhere to put it");
        assert_eq!(error.kind, Kind::NotFound);
        assert!(error.hint().unwrap().contains("mount it"), "{error}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_upload_left_is_listed_as_such_and_can_be_deleted() {
        let scratch = tempfile::tempdir().unwrap();
        let storage = Local::new(scratch.path());
        let killed = storage.create("a/x").unwrap();
        std::mem::forget(killed);
        put(&storage, "a/x");
        let entries = storage.list("a").unwrap();
        assert_eq!(entries.iter().filter(|entry| entry.is_unfinished()).count(), 1, "{entries:?}");
        let left = entries.iter().find(|entry| entry.is_unfinished()).unwrap();
        storage.delete(&format!("a/{}", left.name)).unwrap();
        assert_eq!(walk(&storage, "").unwrap().len(), 1);
    }

    #[test]
    fn what_is_neither_file_nor_directory_is_no_object() {
        let scratch = tempfile::tempdir().unwrap();
        let storage = Local::new(scratch.path().join("root"));
        put(&storage, "a/x");
        let root = scratch.path().join("root");
        std::os::unix::fs::symlink(root.join("a"), root.join("link-to-directory")).unwrap();
        std::os::unix::fs::symlink(root.join("a/x"), root.join("link-to-file")).unwrap();
        std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let names: Vec<_> = storage.list("").unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a"]);
        assert_eq!(storage.open("link-to-file").err().unwrap().kind, Kind::Other);
        assert_eq!(storage.open("socket").err().unwrap().kind, Kind::Other);
        assert_eq!(storage.list("link-to-directory").err().unwrap().kind, Kind::Other);
        let linked = Local::new(root.join("link-to-directory"));
        assert_eq!(linked.list("").unwrap().len(), 1, "the root itself may be a link");
    }

    #[test]
    fn clones_and_processes_may_remove_a_directory_that_another_fills() {
        let scratch = tempfile::tempdir().unwrap();
        let (one, other) = (Local::new(scratch.path()), Local::new(scratch.path()));
        std::thread::scope(|threads| {
            for (worker, storage) in [&one, &other, &one, &other].into_iter().enumerate() {
                threads.spawn(move || {
                    for round in 0..200 {
                        let key = format!("deep/er/{worker}-{round}");
                        put(storage, &key);
                        storage.delete(&key).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
