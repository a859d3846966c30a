//! Writing an object: a sliding window of writes on each of several connections, which share one unfinished file.
//!
//! Bytes are gathered into chunks as large as the server takes. While a chunk is under way its bytes are kept; the
//! window bounds how many. A large object is striped: each chunk goes to the session with the least under way.
//!
//! A lane is a connection with a handle of the unfinished file. When one is lost, the others send again what it had
//! under way. When the last one is lost, the file is opened anew on a new connection; what was acknowledged but is not
//! yet durable is read back and compared; and the upload goes on. As long as each connection brings it forward, that
//! happens within the call; one that was lost before anything was acknowledged fails the call as transient, and makes
//! the window and the chunks smaller, so that even a link that lives for a few kilobytes gets an upload through.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::{Error, ErrorKind, Result, UNFINISHED, Upload};
use super::Sftp;
use super::connection::{Cargo, Connection, Mailbox, Tag};
use super::failure::{Attempt, Expect, Failure};
use super::ledger::{LaneId, Ledger};
use super::packet::{Attributes, Mode, Reply, Request, Status};
use super::range::Range;
use super::tree::{ATTEMPTS, directory_handle, parent};
use super::waiting::Waiting;

/// Under way on one lane: enough for 100 MB/s over 20 ms, and as much as OpenSSH's server lets wait.
const WINDOW_BYTES_MAX: u64 = 4 << 20;
const WINDOW_BYTES_MIN: u64 = 8 << 10;

/// An object that is larger is striped over several sessions.
const STRIPE_FROM_BYTES: u64 = 8 << 20;

/// How much later a lane that could not be had is tried again.
const STRIPE_AGAIN_BYTES: u64 = 64 << 20;

/// What may have to be read back after a connection was lost.
const SYNC_EVERY_BYTES: u64 = 256 << 20;

/// How much of the content is compared when it is not known whose object it is.
pub(super) const BEGINNING_BYTES: u64 = 64 << 20;

pub struct SftpUpload {
    pub(super) storage: Sftp,
    pub(super) key: String,
    /// Paths on the server.
    pub(super) target: String,
    pub(super) unfinished: String,
    ledger: Ledger,
    /// What is gathered until it is a chunk.
    chunk: Vec<u8>,
    /// What the server takes in one packet.
    packet_bytes_max: usize,
    window_bytes: u64,
    /// Something was acknowledged since the last lane was lost.
    has_progress: bool,
    /// With what is in `chunk`.
    pub(super) size_bytes: u64,
    /// Of the first [`BEGINNING_BYTES`].
    pub(super) beginning_crc: u32,
    lanes: Vec<Lane>,
    next_lane: LaneId,
    stripe_at_bytes: u64,
    mailbox: Mailbox,
    asked: HashMap<Tag, Asked>,
    next_tag: Tag,
    withdrawn: Arc<AtomicBool>,
    pub(super) stage: Stage,
    pub(super) written: Written,
    /// What ended the upload for good.
    failure: Option<Failure>,
}

struct Lane {
    id: LaneId,
    connection: Arc<Connection>,
    handle: Vec<u8>,
    under_way_bytes: u64,
    /// Sent since the last sync on this lane.
    unsynced_bytes: u64,
}

struct Asked {
    lane: LaneId,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Write { offset: u64, length: u32 },
    Sync,
    Close,
    Stat,
    OpenDirectory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Writing,
    /// All is durable under the unfinished name.
    Written,
    /// A rename was sent whose outcome is not known.
    Unsure,
    Published,
}

/// What is known once all is written.
#[derive(Default)]
pub(super) struct Written {
    pub connection: Option<Arc<Connection>>,
    pub modified_at: Option<u32>,
    /// Of the directory, on that connection; the inner `None`: it cannot be opened.
    pub directory: Option<Option<Vec<u8>>>,
}

impl SftpUpload {
    pub fn create(storage: &Sftp, key: &str) -> Attempt<Self> {
        let waiting = Waiting::new(storage.interrupt());
        let connection = storage.durable_connection(&waiting)?;
        let target = storage.path(key);
        let unfinished = format!("{target}.{:08x}{UNFINISHED}", RandomState::new().hash_one(0) as u32);
        let handle = create_file(storage, &connection, &unfinished, &waiting).inspect_err(|_| {
            storage.discard(&unfinished, &target, Some(&connection));
        })?;
        let mut upload = Self {
            storage: storage.clone(),
            key: key.to_owned(),
            target,
            unfinished,
            ledger: Ledger::default(),
            chunk: Vec::new(),
            packet_bytes_max: connection.write_bytes_max(),
            window_bytes: WINDOW_BYTES_MAX,
            has_progress: false,
            size_bytes: 0,
            beginning_crc: 0,
            lanes: Vec::new(),
            next_lane: 0,
            stripe_at_bytes: STRIPE_FROM_BYTES,
            mailbox: Mailbox::default(),
            asked: HashMap::new(),
            next_tag: 0,
            withdrawn: Arc::default(),
            stage: Stage::Writing,
            written: Written::default(),
            failure: None,
        };
        upload.add_lane(connection, handle);
        Ok(upload)
    }

    fn add_lane(&mut self, connection: Arc<Connection>, handle: Vec<u8>) {
        self.next_lane += 1;
        // So that two lanes do not wait for the disk at the same time.
        let unsynced_bytes = if self.lanes.len() % 2 == 1 { SYNC_EVERY_BYTES / 2 } else { 0 };
        self.lanes.push(Lane { id: self.next_lane, connection, handle, under_way_bytes: 0, unsynced_bytes });
    }

    /// What ended it for good stays with it.
    fn failed(&mut self, verb: &'static str, failure: Failure) -> Error {
        if !failure.is_lost() {
            self.failure = Some(failure.clone());
        }
        failure.of(verb, &self.key, &self.storage)
    }

    fn take(&mut self, bytes: &[u8]) -> Attempt<usize> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.stage != Stage::Writing {
            return Err(Failure::found(ErrorKind::Other, "it is being committed"));
        }
        let mut waiting = Waiting::new(self.storage.interrupt());
        waiting.check()?;
        self.persist(&mut waiting, Self::make_room)?;
        let room = self.chunk_bytes_max().saturating_sub(self.chunk.len()).max(1);
        self.chunk.reserve_exact(room);
        let taken = bytes.len().min(room);
        self.chunk.extend_from_slice(&bytes[..taken]);
        self.size_bytes += taken as u64;
        if self.chunk.len() >= self.chunk_bytes_max() {
            self.seal();
            // The bytes are taken: what fails here fails again at the next call, which may say so.
            let _ = self.submit(&mut waiting);
        }
        Ok(taken)
    }

    fn chunk_bytes_max(&self) -> usize {
        self.packet_bytes_max.min(self.window_bytes as usize)
    }

    /// Repeats `step` after a loss as long as there was progress before it. Each chunk is acknowledged once, so that
    /// ends.
    fn persist(
        &mut self,
        waiting: &mut Waiting,
        mut step: impl FnMut(&mut Self, &mut Waiting) -> Attempt<()>,
    ) -> Attempt<()> {
        loop {
            match step(self, waiting) {
                Err(failure) if failure.is_lost() => {
                    if !std::mem::take(&mut self.has_progress) {
                        self.window_bytes = (self.window_bytes / 4).max(WINDOW_BYTES_MIN);
                        self.ledger.split(self.chunk_bytes_max());
                        return Err(failure);
                    }
                    tracing::debug!("{} goes on by another connection: {failure}", self.unfinished);
                }
                outcome => return outcome,
            }
        }
    }

    /// Makes a chunk of what was gathered.
    fn seal(&mut self) {
        if self.chunk.is_empty() {
            return;
        }
        let data = std::mem::take(&mut self.chunk);
        let offset = self.size_bytes - data.len() as u64;
        let of_beginning = BEGINNING_BYTES.saturating_sub(offset).min(data.len() as u64) as usize;
        self.beginning_crc = crc32c::crc32c_append(self.beginning_crc, &data[..of_beginning]);
        self.ledger.add(offset, data);
    }

    /// Returns when every chunk is under way.
    fn make_room(&mut self, waiting: &mut Waiting) -> Attempt<()> {
        while let Some((tag, reply)) = self.mailbox.try_next() {
            self.sort(tag, reply, waiting)?;
        }
        if self.lanes.is_empty() {
            self.reopen(waiting)?;
        } else if self.size_bytes >= self.stripe_at_bytes {
            self.stripe(waiting);
        }
        loop {
            self.submit(waiting)?;
            if !self.ledger.has_unsent() {
                return Ok(());
            }
            let (tag, reply) = self.mailbox.next(waiting)?;
            self.sort(tag, reply, waiting)?;
        }
    }

    /// Sends as many chunks as the windows have room for.
    fn submit(&mut self, waiting: &mut Waiting) -> Attempt<()> {
        while let Some((offset, data)) = self.ledger.unsent() {
            let length = data.len() as u32;
            let has_room = |lane: &&Lane| {
                lane.under_way_bytes == 0 || lane.under_way_bytes + u64::from(length) <= self.window_bytes
            };
            let roomiest = self.lanes.iter().filter(has_room).min_by_key(|lane| lane.under_way_bytes);
            let Some(id) = roomiest.map(|lane| lane.id) else { return Ok(()) };
            if !self.send(id, What::Write { offset, length }, Some(data), waiting)? {
                continue;
            }
            self.ledger.sent(offset, id);
            let lane = self.lanes.iter_mut().find(|lane| lane.id == id).expect("it is there: it was sent on");
            lane.under_way_bytes += u64::from(length);
            lane.unsynced_bytes += u64::from(length);
            if lane.unsynced_bytes >= SYNC_EVERY_BYTES && lane.connection.can_sync() {
                lane.unsynced_bytes = 0;
                self.send(id, What::Sync, None, waiting)?;
            }
        }
        Ok(())
    }

    /// Whether it was sent: if not, the lane is lost, but not the last one.
    fn send(
        &mut self,
        id: LaneId,
        what: What,
        data: Option<Arc<Vec<u8>>>,
        waiting: &mut Waiting,
    ) -> Attempt<bool> {
        let Some(lane) = self.lanes.iter().find(|lane| lane.id == id) else { return Ok(false) };
        let handle = &lane.handle;
        let request = match what {
            What::Write { offset, length } => Request::Write { handle, offset, length },
            What::Sync => Request::Fsync { handle },
            What::Close => Request::Close { handle },
            What::Stat => Request::Lstat { path: &self.unfinished },
            What::OpenDirectory => Request::Open { path: parent(&self.target), mode: Mode::Read },
        };
        self.next_tag += 1;
        let tag = self.next_tag;
        let cargo = Cargo { data, withdrawn: Some(Arc::clone(&self.withdrawn)) };
        match lane.connection.send(&request, cargo, &self.mailbox, tag, waiting) {
            Ok(()) => {}
            Err(failure) if failure.is_lost() => {
                self.lose(id, failure)?;
                return Ok(false);
            }
            Err(failure) => return Err(failure),
        }
        self.asked.insert(tag, Asked { lane: id, what });
        if let What::Sync = what {
            self.ledger.sync_begins(id, tag);
        }
        Ok(true)
    }

    /// Takes a lane out. Fails if it was the last one.
    fn lose(&mut self, id: LaneId, failure: Failure) -> Attempt<()> {
        self.lanes.retain(|lane| lane.id != id);
        self.asked.retain(|_, asked| asked.lane != id);
        self.ledger.lost(id);
        if self.lanes.is_empty() { Err(failure) } else { Ok(()) }
    }

    /// Takes note of a reply.
    fn sort(&mut self, tag: Tag, reply: Attempt<Reply>, waiting: &Waiting) -> Attempt<()> {
        // Of a lane that was lost, nothing counts any more.
        let Some(Asked { lane: id, what }) = self.asked.remove(&tag) else { return Ok(()) };
        let reply = match reply {
            Ok(reply) => reply,
            Err(failure) if failure.is_lost() => return self.lose(id, failure),
            Err(failure) => return Err(failure),
        };
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == id) else { return Ok(()) };
        match what {
            What::Write { offset, length } => {
                lane.under_way_bytes -= u64::from(length);
                let connection = Arc::clone(&lane.connection);
                match reply.done() {
                    Ok(()) => self.acknowledged(offset, length, &connection),
                    Err(failure) => {
                        let (path, length) = (parent(&self.target), u64::from(length));
                        return Err(self.storage.explain(&connection, failure, path, length, waiting));
                    }
                }
            }
            What::Sync => {
                let connection = Arc::clone(&lane.connection);
                match reply.done() {
                    Ok(()) => self.ledger.synced(id, tag),
                    Err(failure) => {
                        let path = parent(&self.target);
                        return Err(self.storage.explain(&connection, failure, path, 0, waiting));
                    }
                }
            }
            What::Close => reply.done()?,
            What::Stat => self.note_attributes(reply.attributes())?,
            What::OpenDirectory => {
                self.written.directory = Some(directory_handle(parent(&self.target), reply)?);
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, offset: u64, length: u32, connection: &Connection) {
        self.has_progress = true;
        self.window_bytes = (self.window_bytes + u64::from(length)).min(WINDOW_BYTES_MAX);
        match connection.can_sync() {
            true => self.ledger.acknowledged(offset),
            false => self.ledger.forget(offset),
        }
    }

    /// Of the unfinished file, when all is written.
    pub(super) fn note_attributes(&mut self, found: Attempt<Attributes>) -> Attempt<()> {
        let found = found.map_err(deleted)?;
        if found.size_bytes != Some(self.size_bytes) {
            let has = found.size_bytes.unwrap_or_default();
            let reason = format!("the server has {has} bytes of it, expected {}", self.size_bytes);
            return Err(Failure::found(ErrorKind::Other, reason));
        }
        self.written.modified_at = found.modified_at;
        Ok(())
    }

    /// After the last lane was lost: a new one, that continues where the old ones ended.
    fn reopen(&mut self, waiting: &Waiting) -> Attempt<()> {
        let connection = self.storage.durable_connection(waiting)?;
        let open = Request::Open { path: &self.unfinished, mode: Mode::Update };
        let handle = connection.handle(open, waiting).map_err(deleted)?;
        self.prove(&connection, waiting)?;
        self.stripe_at_bytes = self.stripe_at_bytes.max(self.size_bytes);
        self.add_lane(connection, handle);
        Ok(())
    }

    /// Compares what the server has with what it had acknowledged before the connection was lost.
    fn prove(&self, connection: &Arc<Connection>, waiting: &Waiting) -> Attempt<()> {
        let unproven = self.ledger.unproven();
        let (Some(first), Some(last)) = (unproven.first(), unproven.last()) else { return Ok(()) };
        let open = Request::Open { path: &self.unfinished, mode: Mode::Read };
        let handle = connection.handle(open, waiting).map_err(deleted)?;
        let end = last.offset + u64::from(last.length);
        let mut range = Range::new(Arc::clone(connection), handle, first.offset, end, waiting)?;
        let mut at = first.offset;
        for chunk in unproven {
            // What lies between was not acknowledged, and will be sent again.
            digest(&mut range, chunk.offset - at, waiting)?;
            at = chunk.offset + u64::from(chunk.length);
            if digest(&mut range, chunk.length.into(), waiting)? != chunk.crc {
                let reason = format!(
                    "the server has lost what it had acknowledged: bytes {} to {at} are not what was sent",
                    chunk.offset
                );
                return Err(Failure::found(ErrorKind::Other, reason));
            }
        }
        Ok(())
    }

    /// Takes further sessions in, as far as they can be had.
    fn stripe(&mut self, waiting: &Waiting) {
        self.stripe_at_bytes = self.size_bytes + STRIPE_AGAIN_BYTES;
        while self.lanes.len() < self.storage.pool().sessions_max() {
            let taken: Vec<_> = self.lanes.iter().map(|lane| Arc::clone(&lane.connection)).collect();
            let Some(connection) = self.storage.pool().another(&taken, waiting) else { return };
            let open = Request::Open { path: &self.unfinished, mode: Mode::Update };
            match connection.handle(open, waiting) {
                Ok(handle) => self.add_lane(connection, handle),
                Err(failure) => {
                    tracing::debug!("{} is not striped: {failure}", self.unfinished);
                    return;
                }
            }
        }
    }

    /// Sends the rest and makes all durable: one round trip for a small object.
    fn write_out(&mut self, waiting: &mut Waiting) -> Attempt<()> {
        self.seal();
        self.make_room(waiting)?;
        let lanes: Vec<_> = self.lanes.iter().map(|lane| lane.id).collect();
        if let Err(failure) = self.sync_lanes(&lanes, waiting) {
            if failure.is_lost() {
                // The handles of the others may be closed: whatever is not durable begins anew.
                lanes.into_iter().for_each(|lane| drop(self.lose(lane, failure.clone())));
            }
            return Err(failure);
        }
        assert!(self.ledger.is_empty(), "every chunk was covered by a sync that was answered");
        self.written.connection = self.lanes.first().map(|lane| Arc::clone(&lane.connection));
        self.lanes.clear();
        self.stage = Stage::Written;
        Ok(())
    }

    fn sync_lanes(&mut self, lanes: &[LaneId], waiting: &mut Waiting) -> Attempt<()> {
        let lost = || Failure::lost("one of the connections was lost");
        for &id in lanes {
            let lane = self.lanes.iter().find(|lane| lane.id == id).ok_or_else(lost)?;
            let mut steps = Vec::new();
            if lane.connection.can_sync() {
                steps.push(What::Sync);
            }
            steps.push(What::Close);
            if lanes.len() == 1 {
                // In order behind the writes, so what it finds is what they left.
                steps.push(What::Stat);
                if lane.connection.can_sync() {
                    steps.push(What::OpenDirectory);
                }
            }
            for step in steps {
                if !self.send(id, step, None, waiting)? {
                    return Err(lost());
                }
            }
        }
        while !self.asked.is_empty() {
            let (tag, reply) = self.mailbox.next(waiting)?;
            self.sort(tag, reply, waiting)?;
            if self.lanes.len() < lanes.len() {
                return Err(lost());
            }
        }
        Ok(())
    }

    fn commit_all(&mut self) -> Attempt<()> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut waiting = Waiting::new(self.storage.interrupt());
        waiting.check()?;
        match self.stage {
            Stage::Writing => self.persist(&mut waiting, Self::write_out)?,
            Stage::Written | Stage::Unsure => {}
            Stage::Published => return Err(Failure::found(ErrorKind::Other, "it was committed before")),
        }
        self.publish(&waiting)
    }
}

impl Write for SftpUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes).map_err(|failure| self.failed("write", failure).into())
    }

    /// Nothing to do: small writes are gathered until the commit.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for SftpUpload {
    fn commit(&mut self) -> Result<()> {
        self.commit_all().map_err(|failure| self.failed("commit", failure))
    }
}

impl Drop for SftpUpload {
    fn drop(&mut self) {
        self.withdrawn.store(true, Ordering::Relaxed);
        let connection = self.lanes.first().map(|lane| &lane.connection).or(self.written.connection.as_ref());
        if self.stage != Stage::Published {
            self.storage.discard(&self.unfinished, &self.target, connection);
        }
        // Waited for: the space of a file is free when the last session has closed it.
        for lane in &self.lanes {
            let _ = lane.connection.ask([Request::Close { handle: &lane.handle }], &Waiting::cleanup());
        }
        if let (Some(connection), Some(Some(handle))) = (&self.written.connection, &self.written.directory) {
            connection.mention(&Request::Close { handle });
        }
    }
}

impl Sftp {
    /// Removes an upload that is not wanted, with the directories that it leaves empty. Best effort, and soon over:
    /// without a connection it is left to the next one, if there is any, and else to `prune`.
    fn discard(&self, unfinished: &str, target: &str, connection: Option<&Arc<Connection>>) {
        let waiting = Waiting::cleanup();
        let alive = connection.filter(|connection| !connection.is_lost()).cloned();
        let Some(connection) = alive.or_else(|| self.pool().alive().into_iter().next()) else {
            return self.pool().leave_behind(unfinished.to_owned());
        };
        match connection.ask([Request::Remove { path: unfinished }], &waiting) {
            Ok(_) => self.remove_empty(&connection, parent(target), &waiting),
            Err(_) => self.pool().leave_behind(unfinished.to_owned()),
        }
    }
}

/// Makes a new file, and the directories above it as they are found missing.
fn create_file(storage: &Sftp, connection: &Connection, path: &str, waiting: &Waiting) -> Attempt<Vec<u8>> {
    let create = Request::Open { path, mode: Mode::CreateNew };
    for _ in 0..ATTEMPTS {
        match connection.handle(create, waiting) {
            Err(missing) if missing.is_status(Status::NO_SUCH_FILE) => {
                storage.make_directory(connection, parent(path), waiting)?;
            }
            Err(failure) => return Err(storage.explain(connection, failure, parent(path), 0, waiting)),
            Ok(handle) => return Ok(handle),
        }
    }
    Err(Failure::found(ErrorKind::Other, "another process removes its directory again and again"))
}

fn deleted(failure: Failure) -> Failure {
    match failure.is_status(Status::NO_SUCH_FILE) {
        true => Failure::found(ErrorKind::Other, "its unfinished file was deleted meanwhile"),
        false => failure,
    }
}

/// CRC-32C of the next `length` bytes.
pub(super) fn digest(range: &mut Range, length: u64, waiting: &Waiting) -> Attempt<u32> {
    let (mut crc, mut left) = (0, length);
    while left > 0 {
        let piece = range.next(waiting)?;
        if piece.is_empty() {
            return Err(Failure::found(ErrorKind::Other, "it is shorter than what was written of it"));
        }
        let count = (piece.len() as u64).min(left) as usize;
        crc = crc32c::crc32c_append(crc, &piece[..count]);
        range.take(count);
        left -= count as u64;
    }
    Ok(crc)
}
