//! Reading a file ahead: several requests are under way, and the bytes come out in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::ErrorKind;
use super::connection::{Cargo, Connection, Mailbox, Tag};
use super::failure::{Attempt, Failure, unexpected};
use super::packet::{Data, Malformed, Reply, Request, Status};
use super::waiting::Waiting;

/// Asked for, or arrived and not yet taken.
const WINDOW_BYTES: u64 = 4 << 20;

/// The bytes of an open file from one offset to another. Dropping it closes the file, without waiting.
pub struct Range {
    connection: Arc<Connection>,
    handle: Vec<u8>,
    mailbox: Mailbox,
    withdrawn: Arc<AtomicBool>,
    /// By tag, what was asked for.
    asked: HashMap<Tag, (u64, u32)>,
    arrived: BTreeMap<u64, Data>,
    next_tag: Tag,
    /// Where the next request begins.
    ask_at: u64,
    /// Where the next byte comes from that is taken.
    take_at: u64,
    /// How much of the first arrived piece was taken.
    taken: usize,
    end: u64,
}

impl Range {
    /// Begins to read at once.
    pub fn new(
        connection: Arc<Connection>,
        handle: Vec<u8>,
        start: u64,
        end: u64,
        waiting: &Waiting,
    ) -> Attempt<Self> {
        let mut range = Self {
            connection,
            handle,
            mailbox: Mailbox::default(),
            withdrawn: Arc::default(),
            asked: HashMap::new(),
            arrived: BTreeMap::new(),
            next_tag: 0,
            ask_at: start,
            take_at: start,
            taken: 0,
            end,
        };
        range.ask_ahead(&mut waiting.clone())?;
        Ok(range)
    }

    /// What comes next, as far as it has come in one piece; empty at the end.
    pub fn next(&mut self, waiting: &Waiting) -> Attempt<&[u8]> {
        let mut waiting = waiting.clone();
        while self.take_at < self.end && !self.arrived.contains_key(&self.piece_at()) {
            self.ask_ahead(&mut waiting)?;
            let (tag, reply) = self.mailbox.next(&mut waiting)?;
            self.arrive(tag, reply?, &mut waiting)?;
        }
        let piece = self.arrived.get(&self.piece_at());
        Ok(piece.map_or(&[][..], |data| &data.bytes()[self.taken..]))
    }

    /// Takes note that so many bytes of the piece that comes next were used.
    pub fn take(&mut self, count: usize) {
        let piece_at = self.piece_at();
        self.taken += count;
        self.take_at += count as u64;
        if self.arrived.get(&piece_at).is_some_and(|data| data.bytes().len() == self.taken) {
            self.arrived.remove(&piece_at);
            self.taken = 0;
        }
    }

    fn piece_at(&self) -> u64 {
        self.take_at - self.taken as u64
    }

    fn ask_ahead(&mut self, waiting: &mut Waiting) -> Attempt<()> {
        while self.ask_at < self.end && self.ask_at - self.take_at < WINDOW_BYTES {
            let length = (self.end - self.ask_at).min(self.connection.read_bytes_max() as u64) as u32;
            self.ask(self.ask_at, length, waiting)?;
            self.ask_at += u64::from(length);
        }
        Ok(())
    }

    fn ask(&mut self, offset: u64, length: u32, waiting: &mut Waiting) -> Attempt<()> {
        let request = Request::Read { handle: &self.handle, offset, length };
        let cargo = Cargo { data: None, withdrawn: Some(Arc::clone(&self.withdrawn)) };
        self.next_tag += 1;
        self.connection.send(&request, cargo, &self.mailbox, self.next_tag, waiting)?;
        self.asked.insert(self.next_tag, (offset, length));
        Ok(())
    }

    fn arrive(&mut self, tag: Tag, reply: Reply, waiting: &mut Waiting) -> Attempt<()> {
        let (offset, length) = self.asked.remove(&tag).expect("each tag comes once");
        let data = match reply {
            Reply::Data(data) => data,
            Reply::Status(status) if status.code == Status::EOF => {
                let reason = format!("it ends before byte {offset}, expected {} bytes", self.end);
                return Err(Failure::found(ErrorKind::Other, reason));
            }
            other => return Err(unexpected(other)),
        };
        let got = u32::try_from(data.bytes().len()).map_err(|_| Malformed)?;
        if got == 0 || got > length {
            return Err(Malformed.into());
        }
        self.arrived.insert(offset, data);
        if got < length {
            self.ask(offset + u64::from(got), length - got, waiting)?;
        }
        Ok(())
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        self.withdrawn.store(true, Ordering::Relaxed);
        self.connection.mention(&Request::Close { handle: &self.handle });
    }
}
