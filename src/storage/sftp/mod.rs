//! A repository on an SSH server, over SFTP.
//!
//! libssh2 carries SSH ([`session`]); on its channel we speak SFTP ourselves ([`packet`], [`connection`]), because
//! libssh2's own calls wait for each other, and lack what is needed here. An account that is restricted to
//! `internal-sftp` in a chroot is enough: nothing is ever executed on the server.
//!
//! The layout and the order of things are those of a local repository: an upload is a file beside the object,
//! ending in [`UNFINISHED`](super::UNFINISHED); committing makes durable its bytes, the directories above it, its name, in this order.
//! Files are 0600 and directories 0700 from their first moment, unless the server's own settings say otherwise.
//! Only the root may be a symbolic link.
//!
//! A name is published by SFTP's RENAME, which in OpenSSH's server is link(2) and unlink(2): it never replaces, it
//! is one request, so that a lost connection cannot fall between the two, and on a file system without hard links
//! the server falls back to rename(2) after a look, which leaves a moment for another to publish the same name.
//! (`hardlink@openssh.com` would need a second request, and fails on such file systems.) A server that is not known to
//! be of OpenSSH's kind might replace, so there the name is looked at first.
//!
//! What cannot be known is asked for, never assumed: version 3 says "failure" for a full disk as for an existing
//! file, and a reply may be lost with the connection while the request was carried out.
//!
//! Every call has a bound, and a lost connection is an [`ErrorKind::Transient`] error: the same call, repeated, makes a
//! new connection and goes on where the old one ended. Pauses and repetition are [`Retry`](super::Retry)'s.

mod connection;
mod dial;
mod download;
mod driver;
mod failure;
mod keys;
mod known_hosts;
mod ledger;
mod listing;
mod packet;
mod pool;
mod publish;
mod queue;
mod range;
mod session;
mod settings;
mod tree;
mod upload;
mod waiting;

use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use settings::{Durability, Secret, SftpSettings};

pub(super) use failure::Failure;

use super::{Entry, ErrorKind, Result, Storage, Upload};
use super::{check_deletable, check_directory, check_key};
use crate::interrupt::Interrupt;
use connection::Connection;
use download::Download;
use failure::{Attempt, Expect};
use listing::look_at;
use packet::{FileType, Mode, Request, Status};
use pool::Pool;
use tree::{parent, synced_directory};
use upload::SftpUpload;
use waiting::Waiting;

/// Clones share their connections.
#[derive(Clone)]
pub struct Sftp(Arc<Inner>);

struct Inner {
    settings: SftpSettings,
    /// Without a slash at its end, unless it is `/`.
    root: String,
    interrupt: Interrupt,
    pool: Pool,
    /// Directories that this process knows to survive a crash: their name in the directory above was synced.
    durable: Mutex<HashSet<String>>,
}

impl Sftp {
    /// Connects at the first call. An interrupt ends every wait, but leaves a moment for discarding what was begun.
    pub fn new(settings: SftpSettings, interrupt: Interrupt) -> Self {
        let root = match settings.path.trim_end_matches('/') {
            "" => "/".to_owned(),
            path => path.to_owned(),
        };
        let pool = Pool::new(settings.clone());
        Self(Arc::new(Inner { settings, root, interrupt, pool, durable: Mutex::default() }))
    }

    fn root(&self) -> &str {
        &self.0.root
    }

    fn interrupt(&self) -> &Interrupt {
        &self.0.interrupt
    }

    fn path(&self, key: &str) -> String {
        match (self.root(), key) {
            (root, "") => root.to_owned(),
            ("/", key) => format!("/{key}"),
            (root, key) => format!("{root}/{key}"),
        }
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pool(&self) -> &Pool {
        &self.0.pool
    }

    fn connection(&self, waiting: &Waiting) -> Attempt<Arc<Connection>> {
        self.pool().connection(waiting)
    }

    /// A connection whose server keeps what it acknowledges, as far as the settings want that.
    fn durable_connection(&self, waiting: &Waiting) -> Attempt<Arc<Connection>> {
        let connection = self.connection(waiting)?;
        if connection.can_sync() || self.0.settings.durability == Durability::IfOffered {
            return Ok(connection);
        }
        Err(Failure::Refused {
            kind: ErrorKind::Other,
            reason: "the server cannot make files durable (it does not offer fsync@openssh.com)".into(),
            hint: Some(
                "Use OpenSSH's own SFTP server there. To accept that a crash of the server may lose what was stored, set \
                 `durable = false` for this repository."
                    .into(),
            ),
        })
    }

    fn sync_either(&self, path: &str) -> Attempt<()> {
        let waiting = Waiting::either(self.interrupt());
        let connection = self.durable_connection(&waiting)?;
        let target = &self.path(path);
        let [found] = connection.ask([look_at(path, target)], &waiting)?;
        match found.attributes()?.file_type() {
            Some(FileType::Directory) => {
                self.sync_directories(&connection, target, &waiting)?;
                self.sync_directory(&connection, target, &waiting)
            }
            Some(FileType::Regular) => {
                self.sync_directories(&connection, parent(target), &waiting)?;
                self.sync_object(&connection, target, &waiting)
            }
            _ => Err(Failure::found(ErrorKind::Other, "it is neither an object nor a directory")),
        }
    }

    fn delete_file(&self, key: &str) -> Attempt<()> {
        let waiting = Waiting::either(self.interrupt());
        let connection = self.connection(&waiting)?;
        let path = self.path(key);
        let directory = parent(&path);
        let open = Request::Open { path: directory, mode: Mode::Read };
        let [removed, opened] = connection.ask([Request::Remove { path: &path }, open], &waiting)?;
        let handle = opened.handle().ok();
        match removed.done() {
            Ok(()) => {}
            Err(missing) if missing.is_status(Status::NO_SUCH_FILE) => {}
            Err(failure) => return Err(self.explain(&connection, failure, directory, 0, &waiting)),
        }
        let sync = handle.as_ref().filter(|_| connection.can_sync());
        let sync: Vec<_> = sync.into_iter().map(|handle| Request::Fsync { handle }).collect();
        // While it is open, a directory can be removed and synced as well.
        let synced = self.ask_and_remove_empty(&connection, &sync, directory, &waiting);
        if let Some(handle) = &handle {
            connection.mention(&Request::Close { handle });
        }
        synced?.into_iter().try_for_each(synced_directory)
    }
}

impl Storage for Sftp {
    fn list(&self, directory: &str) -> Result<Vec<Entry>> {
        checked(check_directory(directory))
            .and_then(|()| self.entries(directory))
            .map_err(|failure| failure.of("list", directory, self))
    }

    fn sync(&self, path: &str) -> Result<()> {
        checked(check_directory(path))
            .and_then(|()| self.sync_either(path))
            .map_err(|failure| failure.of("sync", path, self))
    }

    fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        let opened = checked(check_key(key)).and_then(|()| Download::open(self, key));
        Ok(Box::new(opened.map_err(|failure| failure.of("open", key, self))?))
    }

    fn create(&self, key: &str) -> Result<Box<dyn Upload>> {
        let created = checked(check_key(key)).and_then(|()| SftpUpload::create(self, key));
        Ok(Box::new(created.map_err(|failure| failure.of("create", key, self))?))
    }

    fn delete(&self, key: &str) -> Result<()> {
        checked(check_deletable(key))
            .and_then(|()| self.delete_file(key))
            .map_err(|failure| failure.of("delete", key, self))
    }
}

fn checked(key: std::result::Result<(), super::NotAKey>) -> Attempt<()> {
    key.map_err(|error| Failure::found(ErrorKind::Other, error.to_string()))
}

impl fmt::Display for Sftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SftpSettings { user, host, port, .. } = &self.0.settings;
        write!(f, "ssh://{user}@")?;
        match host.contains(':') {
            true => write!(f, "[{host}]")?,
            false => f.write_str(host)?,
        }
        if *port != 22 {
            write!(f, ":{port}")?;
        }
        f.write_str(self.root())
    }
}

impl fmt::Debug for Sftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sftp({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> SftpSettings {
        SftpSettings {
            user: "keeper".into(),
            host: "backup.example".into(),
            port: 22,
            path: "/srv/pg/".into(),
            key: None,
            passphrase: Some(Secret::new("hunter2".into())),
            agent: None,
            known_hosts: None,
            home: None,
            sessions: 2,
            durability: Durability::Required,
        }
    }

    #[test]
    fn it_is_named_by_its_location() {
        let name = |settings| Sftp::new(settings, Interrupt::default()).to_string();
        assert_eq!(name(settings()), "ssh://keeper@backup.example/srv/pg");
        let other = SftpSettings { host: "fd00::1".into(), port: 2222, path: "/".into(), ..settings() };
        assert_eq!(name(other), "ssh://keeper@[fd00::1]:2222/");
    }

    #[test]
    fn the_passphrase_is_never_shown() {
        assert!(!format!("{:?}", settings()).contains("hunter2"));
        assert!(!format!("{:?}", Sftp::new(settings(), Interrupt::default())).contains("hunter2"));
    }

    #[test]
    fn an_interrupted_call_says_so() {
        use std::sync::atomic::Ordering;
        let interrupt = Interrupt::default();
        interrupt.cell().store(15, Ordering::Relaxed);
        let error = Sftp::new(settings(), interrupt).open("x").err().unwrap();
        assert_eq!(error.kind, ErrorKind::Other);
        assert_eq!(error.interrupted().map(|interrupted| interrupted.signal), Some(15));
    }
}
