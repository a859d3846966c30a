//! The sinks of one archive, each with a thread of its own where there are several.
//!
//! Knows nothing of compression: it is given what is to be stored, in order.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::buffer::Buffer;
use super::digest::{Digester, Sha256};

/// How many frames may wait for a slow sink.
const SINK_QUEUE: usize = 4;
/// How many frames a follower may lag before it has fallen behind: a link's hiccup, not a link that is too slow.
const FOLLOWER_QUEUE: usize = 32;

/// A sink that nobody waited for.
#[derive(Debug)]
pub struct Follower<W> {
    given_bytes: u64,
    thread: JoinHandle<io::Result<W>>,
}

impl<W> Follower<W> {
    /// How much of what was stored it was given: a beginning, or all of it.
    pub fn given_bytes(&self) -> u64 {
        self.given_bytes
    }

    /// Waits until it has written what it was given, or has failed.
    pub fn join(self) -> io::Result<W> {
        joined(self.thread)
    }
}

/// What the writer and its threads tell each other beside the frames.
#[derive(Debug, Default)]
pub struct Progress {
    /// The writer was dropped: nothing that is still to be written matters.
    is_abandoned: AtomicBool,
    /// Why no sink is left; set last, when that is so.
    failure: Mutex<Option<String>>,
    has_failed: AtomicBool,
}

#[derive(Debug)]
pub struct Outcome<W> {
    pub stored_bytes: u64,
    pub sha256: Sha256,
    pub sinks: Vec<io::Result<W>>,
    pub followers: Vec<Follower<W>>,
}

impl Progress {
    /// Tells the threads that nothing that is still to be written matters.
    pub fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }

    pub fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed)
    }

    pub fn check(&self) -> io::Result<()> {
        if self.has_failed.load(Ordering::Relaxed) { Err(self.failure()) } else { Ok(()) }
    }

    fn fail(&self, reason: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.has_failed.store(true, Ordering::Relaxed);
    }

    pub fn failure(&self) -> io::Error {
        let reason = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        io::Error::other(match reason {
            Some(reason) => format!("every output has failed: {reason}"),
            None => "every output has failed".to_owned(),
        })
    }
}

/// The sinks, each of which gets everything that is written until it fails or, as a follower, falls behind.
pub struct FanOut<W> {
    lanes: Vec<Lane<W>>,
    followers: Vec<FollowerLane<W>>,
    digester: Digester,
    progress: Arc<Progress>,
}

/// The way to one sink.
enum Lane<W> {
    /// The only sink is written to by the ordering thread.
    Here(W),
    Thread {
        queue: Sender<Arc<Buffer>>,
        thread: JoinHandle<io::Result<W>>,
    },
    Failed(io::Error),
}

/// The way to a follower.
struct FollowerLane<W> {
    /// `None` once it has fallen behind or failed.
    queue: Option<Sender<Arc<Buffer>>>,
    follower: Follower<W>,
}

impl<W: Write + Send + 'static> FanOut<W> {
    pub fn new(sinks: Vec<W>, followers: Vec<W>, progress: &Arc<Progress>) -> io::Result<Self> {
        let only_one = sinks.len() == 1;
        let lane = |sink| if only_one { Ok(Lane::Here(sink)) } else { Lane::start(sink, progress) };
        let lanes = sinks.into_iter().map(lane).collect::<io::Result<_>>()?;
        let follower = |sink| FollowerLane::start(sink, progress);
        let followers = followers.into_iter().map(follower).collect::<io::Result<_>>()?;
        Ok(Self { lanes, followers, digester: Digester::default(), progress: Arc::clone(progress) })
    }

    /// Of what was written so far.
    pub fn sha256(&self) -> Sha256 {
        self.digester.clone().finish().sha256
    }

    /// Gives `stored` to every sink that is left, and says whether there is one.
    pub fn write(&mut self, stored: Buffer) -> bool {
        self.digester.update(&stored);
        let stored = Arc::new(stored);
        // The followers first: what the others are waited for is time that these have.
        let is_led = self.lanes.iter().any(|lane| !matches!(lane, Lane::Failed(_)));
        for follower in &mut self.followers {
            if is_led { follower.offer(&stored) } else { follower.write(&stored) }
        }
        let lanes = std::mem::take(&mut self.lanes).into_iter();
        self.lanes = lanes.map(|lane| lane.write(&stored)).collect();
        let failure = |lane: &Lane<W>| match lane {
            Lane::Failed(error) => Some(error.to_string()),
            Lane::Here(_) | Lane::Thread { .. } => None,
        };
        let failures: Option<Vec<_>> = self.lanes.iter().map(failure).collect();
        match failures {
            Some(failures) if self.followers.iter().all(|follower| follower.queue.is_none()) => {
                self.progress.fail(failures.join("; "));
                false
            }
            _ => true,
        }
    }

    pub fn is_abandoned(&self) -> bool {
        self.progress.is_abandoned()
    }

    /// Takes all sinks out, for a reason that is none of theirs.
    pub fn fail(&mut self, reason: &str) -> bool {
        self.progress.fail(reason.to_owned());
        for lane in &mut self.lanes {
            *lane = Lane::Failed(io::Error::other(reason.to_owned()));
        }
        for follower in &mut self.followers {
            follower.queue = None;
        }
        false
    }

    pub fn finish(self) -> Outcome<W> {
        let stored = self.digester.finish();
        let sinks = self.lanes.into_iter().map(Lane::finish).collect();
        let followers = self.followers.into_iter().map(|lane| lane.follower).collect();
        Outcome { stored_bytes: stored.size_bytes, sha256: stored.sha256, sinks, followers }
    }
}

impl<W: Write + Send + 'static> Lane<W> {
    fn start(sink: W, progress: &Arc<Progress>) -> io::Result<Self> {
        let (queue, frames) = bounded(SINK_QUEUE);
        Ok(Self::Thread { queue, thread: start_writing(sink, frames, Arc::clone(progress))? })
    }

    fn write(self, stored: &Arc<Buffer>) -> Self {
        match self {
            Self::Here(mut sink) => match sink.write_all(stored) {
                Ok(()) => Self::Here(sink),
                Err(error) => Self::Failed(error),
            },
            Self::Thread { queue, thread } => match queue.send(Arc::clone(stored)) {
                Ok(()) => Self::Thread { queue, thread },
                Err(_) => Self::Failed(joined(thread).err().unwrap_or_else(stopped)),
            },
            Self::Failed(error) => Self::Failed(error),
        }
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::Here(mut sink) => sink.flush().map(|()| sink),
            Self::Thread { queue, thread } => {
                drop(queue);
                joined(thread)
            }
            Self::Failed(error) => Err(error),
        }
    }
}

impl<W: Write + Send + 'static> FollowerLane<W> {
    fn start(sink: W, progress: &Arc<Progress>) -> io::Result<Self> {
        let (queue, frames) = bounded(FOLLOWER_QUEUE);
        let thread = start_writing(sink, frames, Arc::clone(progress))?;
        Ok(Self { queue: Some(queue), follower: Follower { given_bytes: 0, thread } })
    }

    /// Gives it `stored` if there is room for it; without, it has fallen behind.
    fn offer(&mut self, stored: &Arc<Buffer>) {
        self.give(stored, |queue| queue.try_send(Arc::clone(stored)).is_ok());
    }

    /// Gives it `stored` as soon as there is room for it.
    fn write(&mut self, stored: &Arc<Buffer>) {
        self.give(stored, |queue| queue.send(Arc::clone(stored)).is_ok());
    }

    fn give(&mut self, stored: &Buffer, send: impl Fn(&Sender<Arc<Buffer>>) -> bool) {
        match self.queue.as_ref().map(send) {
            Some(true) => self.follower.given_bytes += stored.len() as u64,
            Some(false) => self.queue = None,
            None => {}
        }
    }
}

/// Starts the thread that writes to one sink what comes through its queue.
fn start_writing<W: Write + Send + 'static>(
    mut sink: W,
    frames: Receiver<Arc<Buffer>>,
    progress: Arc<Progress>,
) -> io::Result<JoinHandle<io::Result<W>>> {
    let run = move || {
        for stored in frames {
            if progress.is_abandoned() {
                break;
            }
            sink.write_all(&stored)?;
        }
        sink.flush()?;
        Ok(sink)
    };
    thread::Builder::new().name("archive-sink".to_owned()).spawn(run)
}

fn joined<W>(thread: JoinHandle<io::Result<W>>) -> io::Result<W> {
    thread.join().unwrap_or_else(|_| Err(stopped()))
}

pub fn stopped() -> io::Error {
    io::Error::other("internal error in a thread that writes the archive")
}
