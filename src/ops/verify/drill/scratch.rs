//! The directory that a drill lives in, and that nothing is left of.
//!
//! ```text
//! <directory>/pgbak-drill-XXXXXX/    of whoever runs pgbak
//!   lock                             held for as long as the drill runs
//!   data/                            restored
//!   tablespace-OID/                  restored
//!   run/                             of whom the server runs as, and closed to others: configuration, log, state
//!   s/                               the same: the socket
//! ```
//!
//! The kernel lets go of the lock when the process dies, however it does. So a directory of this name whose lock can
//! be taken is what a dead drill left, and the next one removes it. Directories of others are never touched.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::ops::{Context, Error};

const PREFIX: &str = "pgbak-drill-";
const LOCK: &str = "lock";
/// `sun_path` has 108 bytes; the socket's own name is as long as this one.
const SOCKET_PATH_MAX: usize = 107 - "/s/.s.PGSQL.5432".len();
/// What recovery may need beside the data: WAL on its way, and the new timeline's first segments.
const SPARE_BYTES: u64 = 64 << 20;
/// How long a process that fetches WAL ahead may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Dropping it removes everything.
#[derive(Debug)]
pub struct Scratch {
    root: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes one below `chosen`, else `$TMPDIR`, else `/tmp`.
    pub fn make(context: &Context<'_>, chosen: Option<&Path>) -> Result<Self, Error> {
        let of_environment = || (context.environment)("TMPDIR").filter(|path| !path.is_empty());
        let below = match chosen {
            Some(chosen) => chosen.to_owned(),
            None => PathBuf::from(of_environment().unwrap_or_else(|| "/tmp".to_owned())),
        };
        let below = fs::canonicalize(&below).map_err(|source| Error::Io {
            action: "open the directory",
            path: below.clone(),
            source,
        })?;
        remove_leftovers(&below);
        let io = |source| Error::Io { action: "make a directory in", path: below.clone(), source };
        // Root's own, as the server's user has to pass through it.
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        let mut builder = tempfile::Builder::new();
        let root = builder.prefix(PREFIX).permissions(Permissions::from_mode(mode)).tempdir_in(&below);
        let root = root.map_err(io)?;
        fs::set_permissions(root.path(), Permissions::from_mode(mode)).map_err(io)?;
        let lock = File::create_new(root.path().join(LOCK)).map_err(io)?;
        lock.try_lock().map_err(|error| io(error.into()))?;
        let length = root.path().as_os_str().len();
        if length > SOCKET_PATH_MAX {
            return Err(Error::TargetDirectory {
                path: below,
                reason: format!("has too long a path for a server's socket below it: {length} bytes"),
                hint: "Name a directory with a shorter path with `--drill-directory DIR`.".to_owned(),
            });
        }
        Ok(Self { root: root.keep(), _lock: lock })
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn tablespace(&self, oid: u32) -> PathBuf {
        self.root.join(format!("tablespace-{oid}"))
    }

    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub fn sockets(&self) -> PathBuf {
        self.root.join("s")
    }

    /// Where pgbak, called by the server, keeps what it fetches ahead.
    pub fn state(&self) -> PathBuf {
        self.run().join("state")
    }

    /// Refuses to begin what cannot end well.
    pub fn must_have_room_for(&self, size_bytes: u64) -> Result<(), Error> {
        let needed_bytes = size_bytes.saturating_add(size_bytes / 10).saturating_add(SPARE_BYTES);
        let found = rustix::fs::statvfs(&self.root);
        let found = found.map_err(|error| Error::Io {
            action: "ask for the free space of",
            path: self.root.clone(),
            source: error.into(),
        })?;
        let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
        if free_bytes >= needed_bytes {
            return Ok(());
        }
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        Err(Error::TargetDirectory {
            path: self.root.parent().unwrap_or(&self.root).to_owned(),
            reason: format!(
                "has {} MB of free space, and a drill with this backup needs {} MB",
                megabytes(free_bytes),
                megabytes(needed_bytes)
            ),
            hint: "Name a directory on a larger disk with `--drill-directory DIR`.".to_owned(),
        })
    }

    /// Makes the directories that belong to the server's user.
    pub fn make_for(&self, account: Option<(u32, u32)>) -> Result<(), Error> {
        for path in [self.run(), self.sockets(), self.state()] {
            let io = |source| Error::Io { action: "create the directory", path: path.clone(), source };
            DirBuilder::new().mode(0o700).create(&path).map_err(io)?;
            give(&path, account)?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        end_processes_of(&self.state());
        if let Err(error) = fs::remove_dir_all(&self.root) {
            tracing::warn!(
                "could not remove {}, which the next drill will try: {error}",
                self.root.display()
            );
        }
    }
}

/// Hands a file or directory to the server's user; `None` where that is who runs pgbak.
pub fn give(path: &Path, account: Option<(u32, u32)>) -> Result<(), Error> {
    let Some((uid, gid)) = account else { return Ok(()) };
    let given = std::os::unix::fs::lchown(path, Some(uid), Some(gid));
    given.map_err(|source| Error::Io { action: "change the owner of", path: path.to_owned(), source })
}

/// Removes what drills left that were killed.
fn remove_leftovers(below: &Path) {
    let user = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let is_named_so = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let is_ours =
            fs::symlink_metadata(entry.path()).is_ok_and(|found| found.is_dir() && found.uid() == user);
        if is_named_so && is_ours && is_dead(&entry.path()) {
            end_processes_of(&entry.path().join("run/state"));
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::info!("removed {}, which a dead drill had left", entry.path().display()),
                Err(error) => tracing::warn!("could not remove {}: {error}", entry.path().display()),
            }
        }
    }
}

/// Whether nobody holds the lock. Without one, the drill was killed as it began, or begins right now.
fn is_dead(root: &Path) -> bool {
    match File::open(root.join(LOCK)) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(_)) => false,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none())
        }
        Err(_) => false,
    }
}

/// Ends the processes that fetch WAL ahead into `state`, which would make the directory anew.
fn end_processes_of(state: &Path) {
    let variable = [b"PGBAK_STATE_DIRECTORY=", state.as_os_str().as_encoded_bytes()].concat();
    let running = || {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes.filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let environment = fs::read(entry.path().join("environ")).ok()?;
            environment.split(|&byte| byte == 0).any(|given| given == variable).then_some(pid)
        })
    };
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        let pids: Vec<i32> = running().collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            // It may have ended by itself, which is as good.
            let _ = kill_process(pid, Signal::TERM);
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_drill_left_is_removed_and_nothing_else() {
        let below = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = below.path().join(name);
            fs::create_dir_all(path.join("data")).unwrap();
            path
        };
        let (dead, alive, other) = (make("pgbak-drill-dead"), make("pgbak-drill-alive"), make("other"));
        let (beginning, unlocked) =
            (below.path().join("pgbak-drill-beginning"), make("pgbak-drill-unlocked"));
        fs::create_dir(&beginning).unwrap();
        File::create(dead.join(LOCK)).unwrap();
        File::create(other.join(LOCK)).unwrap();
        let lock = File::create(alive.join(LOCK)).unwrap();
        lock.try_lock().unwrap();
        std::os::unix::fs::symlink(&other, below.path().join("pgbak-drill-link")).unwrap();

        remove_leftovers(below.path());
        assert!(!dead.exists(), "its lock is free");
        assert!(alive.join("data").exists(), "its lock is held");
        assert!(other.join("data").exists() && unlocked.exists(), "these are no drills");
    }
}
