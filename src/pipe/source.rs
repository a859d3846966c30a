//! The stored bytes of an archive while they are read: counted, digested on the way, and put back when needed.

use std::io::{self, BufRead, Read};

use super::buffer::Buffer;
use super::digest::{Digester, Sha256, StoredDigest};
use super::error::Error;
use super::read::read_some;

/// How much is read at a time where the format does not say how much will be needed.
const READ_AHEAD: usize = 64 * 1024;

/// Hands out the stored bytes in order. Each byte is read, and digested, once; digested when it is handed out.
pub(super) struct Source<'a> {
    inner: Box<dyn Read + Send + 'a>,
    /// How many bytes were read from `inner`.
    read_bytes: u64,
    /// Read from `inner` but not handed out, or put back: from `ahead_start` on.
    ahead: Vec<u8>,
    ahead_start: usize,
    /// `inner` has said that there is no more.
    has_ended: bool,
    digester: Digester,
    /// How many bytes were digested.
    digested_bytes: u64,
    expected: Option<StoredDigest>,
}

impl<'a> Source<'a> {
    pub fn new(inner: Box<dyn Read + Send + 'a>, expected: Option<StoredDigest>) -> Self {
        Self {
            inner,
            read_bytes: 0,
            ahead: Vec::new(),
            ahead_start: 0,
            has_ended: false,
            digester: Digester::default(),
            digested_bytes: 0,
            expected,
        }
    }

    /// Where in the stored bytes the next one is that will be handed out.
    pub fn offset_bytes(&self) -> u64 {
        self.read_bytes - self.ahead().len() as u64
    }

    /// Whether somebody wanted to read on after the last byte.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether all was handed out.
    pub fn is_at_end(&mut self) -> Result<bool, Error> {
        Ok(self.peek()?.is_empty())
    }

    /// Appends the next `count` bytes to `buffer`.
    pub fn read_exact_into(&mut self, buffer: &mut Buffer, count: usize) -> Result<(), Error> {
        let found = self.read_up_to(buffer, count)?;
        (found == count).then_some(()).ok_or(Error::Truncated { offset_bytes: self.offset_bytes() })
    }

    /// Appends the next `count` bytes to `buffer`, or as many as there are.
    pub fn read_up_to(&mut self, buffer: &mut Buffer, count: usize) -> Result<usize, Error> {
        buffer.reserve(count);
        let mut filled = 0;
        while filled < count {
            match self.take(&mut buffer.spare()[..count - filled])? {
                0 => break,
                more => {
                    buffer.advance(more);
                    filled += more;
                }
            }
        }
        Ok(filled)
    }

    pub fn skip(&mut self, count: u64) -> Result<(), Error> {
        let mut left = count;
        while left > 0 {
            let here = self.peek()?.len();
            if here == 0 {
                return Err(Error::Truncated { offset_bytes: self.offset_bytes() });
            }
            let step = usize::try_from(left).map_or(here, |left| left.min(here));
            self.consume(step);
            left -= step as u64;
        }
        Ok(())
    }

    /// Puts back what was handed out last, to be handed out again.
    pub fn put_back(&mut self, bytes: &[u8]) {
        let rest = self.ahead().to_vec();
        self.ahead.clear();
        self.ahead.extend_from_slice(bytes);
        self.ahead.extend_from_slice(&rest);
        self.ahead_start = 0;
    }

    /// Checks size and digest, when they are known, after everything was handed out.
    pub fn finish(&mut self) -> Result<(), Error> {
        let Some(expected) = self.expected.take() else { return Ok(()) };
        let found = std::mem::take(&mut self.digester).finish();
        if found.size_bytes != expected.size_bytes {
            let (found_bytes, expected_bytes) = (found.size_bytes, expected.size_bytes);
            return Err(Error::TooShort { found_bytes, expected_bytes });
        }
        must_equal(found.sha256, expected.sha256)
    }

    /// Of what was handed out, to be compared with what a trailer says; nothing where the archive's digest is known
    /// already, which tells more.
    pub fn digester(&self) -> Option<Digester> {
        self.expected.is_none().then(|| self.digester.clone())
    }

    fn ahead(&self) -> &[u8] {
        &self.ahead[self.ahead_start..]
    }

    /// What comes next, without handing it out; empty only at the end.
    fn peek(&mut self) -> Result<&[u8], Error> {
        if self.ahead().is_empty() {
            let mut ahead = std::mem::take(&mut self.ahead);
            ahead.resize(READ_AHEAD, 0);
            let count = self.read_inner(&mut ahead)?;
            ahead.truncate(count);
            (self.ahead, self.ahead_start) = (ahead, 0);
        }
        Ok(self.ahead())
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        if self.ahead().is_empty() {
            let count = self.read_inner(into)?;
            self.digested_bytes += count as u64;
            self.digester.update(&into[..count]);
            return Ok(count);
        }
        let count = self.ahead().len().min(into.len());
        into[..count].copy_from_slice(&self.ahead()[..count]);
        self.take_from_ahead(count);
        Ok(count)
    }

    /// Takes from what was read ahead, of which what was put back has been digested.
    fn take_from_ahead(&mut self, count: usize) {
        let again = (self.digested_bytes - self.offset_bytes()).min(count as u64) as usize;
        self.digester.update(&self.ahead[self.ahead_start + again..self.ahead_start + count]);
        self.digested_bytes += (count - again) as u64;
        self.ahead_start += count;
    }

    /// Reads from `inner` and accounts for what came.
    fn read_inner(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let count = read_some(&mut self.inner, into).map_err(Error::Read)?;
        self.has_ended |= count == 0 && !into.is_empty();
        self.read_bytes += count as u64;
        match &self.expected {
            Some(expected) if self.read_bytes > expected.size_bytes => {
                Err(Error::TooLong { expected_bytes: expected.size_bytes })
            }
            _ => Ok(count),
        }
    }
}

pub(super) fn must_equal(found: Sha256, expected: Sha256) -> Result<(), Error> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::Digest { found, expected }),
    }
}

/// For decoders, which pass errors through: [`Error::of_decoder`] finds the ones that come from here.
impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.take(into).map_err(io::Error::other)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.peek().map_err(io::Error::other)
    }

    fn consume(&mut self, count: usize) {
        assert!(count <= self.ahead().len(), "more was consumed than was handed out");
        self.take_from_ahead(count);
    }
}
