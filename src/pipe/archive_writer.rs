//! One stream of bytes, compressed on all cores and written to several places at once.
//!
//! ```text
//! write ─► frame ─► workers ─► ordering thread: digest ─┬─► sink 1 ─► its output
//!                    (in order of the input)            └─► sink 2 ─► its output
//! ```
//!
//! The writer cuts its input into frames and hands them to the workers. The ordering thread takes the compressed
//! frames in the order of the input, digests them once, and gives each to every sink: to a single sink it writes
//! itself, several have a thread each, so that a slow one does not make the others wait for each write.
//!
//! What always holds:
//! * Memory is bounded: so many frames are between the writer and the ordering thread, so many before each sink.
//! * A sink's first error takes that sink out and is kept; the others go on, because one full disk must not cost
//!   the backup on the other. Only when no sink is left does writing fail.
//! * Dropping a writer that was not finished stops its threads and drops the sinks.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::buffer::Buffer;
use super::codec::{Codec, Compression};
use super::digest::{Digester, Sha256};
use super::frame::{self, BadFrame, FRAME_SIZE};
use super::seek_table::{Entry, SeekTable};
use super::workers::{Pending, Workers};

/// How many frames may wait for a slow sink.
const SINK_QUEUE: usize = 4;

/// Compresses what is written to it and writes that to each of its sinks.
#[derive(Debug)]
#[must_use = "an archive that is not finished is discarded"]
pub struct ArchiveWriter<W: Write + Send + 'static> {
    workers: Arc<Workers>,
    compression: Compression,
    /// The frame that is being filled; never full.
    frame: Buffer,
    /// How many frames were cut off.
    frame_count: u64,
    input_bytes: u64,
    sink_count: usize,
    progress: Arc<Progress>,
    /// `None` once there is nothing more to come.
    frames: Option<Sender<Ordered>>,
    ordering: Option<JoinHandle<Outcome<W>>>,
}

/// What became of an archive.
#[derive(Debug)]
pub struct Finished<W> {
    /// How much was written to the archive.
    pub input_bytes: u64,
    /// How much the archive wrote to each sink that did not fail.
    pub stored_bytes: u64,
    /// Of what was stored.
    pub sha256: Sha256,
    /// Each sink, in the order in which they were given, or the error that took it out.
    pub sinks: Vec<io::Result<W>>,
}

/// What the ordering thread works off, in order.
enum Ordered {
    Compressing { content_bytes: u32, stored: Pending<Result<Buffer, BadFrame>> },
    Stored(Buffer),
    End,
}

/// What the writer and its threads tell each other beside the frames.
#[derive(Debug, Default)]
struct Progress {
    /// The writer was dropped: nothing that is still to be written matters.
    is_abandoned: AtomicBool,
    /// Why no sink is left; set last, when that is so.
    failure: Mutex<Option<String>>,
    has_failed: AtomicBool,
}

#[derive(Debug)]
struct Outcome<W> {
    stored_bytes: u64,
    sha256: Sha256,
    sinks: Vec<io::Result<W>>,
}

impl<W: Write + Send + 'static> ArchiveWriter<W> {
    /// Starts an archive that is written to each of `sinks`, of which there is at least one.
    pub fn new(workers: &Arc<Workers>, compression: Compression, sinks: Vec<W>) -> io::Result<Self> {
        assert!(!sinks.is_empty(), "an archive needs somewhere to be written");
        let (frames, ordered) = bounded(workers.in_flight());
        let progress = Arc::new(Progress::default());
        let sink_count = sinks.len();
        let run = {
            let table = (compression.codec() == Codec::Zstd).then(SeekTable::default);
            let fan_out = FanOut::new(sinks, &progress)?;
            move || write_in_order(&ordered, fan_out, table)
        };
        let ordering = thread::Builder::new().name("archive".to_owned()).spawn(run)?;
        Ok(Self {
            workers: Arc::clone(workers),
            compression,
            frame: workers.buffers().take(FRAME_SIZE),
            frame_count: 0,
            input_bytes: 0,
            sink_count,
            progress,
            frames: Some(frames),
            ordering: Some(ordering),
        })
    }

    /// Where the next bytes of input go, to be filled in place; it is never empty. Then say [`Self::advance`].
    pub fn spare(&mut self) -> &mut [u8] {
        let room = FRAME_SIZE - self.frame.len();
        &mut self.frame.spare()[..room]
    }

    /// Takes the first `count` bytes of [`Self::spare`] for written.
    pub fn advance(&mut self, count: usize) -> io::Result<()> {
        assert!(count <= FRAME_SIZE - self.frame.len(), "more was filled than there was room for");
        self.frame.advance(count);
        self.input_bytes += count as u64;
        self.progress.check()?;
        if self.frame.len() == FRAME_SIZE { self.cut() } else { Ok(()) }
    }

    /// Writes all of `source`, and says how much that was.
    pub fn copy_from(&mut self, source: &mut dyn Read) -> io::Result<u64> {
        let before = self.input_bytes;
        loop {
            match source.read(self.spare()) {
                Ok(0) => return Ok(self.input_bytes - before),
                Ok(count) => self.advance(count)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes what remains and waits until each sink has it, or has failed.
    pub fn finish(mut self) -> Finished<W> {
        // When sending fails, no sink is left, and each has its own error in the outcome.
        let _ = if self.frame.is_empty() && self.frame_count > 0 { Ok(()) } else { self.cut() };
        if let Some(frames) = self.frames.take() {
            let _ = frames.send(Ordered::End);
        }
        let ordering = self.ordering.take().expect("is only taken here and when dropping");
        let outcome = ordering.join().unwrap_or_else(|_| self.lost());
        let Outcome { stored_bytes, sha256, sinks } = outcome;
        Finished { input_bytes: self.input_bytes, stored_bytes, sha256, sinks }
    }

    /// Sends the present frame on its way, and takes an empty one.
    fn cut(&mut self) -> io::Result<()> {
        let empty = self.workers.buffers().take(FRAME_SIZE);
        let input = std::mem::replace(&mut self.frame, empty);
        self.frame_count += 1;
        let ordered = match self.compression.codec() {
            Codec::None => Ordered::Stored(input),
            Codec::Zstd | Codec::Gzip | Codec::Lz4 => self.compress(input),
        };
        let frames = self.frames.as_ref().expect("is only taken when finishing");
        frames.send(ordered).map_err(|_| self.progress.failure())
    }

    fn compress(&self, input: Buffer) -> Ordered {
        let (compression, buffers) = (self.compression, self.workers.buffers().clone());
        let content_bytes = input.len() as u32;
        let stored = self.workers.submit(move |scratch| {
            let mut stored = buffers.take(input.len());
            frame::compress(scratch, compression, &input, &mut stored).map(|()| stored)
        });
        Ordered::Compressing { content_bytes, stored }
    }

    /// The outcome when the ordering thread panicked and took the sinks with it.
    fn lost(&self) -> Outcome<W> {
        let sinks = (0..self.sink_count).map(|_| Err(stopped())).collect();
        Outcome { stored_bytes: 0, sha256: Digester::default().finish().sha256, sinks }
    }
}

impl<W: Write + Send + 'static> Write for ArchiveWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let spare = self.spare();
        let count = bytes.len().min(spare.len());
        spare[..count].copy_from_slice(&bytes[..count]);
        self.advance(count)?;
        Ok(count)
    }

    /// Does nothing: only [`Self::finish`] makes the archive whole.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + Send + 'static> Drop for ArchiveWriter<W> {
    fn drop(&mut self) {
        self.progress.is_abandoned.store(true, Ordering::Relaxed);
        self.frames = None;
        if let Some(ordering) = self.ordering.take() {
            let _ = ordering.join(); // drops the sinks
        }
    }
}

impl Progress {
    fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed)
    }

    fn check(&self) -> io::Result<()> {
        if self.has_failed.load(Ordering::Relaxed) { Err(self.failure()) } else { Ok(()) }
    }

    fn fail(&self, reason: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.has_failed.store(true, Ordering::Relaxed);
    }

    fn failure(&self) -> io::Error {
        let reason = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        io::Error::other(match reason {
            Some(reason) => format!("every output has failed: {reason}"),
            None => "every output has failed".to_owned(),
        })
    }
}

/// The ordering thread. Its table, for codecs that have one, goes behind the last frame.
fn write_in_order<W: Write + Send + 'static>(
    ordered: &Receiver<Ordered>,
    mut fan_out: FanOut<W>,
    mut table: Option<SeekTable>,
) -> Outcome<W> {
    for next in ordered {
        if fan_out.progress.is_abandoned() {
            break;
        }
        let goes_on = match next {
            Ordered::Stored(stored) => fan_out.write(stored),
            Ordered::Compressing { content_bytes, stored } => match compressed(stored) {
                Ok(stored) => {
                    let stored_bytes = stored.len() as u32;
                    table.iter_mut().for_each(|table| table.push(Entry { stored_bytes, content_bytes }));
                    fan_out.write(stored)
                }
                Err(reason) => fan_out.fail(&reason),
            },
            Ordered::End => {
                table.iter().flat_map(SeekTable::encode).map(Buffer::from).all(|piece| fan_out.write(piece));
                false
            }
        };
        if !goes_on {
            break;
        }
    }
    fan_out.finish()
}

fn compressed(stored: Pending<Result<Buffer, BadFrame>>) -> Result<Buffer, String> {
    let stored = stored.wait().map_err(|panicked| panicked.to_string())?;
    stored.map_err(|bad_frame| bad_frame.to_string())
}

/// The sinks, each of which gets everything that is written until it fails.
struct FanOut<W> {
    lanes: Vec<Lane<W>>,
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

impl<W: Write + Send + 'static> FanOut<W> {
    fn new(sinks: Vec<W>, progress: &Arc<Progress>) -> io::Result<Self> {
        let only_one = sinks.len() == 1;
        let lane =
            |sink| if only_one { Ok(Lane::Here(sink)) } else { Lane::start(sink, Arc::clone(progress)) };
        let lanes = sinks.into_iter().map(lane).collect::<io::Result<_>>()?;
        Ok(Self { lanes, digester: Digester::default(), progress: Arc::clone(progress) })
    }

    /// Gives `stored` to every sink that is left, and says whether there is one.
    fn write(&mut self, stored: Buffer) -> bool {
        self.digester.update(&stored);
        let stored = Arc::new(stored);
        let lanes = std::mem::take(&mut self.lanes).into_iter();
        self.lanes = lanes.map(|lane| lane.write(&stored)).collect();
        let failure = |lane: &Lane<W>| match lane {
            Lane::Failed(error) => Some(error.to_string()),
            Lane::Here(_) | Lane::Thread { .. } => None,
        };
        let failures: Option<Vec<_>> = self.lanes.iter().map(failure).collect();
        if let Some(failures) = &failures {
            self.progress.fail(failures.join("; "));
        }
        failures.is_none()
    }

    /// Takes all sinks out, for a reason that is none of theirs.
    fn fail(&mut self, reason: &str) -> bool {
        self.progress.fail(reason.to_owned());
        for lane in &mut self.lanes {
            *lane = Lane::Failed(io::Error::other(reason.to_owned()));
        }
        false
    }

    fn finish(self) -> Outcome<W> {
        let stored = self.digester.finish();
        let sinks = self.lanes.into_iter().map(Lane::finish).collect();
        Outcome { stored_bytes: stored.size_bytes, sha256: stored.sha256, sinks }
    }
}

impl<W: Write + Send + 'static> Lane<W> {
    fn start(mut sink: W, progress: Arc<Progress>) -> io::Result<Self> {
        let (queue, frames) = bounded::<Arc<Buffer>>(SINK_QUEUE);
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
        let thread = thread::Builder::new().name("archive-sink".to_owned()).spawn(run)?;
        Ok(Self::Thread { queue, thread })
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

fn joined<W>(thread: JoinHandle<io::Result<W>>) -> io::Result<W> {
    thread.join().unwrap_or_else(|_| Err(stopped()))
}

fn stopped() -> io::Error {
    io::Error::other("internal error in a thread that writes the archive")
}
