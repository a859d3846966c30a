//! `--delta`: what of an old copy can stay, and what must go.
//!
//! A file stays when the manifest names it and its content has the size and checksum that the manifest gives. Nothing
//! else is believed, neither times nor sizes alone. What the manifest does not name goes, except for links to
//! directories that the backup knows as directories, such as a `pg_wal` on a disk of its own.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use walkdir::WalkDir;

use super::places::Places;
use super::target::{MARKER, io_error};
use super::{Context, Error};
use crate::ops::data_directory::CONTROL_FILE;
use crate::pg::manifest::{Manifest, ManifestFile};
use crate::pipe::read_some;

const CHUNK_SIZE_BYTES: usize = 256 << 10;

/// What was found in an old copy.
#[derive(Debug, Default)]
pub struct Delta {
    /// Paths, as in the manifest, of files that stay.
    pub kept: HashSet<Vec<u8>>,
    /// What has to go, children before their directories.
    pub alien: Vec<PathBuf>,
}

impl Delta {
    /// Reads every file of the old copy that the manifest names, on all cores. Changes nothing.
    pub fn find(context: &Context<'_>, places: &Places, manifest: &Manifest) -> Result<Self, Error> {
        let kept = Mutex::new(HashSet::new());
        let queue = Mutex::new(manifest.files.values());
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            let work = || -> Result<(), Error> {
                loop {
                    context.interrupt.check()?;
                    let next = queue.lock().expect("no thread panics while it holds this").next();
                    let Some(file) = next else { return Ok(()) };
                    if is_same(places, file)? {
                        let path = file.path.as_bytes().to_vec();
                        kept.lock().expect("no thread panics while it holds this").insert(path);
                    }
                }
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let joined = running.into_iter().map(|thread| thread.join().expect("reading does not panic"));
            joined.collect::<Result<Vec<()>, Error>>()
        })?;
        let kept = kept.into_inner().expect("no thread panics while it holds this");
        let links: HashSet<PathBuf> = places
            .tablespaces
            .iter()
            .filter(|(oid, directory)| places.links_to(**oid, directory))
            .map(|(oid, _)| places.link(*oid))
            .collect();
        let mut alien = aliens(&places.data, &kept, b"", &links)?;
        for (oid, location) in &places.tablespaces {
            alien.extend(aliens(location, &kept, format!("pg_tblspc/{oid}/").as_bytes(), &links)?);
        }
        Ok(Self { kept, alien })
    }

    /// Removes what does not belong, and says how many files that were.
    pub fn remove_aliens(&self) -> Result<u64, Error> {
        let mut files = 0;
        for path in &self.alien {
            let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
            let removed = match is_directory {
                true => std::fs::remove_dir(path),
                false => std::fs::remove_file(path).map(|()| files += 1),
            };
            match removed {
                // A directory that keeps a file is still needed.
                Err(error) if is_directory && error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(|source| io_error("remove", path, source))?,
            }
        }
        Ok(files)
    }
}

/// Everything below `root` that is not kept, children first; `links` are those of tablespaces that are where they
/// should be. The backup makes its directories again.
fn aliens(
    root: &Path,
    kept: &HashSet<Vec<u8>>,
    prefix: &[u8],
    links: &HashSet<PathBuf>,
) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    // A `pg_wal` on another disk: the link stays, its content goes.
    let linked_wal = root.join("pg_wal");
    let roots = [Some(root.to_owned()), linked_wal.is_symlink().then(|| linked_wal.clone())];
    for (walked, below) in roots.into_iter().flatten().zip([prefix, b"pg_wal/"]) {
        if !walked.exists() {
            continue;
        }
        for entry in WalkDir::new(walked.join("")).min_depth(1).contents_first(true) {
            let entry = entry.map_err(|error| io_error("read", root, error.into()))?;
            let relative = entry.path().strip_prefix(&walked).expect("it was found below");
            let path = [below, relative.as_os_str().as_bytes()].concat();
            let stays = kept.contains(&path) && path != CONTROL_FILE.as_bytes()
                || path == MARKER.as_bytes()
                || links.contains(entry.path())
                || entry.path() == linked_wal && entry.path_is_symlink();
            if !stays {
                found.push(entry.into_path());
            }
        }
    }
    Ok(found)
}

fn is_same(places: &Places, file: &ManifestFile) -> Result<bool, Error> {
    let path = file.path.as_bytes();
    let (Some(place), Some(expected)) = (places.resolve(path), file.crc32c()) else { return Ok(false) };
    let same_size = |metadata: std::fs::Metadata| metadata.is_file() && metadata.len() == file.size_bytes;
    // Never through a link: what is behind it may be shared with others.
    if path == CONTROL_FILE.as_bytes() || !place.symlink_metadata().is_ok_and(same_size) {
        return Ok(false);
    }
    let found = File::open(&place).and_then(crc32c_of).map_err(|source| io_error("read", &place, source))?;
    Ok(found == expected)
}

fn crc32c_of(mut content: impl Read) -> io::Result<u32> {
    let mut chunk = vec![0; CHUNK_SIZE_BYTES];
    let mut crc32c = 0;
    loop {
        match read_some(&mut content, &mut chunk)? {
            0 => return Ok(crc32c),
            length => crc32c = crc32c::crc32c_append(crc32c, &chunk[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_reading_a_signal_interrupts_is_read_on() {
        struct OnceInterrupted(bool);
        impl Read for OnceInterrupted {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                match std::mem::replace(&mut self.0, true) {
                    true => Ok(0),
                    false => Err(io::ErrorKind::Interrupted.into()),
                }
            }
        }
        let interrupted = b"a page, ".chain(OnceInterrupted(false)).chain(&b"and another"[..]);
        assert_eq!(crc32c_of(interrupted).unwrap(), crc32c::crc32c(b"a page, and another"));
    }
}
