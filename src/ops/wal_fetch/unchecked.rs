//! A file on its way to its destination, which it must not reach before it was checked.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat};

use crate::ops::{Error, wal_file};
use crate::pg::{SegmentPart, WalFileName};

const CHUNK_SIZE_BYTES: usize = 256 << 10;

/// A fetched file that nobody has checked yet.
///
/// It has no name, so that nothing is left beside its destination when pgbak is killed. Where the file system has no
/// such files, it has one with the process's number, and goes when it is dropped.
pub struct Unchecked {
    destination: PathBuf,
    pub file: File,
    is_named: bool,
    pub size_bytes: u64,
}

impl Unchecked {
    pub fn beside(destination: &Path) -> Result<Self, Error> {
        let directory = match destination.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) if name_of(&file).exists() => Ok(Self::new(destination, file.into(), false)),
            _ => Self::named(destination),
        }
    }

    fn named(destination: &Path) -> Result<Self, Error> {
        let path = name_beside(destination);
        let created =
            File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = created.map_err(|source| Error::Io { action: "create", path, source })?;
        Ok(Self::new(destination, file, true))
    }

    fn new(destination: &Path, file: File, is_named: bool) -> Self {
        Self { destination: destination.to_owned(), file, is_named, size_bytes: 0 }
    }

    /// Writes what `object` gives where it belongs, and returns how it begins.
    pub fn fill_part(
        &mut self,
        segment: &str,
        part: SegmentPart,
        object: impl Read,
        damaged: &dyn Fn(String) -> Error,
    ) -> Result<Vec<u8>, Error> {
        let seek = self.file.seek(SeekFrom::Start(part.begin));
        seek.map_err(|source| Error::Io { action: "write", path: self.destination.clone(), source })?;
        self.size_bytes = part.begin;
        let first = self.fill(&WalFileName::of_part(segment, part), object, damaged)?;
        match self.size_bytes == part.end {
            true => Ok(first),
            false => Err(damaged(format!("its part up to {} ends at {}", part.end, self.size_bytes))),
        }
    }

    /// Whether another file begins with all that is in this one.
    pub fn is_beginning_of(&self, path: &Path) -> Result<bool, Error> {
        let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
        let other = File::open(path).map_err(io)?;
        let (mut ours, mut theirs) = (vec![0; CHUNK_SIZE_BYTES], vec![0; CHUNK_SIZE_BYTES]);
        let mut offset = 0;
        while offset < self.size_bytes {
            let length =
                CHUNK_SIZE_BYTES.min(usize::try_from(self.size_bytes - offset).unwrap_or(usize::MAX));
            self.file.read_exact_at(&mut ours[..length], offset).map_err(io)?;
            match other.read_exact_at(&mut theirs[..length], offset) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                read => read.map_err(io)?,
            }
            if ours[..length] != theirs[..length] {
                return Ok(false);
            }
            offset += length as u64;
        }
        Ok(true)
    }

    /// Fills up with zeros to `size_bytes`.
    pub fn fill_up(&mut self, size_bytes: u64, damaged: &dyn Fn(String) -> Error) -> Result<(), Error> {
        if self.size_bytes > size_bytes {
            return Err(damaged(format!("it has {} bytes, more than a segment", self.size_bytes)));
        }
        let extended = self.file.set_len(size_bytes);
        extended.map_err(|source| Error::Io { action: "extend", path: self.destination.clone(), source })?;
        self.size_bytes = size_bytes;
        Ok(())
    }

    /// Writes what `object` gives, and returns how it begins. Where that is not the beginning of such a file, or it is
    /// longer than it says, nothing more is read.
    pub fn fill(
        &mut self,
        name: &WalFileName,
        mut object: impl Read,
        damaged: &dyn Fn(String) -> Error,
    ) -> Result<Vec<u8>, Error> {
        let mut chunk = vec![0; CHUNK_SIZE_BYTES];
        let mut first = Vec::new();
        let begin_bytes = self.size_bytes;
        loop {
            let length = object.read(&mut chunk).map_err(|error| damaged(error.to_string()))?;
            if length == 0 {
                return Ok(first);
            }
            self.size_bytes += length as u64;
            let wanted = wal_file::BEGINNING_BYTES - first.len();
            first.extend_from_slice(&chunk[..length.min(wanted)]);
            let size_max_bytes = wal_file::size_max_bytes(name, &first);
            if self.size_bytes - begin_bytes > size_max_bytes {
                return Err(damaged(format!("it unpacks to more than {size_max_bytes} bytes")));
            }
            let written = self.file.write_all(&chunk[..length]);
            written.map_err(|source| Error::Io {
                action: "write",
                path: self.destination.clone(),
                source,
            })?;
        }
    }

    /// Puts it at its destination, in the place of what may be there.
    pub fn publish(mut self) -> Result<(), Error> {
        let io = |source| Error::Io { action: "put in place", path: self.destination.clone(), source };
        let beside = name_beside(&self.destination);
        if !self.is_named {
            // PostgreSQL has removed what was there, so that this is all there is to do.
            match self.link_to(&self.destination) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => return linked.map_err(io),
            }
            let _ = fs::remove_file(&beside);
            self.link_to(&beside).map_err(io)?;
        }
        let renamed = fs::rename(&beside, &self.destination).map_err(io);
        self.is_named = renamed.is_err();
        renamed
    }

    fn link_to(&self, path: &Path) -> io::Result<()> {
        Ok(linkat(CWD, name_of(&self.file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Drop for Unchecked {
    fn drop(&mut self) {
        if self.is_named {
            let _ = fs::remove_file(name_beside(&self.destination));
        }
    }
}

/// What a file without a name can be linked from.
fn name_of(file: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn name_beside(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(format!(".pgbak-{}", std::process::id()));
    destination.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_that_nobody_has_checked_has_no_name_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let destination = directory.path().join("RECOVERYXLOG");
        let mut unchecked = Unchecked::beside(&destination).unwrap();
        unchecked.file.write_all(b"half").unwrap();
        assert_eq!(names(directory.path()), [""; 0]);
        drop(unchecked);
        assert_eq!(names(directory.path()), [""; 0]);
    }

    #[test]
    fn it_takes_the_place_of_what_is_there_and_leaves_nothing_else() {
        for beside in [Unchecked::beside, Unchecked::named] {
            let directory = tempfile::tempdir().unwrap();
            let destination = directory.path().join("RECOVERYXLOG");
            for content in [&b"first"[..], b"second"] {
                let mut unchecked = beside(&destination).unwrap();
                unchecked.file.write_all(content).unwrap();
                unchecked.publish().unwrap();
                assert_eq!(names(directory.path()), ["RECOVERYXLOG"]);
                assert_eq!(fs::read(&destination).unwrap(), content);
            }
            drop(beside(&destination).unwrap());
            assert_eq!(names(directory.path()), ["RECOVERYXLOG"]);
        }
    }
}
