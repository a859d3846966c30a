//! An archive as the stream of bytes that it holds, decompressed on all cores.
//!
//! Reading and splitting happen on the caller's thread, which keeps a bounded number of frames in flight on the
//! workers and takes the results in order. Each frame is checked against its checksum, and everything that was
//! stored against its size and digest where these are known. After an error nothing more is read.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use super::buffer::Buffer;
use super::codec::Codec;
use super::digest::StoredDigest;
use super::error::Error;
use super::frame::{self, BadFrame, FRAME_SIZE, Foreign, Passed, Split};
use super::read::read_some;
use super::source::Source;
use super::workers::{Pending, Workers};

/// The content of an archive, in order.
pub struct ArchiveReader<'a> {
    workers: Arc<Workers>,
    codec: Codec,
    /// What was read but not yet handed out.
    in_flight: VecDeque<Decoding>,
    in_flight_max: usize,
    state: State<'a>,
    passed: Passed,
    /// What [`Read`] hands out, from `position` on.
    current: Buffer,
    position: usize,
}

/// One frame on its way.
enum Decoding {
    Content(Buffer),
    Pending { offset_bytes: u64, content: Pending<Result<Buffer, BadFrame>> },
}

/// What comes after everything in flight.
enum State<'a> {
    /// Whole frames.
    Frames(Source<'a>),
    /// A frame that is decoded as a stream, here.
    Foreign {
        offset_bytes: u64,
        decoder: Box<dyn Foreign<'a> + 'a>,
    },
    Failing(Error),
    Ended,
    Failed,
}

impl<'a> ArchiveReader<'a> {
    /// Reads an archive from `source`. With `expected`, the size and digest of all that is stored are checked as
    /// well, by the end of the stream at the latest.
    pub fn new(
        workers: &Arc<Workers>,
        codec: Codec,
        source: Box<dyn Read + Send + 'a>,
        expected: Option<StoredDigest>,
    ) -> Self {
        Self {
            workers: Arc::clone(workers),
            codec,
            in_flight: VecDeque::new(),
            in_flight_max: workers.in_flight(),
            state: State::Frames(Source::new(source, expected)),
            passed: Passed::default(),
            current: Buffer::default(),
            position: 0,
        }
    }

    /// Keeps at most `frames` in flight, where several readers share the workers, and their memory counts together.
    pub fn with_in_flight_max(mut self, frames: usize) -> Self {
        self.in_flight_max = self.in_flight_max.min(frames.max(1));
        self
    }

    /// The next piece of the content, never empty, until `None` at its end.
    pub fn next_frame(&mut self) -> Result<Option<Buffer>, Error> {
        let next = self.take_next();
        if next.is_err() {
            self.state = State::Failed;
            self.in_flight.clear();
        }
        next
    }

    pub(super) fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    fn take_next(&mut self) -> Result<Option<Buffer>, Error> {
        loop {
            self.read_ahead();
            let content = match self.in_flight.pop_front() {
                Some(Decoding::Content(content)) => content,
                Some(Decoding::Pending { offset_bytes, content }) => {
                    content.wait()?.map_err(|bad_frame| bad_frame.at(offset_bytes))?
                }
                None => match std::mem::replace(&mut self.state, State::Failed) {
                    State::Foreign { offset_bytes, decoder } => self.decode_foreign(offset_bytes, decoder)?,
                    State::Ended => {
                        self.state = State::Ended;
                        return Ok(None);
                    }
                    State::Failing(error) => return Err(error),
                    State::Frames(_) | State::Failed => {
                        return Err(Error::Read(io::Error::other("it has failed before")));
                    }
                },
            };
            if !content.is_empty() {
                return Ok(Some(content));
            }
        }
    }

    /// Keeps so many frames in flight that no worker has to wait.
    fn read_ahead(&mut self) {
        while self.in_flight.len() < self.in_flight_max {
            match std::mem::replace(&mut self.state, State::Failed) {
                State::Frames(source) => {
                    self.state = self.read_frame(source).unwrap_or_else(State::Failing);
                }
                other => {
                    self.state = other;
                    return;
                }
            }
        }
    }

    /// Reads the next frame and has it decoded, and says what comes after it.
    fn read_frame(&mut self, mut source: Source<'a>) -> Result<State<'a>, Error> {
        let buffers = self.workers.buffers().clone();
        let mut stored = buffers.take(FRAME_SIZE);
        match frame::next(self.codec, &mut source, &mut stored, &mut self.passed)? {
            Split::Frame if !self.codec.compresses() => self.in_flight.push_back(Decoding::Content(stored)),
            Split::Frame => {
                let offset_bytes = source.offset_bytes() - stored.len() as u64;
                let codec = self.codec;
                let content = self.workers.submit(move |scratch| {
                    let mut content = buffers.take(FRAME_SIZE);
                    frame::decompress(scratch, codec, &stored, &mut content).map(|()| content)
                });
                self.in_flight.push_back(Decoding::Pending { offset_bytes, content });
            }
            Split::Foreign => {
                let offset_bytes = source.offset_bytes();
                let decoder = frame::decode_foreign(self.codec, source)?;
                return Ok(State::Foreign { offset_bytes, decoder });
            }
            // Even of nothing, every codec makes something.
            Split::End if source.offset_bytes() == 0 && self.codec.compresses() => {
                return Err(Error::Truncated { offset_bytes: 0 });
            }
            Split::End => {
                source.finish()?;
                return Ok(State::Ended);
            }
        }
        Ok(State::Frames(source))
    }

    /// Decodes as much of a foreign frame as fills a buffer.
    fn decode_foreign(
        &mut self,
        offset_bytes: u64,
        mut decoder: Box<dyn Foreign<'a> + 'a>,
    ) -> Result<Buffer, Error> {
        let mut content = self.workers.buffers().take(FRAME_SIZE);
        while content.len() < FRAME_SIZE {
            let count = read_some(&mut decoder, content.spare());
            match count.map_err(|error| Error::of_decoder(error, offset_bytes))? {
                0 => {
                    self.state = State::Frames(decoder.into_source());
                    return Ok(content);
                }
                count => content.advance(count),
            }
        }
        self.state = State::Foreign { offset_bytes, decoder };
        Ok(content)
    }
}

impl Read for ArchiveReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let content = self.fill_buf()?;
        let count = content.len().min(into.len());
        into[..count].copy_from_slice(&content[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for ArchiveReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() {
            self.position = 0;
            self.current = Buffer::default(); // returns its memory before the next frame needs some
            self.current = self.next_frame()?.unwrap_or_default();
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, count: usize) {
        assert!(count <= self.current.len() - self.position, "more was consumed than was handed out");
        self.position += count;
    }
}
