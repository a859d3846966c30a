//! The files of a compressed tar, put where they belong on all cores.
//!
//! The caller's thread reads frames and walks from header to header, which is cheap because it jumps over the
//! contents. These go to the workers, a frame's worth at a time, as slices of the shared frame with their place in
//! their file; so checking and writing happen on all cores, in any order. An entry is finished, once and by a
//! worker, when all its bytes were written.
//!
//! The number of frames in flight is bounded, and so is memory. The first error ends the run: nothing new is
//! begun, and when [`unpack`] returns, nothing is being written any more.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::archive_reader::ArchiveReader;
use super::buffer::Buffer;
use super::error::Error;
use super::tar::{Ending, EntryHeader, Event, Scanner};
use super::workers::{Pending, Workers};

/// Decides what becomes of each entry of a tar.
pub trait Unpack {
    type Error;

    /// Called for each entry in the order of the tar, on the caller's thread; entries before it may still be being
    /// written. Says where its contents go; `None` passes over them.
    fn entry(&mut self, header: &EntryHeader) -> Result<Option<Arc<dyn EntrySink>>, Self::Error>;
}

/// Where the contents of one entry go.
pub trait EntrySink: Send + Sync {
    /// Writes a piece of the contents. Pieces do not overlap; they come in any order, on several threads.
    fn write_at(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<()>;

    /// Called once all contents were written, also for an entry without contents.
    fn finish(&self) -> io::Result<()>;
}

/// What was in the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    pub entry_count: u64,
    /// The size of the whole tar.
    pub size_bytes: u64,
    pub ending: Ending,
}

/// Why unpacking stopped.
#[derive(Debug, thiserror::Error)]
pub enum Stopped<E> {
    #[error(transparent)]
    Archive(#[from] Error),
    /// [`Unpack::entry`] refused an entry.
    #[error("{0}")]
    Entry(E),
    /// An [`EntrySink`] failed.
    #[error("{0}")]
    Sink(#[source] io::Error),
}

/// Unpacks the tar in `archive`, on the workers that decompress it.
pub fn unpack<U: Unpack>(
    mut archive: ArchiveReader<'_>,
    into: &mut U,
) -> Result<Unpacked, Stopped<U::Error>> {
    let workers = Arc::clone(archive.workers());
    let mut scanner = Scanner::default();
    let mut walk = Walk::default();
    let mut writing = Writing { workers: &workers, queue: VecDeque::new(), is_stopped: Arc::default() };
    let mut size_bytes = 0;
    while let Some(frame) = archive.next_frame()? {
        size_bytes += frame.len() as u64;
        let extents = walk.extents(&mut scanner, &frame, into)?;
        writing.submit(frame, extents)?;
    }
    let ending = scanner.finish().map_err(Error::from)?;
    writing.finish()?;
    Ok(Unpacked { entry_count: walk.entry_count, size_bytes, ending })
}

/// How far the walk from header to header has come.
#[derive(Default)]
struct Walk {
    /// The entry whose contents are being passed; `None` for one that nobody wants.
    entry: Option<Arc<OpenEntry>>,
    offset_bytes: u64,
    entry_count: u64,
}

struct OpenEntry {
    sink: Arc<dyn EntrySink>,
    /// How much is still to be written.
    left_bytes: AtomicU64,
}

/// A piece of an entry's contents, and where it is in the frame.
struct Extent {
    entry: Arc<OpenEntry>,
    offset_bytes: u64,
    range: Range<usize>,
}

impl Walk {
    /// Finds what of `frame` goes where.
    fn extents<U: Unpack>(
        &mut self,
        scanner: &mut Scanner,
        frame: &[u8],
        into: &mut U,
    ) -> Result<Vec<Extent>, Stopped<U::Error>> {
        let mut extents = Vec::new();
        let mut rest = frame;
        while let Some(event) = scanner.next(&mut rest).map_err(Error::from)? {
            match event {
                Event::Entry(header) => {
                    let sink = into.entry(&header).map_err(Stopped::Entry)?;
                    let left_bytes = header.size_bytes;
                    let open = |sink| Arc::new(OpenEntry { sink, left_bytes: left_bytes.into() });
                    self.entry = sink.map(open);
                    self.offset_bytes = 0;
                    self.entry_count += 1;
                    // Without contents there would be no extent to finish it with.
                    extents.extend(self.entry.iter().filter(|_| left_bytes == 0).map(|entry| Extent {
                        entry: Arc::clone(entry),
                        offset_bytes: 0,
                        range: 0..0,
                    }));
                }
                Event::Data(data) => {
                    let end = frame.len() - rest.len();
                    extents.extend(self.entry.iter().map(|entry| Extent {
                        entry: Arc::clone(entry),
                        offset_bytes: self.offset_bytes,
                        range: end - data.len()..end,
                    }));
                    self.offset_bytes += data.len() as u64;
                }
                Event::EntryEnd => self.entry = None,
                Event::ArchiveEnd => {}
            }
        }
        Ok(extents)
    }
}

impl Extent {
    /// Writes the piece, and finishes the entry if it was the last.
    fn write(&self, frame: &[u8]) -> io::Result<()> {
        let bytes = &frame[self.range.clone()];
        if !bytes.is_empty() {
            self.entry.sink.write_at(self.offset_bytes, bytes)?;
        }
        // Whoever writes the last piece must see what the others did before.
        let left_before = self.entry.left_bytes.fetch_sub(bytes.len() as u64, Ordering::AcqRel);
        if left_before == bytes.len() as u64 { self.entry.sink.finish() } else { Ok(()) }
    }
}

/// The frames that workers are writing.
struct Writing<'w> {
    workers: &'w Workers,
    queue: VecDeque<Pending<io::Result<()>>>,
    is_stopped: Arc<AtomicBool>,
}

impl Writing<'_> {
    fn submit<E>(&mut self, frame: Buffer, extents: Vec<Extent>) -> Result<(), Stopped<E>> {
        if extents.is_empty() {
            return Ok(());
        }
        while self.queue.len() >= self.workers.in_flight() {
            self.wait_for_oldest()?;
        }
        let is_stopped = Arc::clone(&self.is_stopped);
        self.queue.push_back(self.workers.submit(move |_| {
            for extent in &extents {
                if is_stopped.load(Ordering::Relaxed) {
                    break;
                }
                extent.write(&frame)?;
            }
            Ok(())
        }));
        Ok(())
    }

    fn finish<E>(mut self) -> Result<(), Stopped<E>> {
        while !self.queue.is_empty() {
            self.wait_for_oldest()?;
        }
        Ok(())
    }

    fn wait_for_oldest<E>(&mut self) -> Result<(), Stopped<E>> {
        let Some(oldest) = self.queue.pop_front() else { return Ok(()) };
        oldest.wait().map_err(Error::from)?.map_err(Stopped::Sink)
    }
}

/// After an error, what is still queued does nothing, and what has begun is waited for.
impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        for pending in self.queue.drain(..) {
            let _ = pending.wait();
        }
    }
}
