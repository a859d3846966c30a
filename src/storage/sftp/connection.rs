//! One SSH session, shared: any number of callers send requests, each gets its own replies.
//!
//! A thread of its own ([`Driver`]) moves the bytes. Requests are answered in the order in which a caller sent them,
//! because OpenSSH's server works on one at a time; a caller that relies on it sends together what belongs together
//! and pays for one round trip. Every request is answered once: by the server, or with the reason why the connection
//! was lost.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rustix::event::EventfdFlags;

use super::driver::Driver;
use super::failure::{Attempt, Expect, Failure};
use super::packet::{DATA_BYTES_USUAL, Extensions, FileSystem, Reply, Request};
use super::queue::{Queue, Refused};
use super::session::Established;
use super::waiting::{SLICE, Waiting};

/// What a request without data counts for.
const REQUEST_COST_BYTES: u64 = 1 << 10;

/// Dropping it ends the session, after what was sent.
pub struct Connection {
    queue: Arc<Queue<Outgoing>>,
    wake: Arc<OwnedFd>,
    shared: Arc<Shared>,
}

/// What callers and the driver both see.
pub(super) struct Shared {
    pub extensions: Extensions,
    /// Why the connection is of no more use.
    pub lost: OnceLock<String>,
    pub read_bytes_max: AtomicUsize,
    pub write_bytes_max: AtomicUsize,
    /// The weight of what was asked and not yet answered.
    busy_bytes: AtomicU64,
}

/// A request on its way.
pub(super) struct Outgoing {
    pub head: Vec<u8>,
    pub data: Option<Arc<Vec<u8>>>,
    /// Nobody wants it any more, if it was not begun.
    pub withdrawn: Option<Arc<AtomicBool>>,
    pub reply_to: ReplyTo,
}

pub type Tag = u64;

/// Whoever waits for a reply. Dropped unanswered, it says that the connection was lost.
pub(super) struct ReplyTo {
    mailbox: Option<Sender<(Tag, Attempt<Reply>)>>,
    tag: Tag,
    cost_bytes: u64,
    shared: Arc<Shared>,
}

impl ReplyTo {
    pub fn answer(mut self, reply: Reply) {
        self.deliver(Ok(reply));
    }

    fn deliver(&mut self, outcome: Attempt<Reply>) {
        if let Some(mailbox) = self.mailbox.take() {
            // Who gave up waiting does not hear it.
            let _ = mailbox.send((self.tag, outcome));
        }
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        self.shared.busy_bytes.fetch_sub(self.cost_bytes, Ordering::Relaxed);
        let reason = self.shared.lost.get().map_or("the connection was closed", String::as_str);
        self.deliver(Err(Failure::lost(reason)));
    }
}

/// Where the replies to one caller's requests arrive, from whichever connections.
pub struct Mailbox {
    sender: Sender<(Tag, Attempt<Reply>)>,
    receiver: Receiver<(Tag, Attempt<Reply>)>,
}

impl Default for Mailbox {
    fn default() -> Self {
        // As long as what the caller has under way, which its own window bounds.
        let (sender, receiver) = crossbeam_channel::unbounded();
        Self { sender, receiver }
    }
}

impl Mailbox {
    pub fn try_next(&self) -> Option<(Tag, Attempt<Reply>)> {
        self.receiver.try_recv().ok()
    }

    pub fn next(&self, waiting: &mut Waiting) -> Attempt<(Tag, Attempt<Reply>)> {
        loop {
            match self.receiver.recv_timeout(SLICE) {
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Timeout) => waiting.waited()?,
                Err(RecvTimeoutError::Disconnected) => unreachable!("the mailbox holds a sender itself"),
            }
        }
    }
}

/// Data to write, and whether it is still wanted.
#[derive(Clone, Default)]
pub struct Cargo {
    pub data: Option<Arc<Vec<u8>>>,
    pub withdrawn: Option<Arc<AtomicBool>>,
}

impl Connection {
    pub fn start(established: Established) -> Attempt<Arc<Self>> {
        let lost = |error: std::io::Error| Failure::lost(format!("starting a connection: {error}"));
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = Arc::new(wake.map_err(|error| lost(error.into()))?);
        let queue = Arc::new(Queue::default());
        let shared = Arc::new(Shared {
            extensions: established.extensions.clone(),
            lost: OnceLock::new(),
            read_bytes_max: AtomicUsize::new(DATA_BYTES_USUAL),
            write_bytes_max: AtomicUsize::new(DATA_BYTES_USUAL),
            busy_bytes: AtomicU64::new(0),
        });
        let driver = Driver::new(established, Arc::clone(&queue), Arc::clone(&wake), Arc::clone(&shared))
            .map_err(lost)?;
        let thread = std::thread::Builder::new().name("sftp".into());
        thread.spawn(move || driver.run()).map_err(lost)?;
        Ok(Arc::new(Self { queue, wake, shared }))
    }

    pub fn is_lost(&self) -> bool {
        self.shared.lost.get().is_some()
    }

    pub fn offers(&self, extension: &str) -> bool {
        self.shared.extensions.has(extension)
    }

    pub fn can_sync(&self) -> bool {
        self.offers("fsync@openssh.com")
    }

    pub fn busy_bytes(&self) -> u64 {
        self.shared.busy_bytes.load(Ordering::Relaxed)
    }

    pub fn read_bytes_max(&self) -> usize {
        self.shared.read_bytes_max.load(Ordering::Relaxed)
    }

    pub fn write_bytes_max(&self) -> usize {
        self.shared.write_bytes_max.load(Ordering::Relaxed)
    }

    /// Sends a request whose reply comes to `mailbox` under `tag`, even if it is only that the connection was lost.
    /// On an error nothing comes.
    pub fn send(
        &self,
        request: &Request<'_>,
        cargo: Cargo,
        mailbox: &Mailbox,
        tag: Tag,
        waiting: &mut Waiting,
    ) -> Attempt<()> {
        self.enqueue(self.outgoing(request, cargo, Some((mailbox, tag))), waiting)
    }

    /// Sends a request whose reply nobody waits for, unless the queue is full.
    pub fn mention(&self, request: &Request<'_>) {
        let _ = self.queue.try_push(self.outgoing(request, Cargo::default(), None));
        self.wake();
    }

    fn outgoing(&self, request: &Request<'_>, cargo: Cargo, to: Option<(&Mailbox, Tag)>) -> Outgoing {
        let cost_bytes = u64::from(request.data_bytes()) + REQUEST_COST_BYTES;
        self.shared.busy_bytes.fetch_add(cost_bytes, Ordering::Relaxed);
        let reply_to = ReplyTo {
            mailbox: to.map(|(mailbox, _)| mailbox.sender.clone()),
            tag: to.map_or(0, |(_, tag)| tag),
            cost_bytes,
            shared: Arc::clone(&self.shared),
        };
        Outgoing { head: request.encode(), data: cargo.data, withdrawn: cargo.withdrawn, reply_to }
    }

    fn enqueue(&self, outgoing: Outgoing, waiting: &mut Waiting) -> Attempt<()> {
        let refused = match self.queue.push(outgoing, waiting) {
            Ok(()) => {
                self.wake();
                return Ok(());
            }
            Err(refused) => refused,
        };
        let Refused { item: Outgoing { mut reply_to, .. }, failure } = refused;
        // The caller is told, not the mailbox.
        reply_to.mailbox = None;
        let lost = || Failure::lost(self.shared.lost.get().map_or("", String::as_str));
        Err(failure.unwrap_or_else(lost))
    }

    fn wake(&self) {
        // Full means that it is awake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Sends all and waits for all: one round trip.
    pub fn ask<const N: usize>(&self, requests: [Request<'_>; N], waiting: &Waiting) -> Attempt<[Reply; N]> {
        let replies = self.ask_all(&requests, waiting)?;
        Ok(replies.try_into().expect("there are as many replies as requests"))
    }

    pub fn ask_all(&self, requests: &[Request<'_>], waiting: &Waiting) -> Attempt<Vec<Reply>> {
        let mut waiting = waiting.clone();
        waiting.check()?;
        let mailbox = Mailbox::default();
        for (tag, request) in requests.iter().enumerate() {
            self.send(request, Cargo::default(), &mailbox, tag as Tag, &mut waiting)?;
        }
        let mut replies: Vec<_> = requests.iter().map(|_| None).collect();
        for _ in requests {
            let (tag, reply) = mailbox.next(&mut waiting)?;
            replies[tag as usize] = Some(reply?);
        }
        Ok(replies.into_iter().map(|reply| reply.expect("each tag comes once")).collect())
    }

    /// Opens `path`; the reply is its handle.
    pub fn handle(&self, request: Request<'_>, waiting: &Waiting) -> Attempt<Vec<u8>> {
        let [reply] = self.ask([request], waiting)?;
        reply.handle()
    }

    /// Room on the file system that holds `path`; `None` where the server does not tell.
    pub fn file_system(&self, path: &str, waiting: &Waiting) -> Option<FileSystem> {
        if !self.offers("statvfs@openssh.com") {
            return None;
        }
        match self.ask([Request::StatVfs { path }], waiting) {
            Ok([Reply::Extended(reply)]) => FileSystem::parse(&reply).ok(),
            _ => None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.queue.finish();
        self.wake();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("lost", &self.shared.lost).finish_non_exhaustive()
    }
}
