//! The last step of an upload: its name, which never replaces another.
//!
//! The rename and the sync of its directory go out together. When the connection is lost before the reply, nobody
//! knows whether the rename was carried out, or still will be: the server's old process may come to it late. So from
//! then on what is there decides, and a refusal counts only after a look at the object in the way: it is ours if it
//! has our size and our time of modification, and begins as we did.

use std::sync::Arc;

use super::super::ErrorKind;
use super::connection::Connection;
use super::failure::{Attempt, Expect, Failure};
use super::packet::{Attributes, FileType, Mode, Request, Status};
use super::range::Range;
use super::tree::{ATTEMPTS, directory_handle, parent, synced_directory};
use super::upload::{BEGINNING_BYTES, SftpUpload, Stage, digest};
use super::waiting::Waiting;

/// What is under the name that we want.
enum Found {
    Nothing,
    Ours,
    Other,
}

impl SftpUpload {
    pub(super) fn publish(&mut self, waiting: &Waiting) -> Attempt<()> {
        let connection = self.publishing_connection(waiting)?;
        if self.written.modified_at.is_none() {
            let [found] = connection.ask([Request::Lstat { path: &self.unfinished }], waiting)?;
            self.note_attributes(found.attributes())?;
        }
        let directory = parent(&self.target).to_owned();
        self.storage.sync_directories(&connection, &directory, waiting)?;
        for _ in 0..ATTEMPTS {
            if self.stage == Stage::Unsure {
                match self.look(&connection, waiting)? {
                    Found::Ours => return self.finish(&connection, waiting),
                    Found::Other => self.clash(&connection, waiting)?,
                    Found::Nothing => {}
                }
            }
            if self.rename(&connection, waiting)? {
                self.stage = Stage::Published;
                return Ok(());
            }
        }
        Err(Failure::found(ErrorKind::Other, "another process deletes and makes it again and again"))
    }

    fn publishing_connection(&mut self, waiting: &Waiting) -> Attempt<Arc<Connection>> {
        if let Some(connection) = self.written.connection.as_ref().filter(|connection| !connection.is_lost())
        {
            return Ok(Arc::clone(connection));
        }
        let connection = self.storage.durable_connection(waiting)?;
        self.written.directory = None;
        self.written.connection = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Whether it is published; if not, what was in the way is gone.
    fn rename(&mut self, connection: &Connection, waiting: &Waiting) -> Attempt<bool> {
        let directory = self.directory(connection, waiting)?;
        if !connection.can_sync() && self.target_is_taken(connection, waiting)? {
            self.clash(connection, waiting)?;
            return Ok(false);
        }
        let was_sure = self.stage != Stage::Unsure;
        self.stage = Stage::Unsure;
        let mut requests = vec![Request::Rename { from: &self.unfinished, to: &self.target }];
        requests.extend(directory.as_ref().map(|handle| Request::Fsync { handle }));
        let mut replies = connection.ask_all(&requests, waiting)?.into_iter();
        let renamed = replies.next().expect("there is a reply to each request").done();
        let Err(failure) = renamed else {
            replies.try_for_each(synced_directory)?;
            return Ok(true);
        };
        if !was_sure {
            // Perhaps the earlier one was carried out: look again.
            let may_be_done =
                [Status::FAILURE, Status::NO_SUCH_FILE].iter().any(|code| failure.is_status(*code));
            return if may_be_done { Ok(false) } else { Err(failure) };
        }
        self.stage = Stage::Written;
        if failure.is_status(Status::NO_SUCH_FILE) {
            return Err(self.vanished());
        }
        if self.target_is_taken(connection, waiting)? {
            self.clash(connection, waiting)?;
            return Ok(false);
        }
        let directory = parent(&self.target);
        match self.storage.explain(connection, failure, directory, 0, waiting) {
            // What was in the way is gone, or the server has reasons that it does not tell.
            failure if failure.is_status(Status::FAILURE) => Ok(false),
            failure => Err(failure),
        }
    }

    /// The handle that makes the name durable; `None` where there is none to be had.
    fn directory(&mut self, connection: &Connection, waiting: &Waiting) -> Attempt<Option<Vec<u8>>> {
        if !connection.can_sync() {
            return Ok(None);
        }
        if self.written.directory.is_none() {
            let path = parent(&self.target);
            let [opened] = connection.ask([Request::Open { path, mode: Mode::Read }], waiting)?;
            self.written.directory = Some(directory_handle(path, opened)?);
        }
        Ok(self.written.directory.clone().flatten())
    }

    fn target_is_taken(&self, connection: &Connection, waiting: &Waiting) -> Attempt<bool> {
        let [found] = connection.ask([Request::Lstat { path: &self.target }], waiting)?;
        match found.attributes() {
            Ok(_) => Ok(true),
            Err(missing) if missing.is_status(Status::NO_SUCH_FILE) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// After a rename whose outcome is not known. The unfinished name is looked at first: a rename that is carried out
    /// between both looks shows both, never neither.
    fn look(&self, connection: &Arc<Connection>, waiting: &Waiting) -> Attempt<Found> {
        let looks = [Request::Lstat { path: &self.unfinished }, Request::Lstat { path: &self.target }];
        let [unfinished, target] = connection.ask(looks, waiting)?;
        let missing_is_none = |found: Attempt<Attributes>| match found {
            Err(missing) if missing.is_status(Status::NO_SUCH_FILE) => Ok(None),
            found => found.map(Some),
        };
        let unfinished = missing_is_none(unfinished.attributes())?;
        match missing_is_none(target.attributes())? {
            None if unfinished.is_none() => Err(self.vanished()),
            None => Ok(Found::Nothing),
            Some(target) if self.is_ours(&target, connection, waiting)? => Ok(Found::Ours),
            Some(_) => Ok(Found::Other),
        }
    }

    fn is_ours(&self, found: &Attributes, connection: &Arc<Connection>, waiting: &Waiting) -> Attempt<bool> {
        if found.file_type() != Some(FileType::Regular)
            || found.size_bytes != Some(self.size_bytes)
            || found.modified_at != self.written.modified_at
        {
            return Ok(false);
        }
        let open = Request::Open { path: &self.target, mode: Mode::Read };
        let handle = connection.handle(open, waiting)?;
        let length = self.size_bytes.min(BEGINNING_BYTES);
        let mut range = Range::new(Arc::clone(connection), handle, 0, length, waiting)?;
        Ok(digest(&mut range, length, waiting)? == self.beginning_crc)
    }

    /// The rename had been carried out, perhaps in part.
    fn finish(&mut self, connection: &Connection, waiting: &Waiting) -> Attempt<()> {
        let [removed] = connection.ask([Request::Remove { path: &self.unfinished }], waiting)?;
        match removed.done() {
            Err(missing) if missing.is_status(Status::NO_SUCH_FILE) => {}
            removed => removed?,
        }
        self.storage.sync_directory(connection, parent(&self.target), waiting)?;
        self.stage = Stage::Published;
        Ok(())
    }

    /// The name is taken: fails, after making the older object durable. Succeeds if that is gone by now.
    fn clash(&self, connection: &Connection, waiting: &Waiting) -> Attempt<()> {
        match self.storage.sync_object(connection, &self.target, waiting) {
            Err(missing) if missing.is_status(Status::NO_SUCH_FILE) => return Ok(()),
            synced => synced?,
        }
        Err(Failure::found(ErrorKind::AlreadyExists, "there already is such an object"))
    }

    fn vanished(&self) -> Failure {
        Failure::found(ErrorKind::Other, "its unfinished file was deleted meanwhile")
    }
}
