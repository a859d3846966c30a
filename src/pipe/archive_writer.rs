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
//! A *follower* is a sink that nobody waits for. It is given what fits into its queue; when that is full, it has
//! fallen behind, is given no more, and the caller completes it later from another sink's copy: see [`Follower`].
//!
//! What always holds:
//! * Memory is bounded: so many frames are between the writer and the ordering thread, so many before each sink.
//! * A sink's first error takes that sink out and is kept; the others go on, because one full disk must not cost
//!   the backup on the other. When all but followers have failed, those that have everything so far are waited for
//!   as the others were. Only when no sink is left does writing fail.
//! * Dropping a writer that was not finished stops its threads and drops the sinks.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::buffer::Buffer;
use super::codec::{Codec, Compression};
use super::digest::{Digester, Sha256};
use super::fan_out::{FanOut, Follower, Outcome, Progress, stopped};
use super::frame::{self, BadFrame, FRAME_SIZE};
use super::read::read_some;
use super::seek_table::{Entry, SeekTable};
use super::trailer;
use super::workers::{Pending, Workers};

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
    /// Each follower, in the order in which they were given; they may still be writing.
    pub followers: Vec<Follower<W>>,
}

/// What the ordering thread works off, in order.
enum Ordered {
    Compressing { content_bytes: u32, stored: Pending<Result<Buffer, BadFrame>> },
    Stored(Buffer),
    End,
}

impl<W: Write + Send + 'static> ArchiveWriter<W> {
    /// Starts an archive that is written to each of `sinks`, of which there is at least one.
    pub fn new(workers: &Arc<Workers>, compression: Compression, sinks: Vec<W>) -> io::Result<Self> {
        Self::with_followers(workers, compression, sinks, Vec::new())
    }

    /// The same with sinks that nobody waits for.
    pub fn with_followers(
        workers: &Arc<Workers>,
        compression: Compression,
        sinks: Vec<W>,
        followers: Vec<W>,
    ) -> io::Result<Self> {
        assert!(!sinks.is_empty(), "an archive needs somewhere to be written");
        let (frames, ordered) = bounded(workers.in_flight());
        let progress = Arc::new(Progress::default());
        let sink_count = sinks.len();
        let run = {
            let fan_out = FanOut::new(sinks, followers, &progress)?;
            move || write_in_order(&ordered, fan_out, compression.codec())
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
            match read_some(source, self.spare())? {
                0 => return Ok(self.input_bytes - before),
                count => self.advance(count)?,
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
        let Outcome { stored_bytes, sha256, sinks, followers } = outcome;
        Finished { input_bytes: self.input_bytes, stored_bytes, sha256, sinks, followers }
    }

    /// Sends the present frame on its way, and takes an empty one.
    fn cut(&mut self) -> io::Result<()> {
        let empty = self.workers.buffers().take(FRAME_SIZE);
        let input = std::mem::replace(&mut self.frame, empty);
        self.frame_count += 1;
        let ordered = match self.compression.codec() {
            Codec::None | Codec::Text => Ordered::Stored(input),
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
        Outcome { stored_bytes: 0, sha256: Digester::default().finish().sha256, sinks, followers: Vec::new() }
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
        if let Some(ordering) = self.ordering.take() {
            self.progress.abandon();
            self.frames = None;
            // The sinks are dropped by the threads that have them.
            let followers = ordering.join().map(|outcome| outcome.followers).unwrap_or_default();
            followers.into_iter().for_each(|follower| drop(follower.join()));
        }
    }
}

/// The ordering thread. Behind the last frame goes a trailer, and behind that the seek table, for codecs that have them.
fn write_in_order<W: Write + Send + 'static>(
    ordered: &Receiver<Ordered>,
    mut fan_out: FanOut<W>,
    codec: Codec,
) -> Outcome<W> {
    let mut table = (codec == Codec::Zstd).then(SeekTable::default);
    for next in ordered {
        if fan_out.is_abandoned() {
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
                let trailer = trailer::encode(codec, fan_out.sha256());
                let mut ending = [trailer].into_iter().chain(table.iter().flat_map(SeekTable::encode));
                ending.all(|piece| piece.is_empty() || fan_out.write(Buffer::from(piece)));
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
