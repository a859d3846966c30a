//! The directories that a restore may write to, and who owns what it writes.
//!
//! A restore cannot hurt: it refuses a directory that is not empty, that a server runs in, or that belongs to another
//! cluster, and deletes nothing before all of them have passed. While it works a marker lies in the data directory
//! and `pg_control` does not, so that what it leaves when it dies cannot be started, and is known for what it is.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::places::Places;
use super::{Context, Error, Request};
use crate::catalog::BackupInfo;
use crate::ops::data_directory::{CONTROL_FILE, control_file};
use crate::pg::SystemIdentifier;

/// Lies in a data directory while it is being restored; holds the system identifier.
pub const MARKER: &str = "pgbak_restore_in_progress";

/// Whose the restored files will be. Only root can give files away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whoever runs pgbak.
    Self_,
    Account {
        uid: u32,
        gid: u32,
    },
    /// As the server recorded it in the archive.
    AsRecorded,
}

/// Checks every directory before anything is touched.
pub fn inspect(request: &Request, places: &Places, backup: &BackupInfo) -> Result<(), Error> {
    let refuse = |path: &Path, reason: String, hint: &str| {
        Err(Error::TargetDirectory { path: path.to_owned(), reason, hint: hint.to_owned() })
    };
    if let Some(pid) = running_server(&places.data)? {
        let hint = "Stop it first with `pg_ctl stop`, or restore to another directory with `-D DIR`.";
        return refuse(&places.data, format!("is in use by a running server (process {pid})"), hint);
    }
    for (oid, directory) in &places.tablespaces {
        // Only the links of the old copy itself tell its tablespaces from those of a cluster that is in use.
        let is_its_own = request.delta && places.links_to(*oid, directory);
        if !is_its_own && !is_empty(directory)? {
            let reason = "is a tablespace's directory, and not empty".to_owned();
            return refuse(
                directory,
                reason,
                "Put the tablespace elsewhere with `--tablespace-mapping OLD=NEW`.",
            );
        }
    }
    let data = places.data.as_path();
    if !request.delta && !is_empty(data)? {
        return match is_half_restored(data) {
            true => refuse(
                data,
                "holds an unfinished restore".into(),
                "Run it again with `--delta` to finish it.",
            ),
            false => refuse(
                data,
                "is not empty".into(),
                "Restore to an empty directory, or with `--delta` to make an old copy of this cluster match the \
                 backup.",
            ),
        };
    }
    if request.delta && !is_empty(data)? {
        must_be_this_cluster(places, backup)?;
        must_have_archived_all(&places.data)?;
    }
    Ok(())
}

/// Whether a restore into `data` was begun and not finished.
pub fn is_half_restored(data: &Path) -> bool {
    data.join(MARKER).exists()
}

/// Whose restore was begun. A power failure may have left the marker torn, and then the old copy is still as it was.
fn marked_system(data: &Path) -> Option<SystemIdentifier> {
    fs::read_to_string(data.join(MARKER)).ok()?.strip_suffix('\n')?.parse().ok()
}

fn must_be_this_cluster(places: &Places, backup: &BackupInfo) -> Result<(), Error> {
    let data = &places.data;
    let expected = backup.system_identifier;
    let found = match marked_system(data) {
        Some(marked) => Some(marked),
        None => control_file(data)?.map(|control| control.system_identifier),
    };
    let (reason, hint) = match found {
        Some(found) if found == expected => return Ok(()),
        Some(found) => (
            format!("belongs to system {found}, but the backup is of system {expected}"),
            "Nothing was touched. Restore to an empty directory.",
        ),
        None => (
            "is neither empty nor a data directory".to_owned(),
            "Nothing was touched. `--delta` works on an old copy of the same cluster, or on an unfinished restore.",
        ),
    };
    Err(Error::TargetDirectory { path: data.clone(), reason, hint: hint.to_owned() })
}

/// WAL that exists nowhere but here must not be deleted.
fn must_have_archived_all(data: &Path) -> Result<(), Error> {
    if is_half_restored(data) {
        return Ok(());
    }
    let status = data.join("pg_wal/archive_status");
    let entries = match fs::read_dir(&status) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|source| io_error("read the directory", &status, source))?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut waiting: Vec<_> =
        names.filter_map(|name| Some(name.strip_suffix(".ready")?.to_owned())).collect();
    waiting.sort();
    let Some(first) = waiting.first() else { return Ok(()) };
    Err(Error::TargetDirectory {
        path: data.to_owned(),
        reason: format!("holds {} WAL files that were not archived yet, from {first} on", waiting.len()),
        hint: format!(
            "Archive each with `pgbak wal-push {}/pg_wal/NAME`, or move the directory away.",
            data.display()
        ),
    })
}

/// The process that runs in `data`, as far as its lock file and this machine tell.
fn running_server(data: &Path) -> Result<Option<u32>, Error> {
    let path = data.join("postmaster.pid");
    let text = match fs::read_to_string(&path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        read => read.map_err(|source| io_error("read", &path, source))?,
    };
    let pid = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
    Ok(pid.filter(|pid| Path::new("/proc").join(pid.to_string()).exists()))
}

/// A directory that does not exist is as good as an empty one.
fn is_empty(path: &Path) -> Result<bool, Error> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(io_error("read the directory", path, source)),
    }
}

impl Owner {
    /// The owner of the target, of the closest directory above it that exists, or of the configured data directory:
    /// the first of these that is not root.
    pub fn of(context: &Context<'_>, data: &Path) -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::Self_;
        }
        let existing = data.ancestors().find_map(|path| fs::metadata(path).ok());
        let configured =
            context.config.postgres.data_directory.as_ref().and_then(|path| fs::metadata(path).ok());
        let owner = [existing, configured].into_iter().flatten().find(|metadata| metadata.uid() != 0);
        owner.map_or(Self::AsRecorded, |metadata| Self::Account { uid: metadata.uid(), gid: metadata.gid() })
    }

    /// Who a file is given to; `None` when it stays with the process. `recorded` is what the archive says.
    pub fn resolve(self, recorded: (u32, u32)) -> Option<(u32, u32)> {
        match self {
            Self::Self_ => None,
            Self::Account { uid, gid } => Some((uid, gid)),
            Self::AsRecorded => Some(recorded),
        }
    }
}

/// Begins: from here on the data directory is marked and cannot be started, not even after a power failure. Nothing of
/// an old copy may change before that.
pub fn begin(places: &Places, backup: &BackupInfo) -> Result<(), Error> {
    for root in places.roots() {
        make_directory(root)?;
    }
    let marker = places.data.join(MARKER);
    let write = || -> io::Result<()> {
        fs::write(&marker, format!("{}\n", backup.system_identifier))?;
        fs::File::open(&marker)?.sync_all()?;
        fs::File::open(&places.data)?.sync_all()?;
        let control = places.data.join(CONTROL_FILE);
        remove_if_there(&control)?;
        // Also where it was gone: whoever removed it may not have lived to sync that.
        match fs::File::open(control.parent().expect("it lies in a directory")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            directory => directory?.sync_all(),
        }
    };
    write().map_err(|source| io_error("write", &marker, source))
}

/// Makes what was written durable, then startable: `pg_control` comes last, and the marker goes.
pub fn finish(places: &Places, control: &Path, directory_mode: u32, owner: Owner) -> Result<(), Error> {
    let data = &places.data;
    for root in places.roots() {
        set_mode(root, directory_mode)?;
        give_like(root, control, owner)?;
    }
    sync(places)?;
    let target = data.join(CONTROL_FILE);
    fs::rename(control, &target).map_err(|source| io_error("rename to", &target, source))?;
    sync_directory(&data.join("global"))?;
    let marker = data.join(MARKER);
    remove_if_there(&marker).map_err(|source| io_error("remove", &marker, source))?;
    sync_directory(data)
}

/// One call per file system instead of one per file. `pg_wal` may be a link to a disk of its own.
fn sync(places: &Places) -> Result<(), Error> {
    let linked_wal = places.data.join("pg_wal");
    for root in places.roots().chain([linked_wal.as_path()]) {
        let directory = fs::File::open(root).map_err(|source| io_error("open", root, source))?;
        rustix::fs::syncfs(&directory).map_err(|error| io_error("make durable", root, error.into()))?;
    }
    Ok(())
}

pub fn sync_directory(path: &Path) -> Result<(), Error> {
    let synced = fs::File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|source| io_error("make durable", path, source))
}

pub fn make_directory(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| io_error("create the directory", path, source))
}

pub fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.map_err(|source| io_error("set the mode of", path, source))
}

/// Gives `path`, which is in no archive, to the owner that `model`, which is, was given to.
pub fn give_like(path: &Path, model: &Path, owner: Owner) -> Result<(), Error> {
    let recorded = fs::metadata(model).map_or((0, 0), |metadata| (metadata.uid(), metadata.gid()));
    give(path, owner.resolve(recorded))
}

/// Gives a file or directory to its owner.
pub fn give(path: &Path, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    let given = std::os::unix::fs::lchown(path, Some(uid), Some(gid));
    given.map_err(|source| io_error("change the owner of", path, source))
}

pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: PathBuf::from(path), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_marker_names_no_system() {
        let scratch = tempfile::tempdir().unwrap();
        let marker = scratch.path().join(MARKER);
        assert_eq!(marked_system(scratch.path()), None);
        for torn in ["", "4", "\0\0\0"] {
            fs::write(&marker, torn).unwrap();
            assert_eq!(marked_system(scratch.path()), None, "{torn:?}");
        }
        fs::write(&marker, "42\n").unwrap();
        assert_eq!(marked_system(scratch.path()), Some(SystemIdentifier(42)));
    }
}
