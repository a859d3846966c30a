//! The directories of a repository: made when an upload needs them, made durable before it counts, removed when empty.
//!
//! Nothing holds a directory between two requests, so another process, or a session of this one, may remove it just
//! after it was made. Whoever then finds it missing makes it again. An unfinished file keeps its directory.

use super::super::ErrorKind;
use super::Sftp;
use super::connection::Connection;
use super::failure::{Attempt, Expect, Failure};
use super::packet::{FileType, Mode, Reply, Request, Status};
use super::waiting::Waiting;

/// How often to begin again when another removes a directory, or an object, just as it is needed.
pub const ATTEMPTS: u32 = 100;

/// The directory that holds `path`; of `/`, it is that itself.
pub fn parent(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(slash) => &path[..slash],
    }
}

/// `directory` and those above it, up to and with `root`.
fn up_to_root<'a>(directory: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    let mut next = Some(directory);
    std::iter::from_fn(move || {
        let directory = next?;
        next = (directory != root).then(|| parent(directory));
        Some(directory)
    })
}

impl Sftp {
    /// Makes `directory` and those above it up to the root, as far as they are missing. It may be gone again by the
    /// time this returns, as a concurrent delete removes what is empty.
    pub(super) fn make_directory(
        &self,
        connection: &Connection,
        directory: &str,
        waiting: &Waiting,
    ) -> Attempt<()> {
        match self.make_one(connection, directory, waiting) {
            Err(missing) if missing.is_status(Status::NO_SUCH_FILE) && directory != self.root() => {
                self.make_directory(connection, parent(directory), waiting)?;
                match self.make_one(connection, directory, waiting) {
                    // Another removed the one above it meanwhile: whoever needs it will see.
                    Err(missing) if missing.is_status(Status::NO_SUCH_FILE) => Ok(()),
                    made => made,
                }
            }
            made => made,
        }
    }

    fn make_one(&self, connection: &Connection, directory: &str, waiting: &Waiting) -> Attempt<()> {
        self.durable().remove(directory);
        let [made, found] = connection
            .ask([Request::MakeDirectory { path: directory }, Request::Stat { path: directory }], waiting)?;
        let Err(failure) = made.done() else { return Ok(()) };
        // All that version 3 says of one that is there already is "failure".
        match found.attributes() {
            Ok(found) if found.file_type() == Some(FileType::Directory) => Ok(()),
            Ok(_) => Err(Failure::found(ErrorKind::Other, format!("{directory} is not a directory"))),
            Err(_) => Err(self.explain(connection, failure, parent(directory), 0, waiting)),
        }
    }

    /// Makes `directory` and those above it durable, up to the root. Each is synced once in a process.
    pub(super) fn sync_directories(
        &self,
        connection: &Connection,
        directory: &str,
        waiting: &Waiting,
    ) -> Attempt<()> {
        let unsynced: Vec<_> = {
            let durable = self.durable();
            up_to_root(directory, self.root()).filter(|directory| !durable.contains(*directory)).collect()
        };
        if unsynced.is_empty() || !connection.can_sync() {
            return Ok(());
        }
        let opens: Vec<_> = unsynced
            .iter()
            .map(|directory| Request::Open { path: parent(directory), mode: Mode::Read })
            .collect();
        let replies = connection.ask_all(&opens, waiting)?;
        let mut handles = Vec::new();
        for (directory, reply) in unsynced.iter().zip(replies) {
            handles.extend(directory_handle(parent(directory), reply)?);
        }
        sync_and_close(connection, &handles, waiting)?;
        self.durable().extend(unsynced.into_iter().map(str::to_owned));
        Ok(())
    }

    /// Makes durable which names are in `directory`.
    pub(super) fn sync_directory(
        &self,
        connection: &Connection,
        directory: &str,
        waiting: &Waiting,
    ) -> Attempt<()> {
        if !connection.can_sync() {
            return Ok(());
        }
        let [opened] = connection.ask([Request::Open { path: directory, mode: Mode::Read }], waiting)?;
        match directory_handle(directory, opened)? {
            Some(handle) => sync_and_close(connection, &[handle], waiting),
            None => Ok(()),
        }
    }

    /// Makes an object durable. Whoever published it has done this, unless it was killed, or copied it there by hand.
    pub(super) fn sync_object(&self, connection: &Connection, path: &str, waiting: &Waiting) -> Attempt<()> {
        if !connection.can_sync() {
            return Ok(());
        }
        let handle = connection.handle(Request::Open { path, mode: Mode::Read }, waiting)?;
        let requests = [Request::Fsync { handle: &handle }, Request::Close { handle: &handle }];
        let [synced, _] = connection.ask(requests, waiting)?;
        synced.done()?;
        self.sync_directory(connection, parent(path), waiting)
    }

    /// Removes `directory` and those above it, below the root, as far as they are empty: in one round trip, as each
    /// that is not empty refuses by itself.
    ///
    /// Best effort: an empty directory does no harm, and the next delete in it tries again. An upload that begins
    /// meanwhile either keeps the directory by its unfinished file or makes it again.
    pub(super) fn remove_empty(&self, connection: &Connection, directory: &str, waiting: &Waiting) {
        let _ = self.ask_and_remove_empty(connection, &[], directory, waiting);
    }

    /// The same, with other requests before it; returns the replies to those.
    pub(super) fn ask_and_remove_empty(
        &self,
        connection: &Connection,
        before: &[Request<'_>],
        directory: &str,
        waiting: &Waiting,
    ) -> Attempt<Vec<Reply>> {
        let root = self.root();
        let directories: Vec<_> =
            up_to_root(directory, root).filter(|directory| *directory != root).collect();
        let mut requests = before.to_owned();
        requests.extend(directories.iter().map(|directory| Request::RemoveDirectory { path: directory }));
        // Before and after, lest one that takes the name meanwhile be taken for the one that is known to be durable.
        let forget = || self.durable().retain(|known| !directories.contains(&known.as_str()));
        forget();
        let replies = connection.ask_all(&requests, waiting);
        forget();
        replies.map(|mut replies| {
            replies.truncate(before.len());
            replies
        })
    }

    /// Finds out what the server means by "failure": `path` needs `needed_bytes` of room, or a new file.
    pub(super) fn explain(
        &self,
        connection: &Connection,
        failure: Failure,
        path: &str,
        needed_bytes: u64,
        waiting: &Waiting,
    ) -> Failure {
        if !failure.is_status(Status::FAILURE) {
            return failure;
        }
        match connection.file_system(path, waiting) {
            Some(disk) if disk.is_read_only => {
                Failure::found(ErrorKind::Denied, "the file system on the server is read-only")
            }
            Some(disk) if disk.available_bytes <= needed_bytes || disk.available_files == Some(0) => {
                Failure::found(
                    ErrorKind::NoSpace,
                    format!("the disk on the server is full ({} bytes are free)", disk.available_bytes),
                )
            }
            _ => failure,
        }
    }
}

/// The handle of a directory that was opened to be synced; `None` where that is not to be had: the one that holds the
/// root may not be readable to us, and some servers open no directories. Whoever made it did sync it, or cannot.
pub fn directory_handle(directory: &str, reply: Reply) -> Attempt<Option<Vec<u8>>> {
    match reply.handle() {
        Ok(handle) => Ok(Some(handle)),
        Err(Failure::Status(status)) if status.code != Status::NO_SUCH_FILE => {
            tracing::debug!("{directory} cannot be opened to make its names durable: {status}");
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Whether a directory's names are durable, by the reply to its sync. A server whose file system cannot sync
/// directories says "bad message" (for EINVAL); PostgreSQL itself carries on there, too.
pub fn synced_directory(reply: Reply) -> Attempt<()> {
    match reply.done() {
        Err(Failure::Status(status)) if [Status::BAD_MESSAGE, Status::UNSUPPORTED].contains(&status.code) => {
            tracing::debug!("the server cannot make a directory's names durable: {status}");
            Ok(())
        }
        synced => synced,
    }
}

fn sync_and_close(connection: &Connection, handles: &[Vec<u8>], waiting: &Waiting) -> Attempt<()> {
    let requests: Vec<_> = handles.iter().map(|handle| Request::Fsync { handle }).collect();
    let replies = connection.ask_all(&requests, waiting)?;
    for handle in handles {
        connection.mention(&Request::Close { handle });
    }
    replies.into_iter().try_for_each(synced_directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_up_ends_at_the_root() {
        let up = |directory, root| up_to_root(directory, root).collect::<Vec<_>>();
        assert_eq!(up("/r/a/b", "/r"), ["/r/a/b", "/r/a", "/r"]);
        assert_eq!(up("/r", "/r"), ["/r"]);
        assert_eq!(up("/a", "/"), ["/a", "/"]);
        assert_eq!((parent("/r"), parent("/"), parent("/r/a")), ("/", "/", "/r"));
    }

    #[test]
    fn a_directory_that_cannot_be_opened_is_passed_over_but_a_missing_one_is_not() {
        let status = |code| Reply::Status(Status { code, message: String::new() });
        assert!(matches!(directory_handle("/", status(Status::PERMISSION_DENIED)), Ok(None)));
        assert!(matches!(directory_handle("/", status(Status::FAILURE)), Ok(None)));
        assert!(directory_handle("/", status(Status::NO_SUCH_FILE)).is_err());
        assert!(synced_directory(status(Status::OK)).is_ok());
        assert!(synced_directory(status(Status::BAD_MESSAGE)).is_ok());
        assert!(synced_directory(status(Status::FAILURE)).is_err(), "it may be the disk");
    }
}
