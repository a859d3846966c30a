//! This process among others: who holds a lease, who holds a lock.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Context, Error};
use crate::pipe::Digester;
use crate::repo::Pulse;
use crate::repo::lease::{Holder, Observer};

/// A lock that this process holds until it is dropped, or dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Context<'_> {
    /// How this process signs its leases.
    pub(super) fn holder(&self) -> Holder {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Holder { host, pid: std::process::id(), pid_scope: pid_scope() }
    }

    pub(super) fn observer(&self) -> Observer<'static> {
        Observer { holder: self.holder(), is_running: &is_running }
    }

    /// Makes the state directory if it is missing, and refuses one that is not this user's alone: a lock in it could
    /// be taken away, and a file in it be anybody's.
    pub(super) fn make_state_directory(&self) -> Result<(), Error> {
        let path = &self.state_directory;
        make_private_directory(path)?;
        let found = fs::symlink_metadata(path);
        let found = found.map_err(|source| Error::Io { action: "look at", path: path.clone(), source })?;
        let user = rustix::process::geteuid().as_raw();
        let reason = match () {
            () if !found.is_dir() => "is not a directory".to_owned(),
            () if found.uid() != user => format!("belongs to user {}, not to {user}", found.uid()),
            () if found.mode() & 0o022 != 0 => {
                format!("can be written to by others (mode {:04o})", found.mode() & 0o7777)
            }
            () => return Ok(()),
        };
        Err(Error::Usage {
            reason: format!("the state directory \"{}\" {reason}", path.display()),
            hint: "Set PGBAK_STATE_DIRECTORY to a directory of this user's own.".to_owned(),
        })
    }

    /// Where the state lies that belongs to this configuration alone. It need not exist.
    pub(super) fn configuration_state(&self) -> PathBuf {
        self.state_directory.join(self.configuration_name())
    }

    /// What tells this configuration from others on this machine.
    pub(super) fn configuration_name(&self) -> String {
        match &self.config.file {
            // The path tells apart what has one name, such as a container's and the machine's own.
            Some(file) => {
                let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let mut digester = Digester::default();
                digester.write_all(file.as_os_str().as_encoded_bytes()).expect("digesting does not fail");
                format!("{stem}-{}", &digester.finish().sha256.to_string()[..8])
            }
            None => "environment".to_owned(),
        }
    }

    /// Takes the lock of this name, or fails with who has it. Only one run of `command` works on one cluster.
    pub(super) fn lock(&self, command: &'static str, cluster: &str) -> Result<Lock, Error> {
        let path = self.state_directory.join(format!("{command}-{cluster}.lock"));
        let io = |source| Error::Io { action: "open the lock file", path: path.clone(), source };
        self.make_state_directory()?;
        let mut file = private_file(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Whoever holds it may not have signed it yet.
                let _ = file.take(4096).read_to_string(&mut holder);
                return Err(Error::Locked { command, holder: with_age(holder.trim(), (self.clock)()) });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let signature = format!("process {} since {}\n", std::process::id(), (self.clock)().to_rfc3339());
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        file.write_all(signature.as_bytes()).map_err(io)?;
        Ok(Lock { _file: file })
    }
}

impl Pulse for Context<'_> {
    fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    fn passed(&self, bytes: u64) -> io::Result<()> {
        self.meter.add(bytes);
        Ok(self.interrupt.check()?)
    }
}

/// A lock's signature, with how long ago it was written.
fn with_age(signature: &str, now: DateTime<Utc>) -> String {
    let since = signature.rsplit_once(' ').and_then(|(_, since)| DateTime::parse_from_rfc3339(since).ok());
    match since.and_then(|since| (now - since.to_utc()).to_std().ok()) {
        Some(age) => {
            let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
            format!("{signature}, for {age}")
        }
        None => signature.to_owned(),
    }
}

/// Makes a directory of pgbak's own, with everything above it, closed to others from the first moment.
pub fn make_private_directory(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::Io { action: "create the directory", path: path.to_owned(), source })
}

/// Replaces a file of the state directory, whole or not at all; it is for the owner alone from its first moment. It need
/// not survive a crash of the machine.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<(), Error> {
    let directory = path.parent().expect("a file of the state directory lies in a directory");
    let io = |source| Error::Io { action: "write", path: path.to_owned(), source };
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(io)?;
    file.write_all(content).map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

fn private_file(path: &PathBuf) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Names the kernel's boot and the namespace in which process numbers count.
pub fn pid_scope() -> String {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot_id(), namespace.display())
}

/// Names the time since the kernel was started.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub fn is_running(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_s_holder_is_told_with_its_age() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let since = (now - chrono::TimeDelta::minutes(3)).to_rfc3339();
        let signature = format!("process 7 since {since}");
        assert_eq!(with_age(&signature, now), format!("{signature}, for 3m"));
        for signature in ["", "process 7", "process 7 since 2199-01-01T00:00:00+00:00"] {
            assert_eq!(with_age(signature, now), signature);
        }
    }
}
