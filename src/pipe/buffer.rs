//! Memory that goes round: frames are read, compressed and written in a few buffers, whatever passes through.
//!
//! Fresh memory costs a page fault for each 4 KiB, more than copying them; so a dropped [`Buffer`] returns to the
//! [`Pool`] it was taken from, and the most recently used one, which is still in the cache, is handed out first.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use super::frame::FRAME_SIZE;

/// What a buffer holds at least: a frame that did not shrink, with its headers.
const CAPACITY_MIN: usize = FRAME_SIZE + 64 * 1024;

/// Bytes in recycled memory. Its whole capacity is initialised, so that a `Read` can fill it in place.
#[derive(Debug, Default)]
pub struct Buffer {
    memory: Vec<u8>,
    len: usize,
    home: Option<Pool>,
}

/// Keeps the memory of dropped buffers; clones share it.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shelf>);

#[derive(Debug)]
struct Shelf {
    kept: Mutex<Vec<Vec<u8>>>,
    kept_max: usize,
}

impl Pool {
    /// A pool that keeps the memory of at most `kept_max` buffers for their next use.
    pub fn new(kept_max: usize) -> Self {
        Self(Arc::new(Shelf { kept: Mutex::default(), kept_max }))
    }

    /// An empty buffer with room for at least `capacity` bytes.
    pub fn take(&self, capacity: usize) -> Buffer {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = match kept {
            Some(memory) if memory.len() >= capacity => memory,
            _ => vec![0; capacity.max(CAPACITY_MIN)],
        };
        Buffer { memory, len: 0, home: Some(self.clone()) }
    }
}

impl Buffer {
    /// The rest of the capacity: fill some of it, then [`Buffer::advance`].
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.memory[self.len..]
    }

    /// Takes the first `count` bytes of [`Buffer::spare`] for filled.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.memory.len() - self.len, "more was filled than there was room for");
        self.len += count;
    }

    /// Makes room for `count` bytes more.
    pub fn reserve(&mut self, count: usize) {
        let needed = self.len + count;
        if needed > self.memory.len() {
            self.memory.resize(needed, 0);
        }
    }

    pub fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.spare()[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }

    /// Keeps the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.len = self.len.min(length);
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(memory: Vec<u8>) -> Self {
        Self { len: memory.len(), memory, home: None }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(Pool(shelf)) = self.home.take() else { return };
        let mut kept = shelf.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < shelf.kept_max {
            kept.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_memory_is_handed_out_again() {
        let pool = Pool::new(1);
        let mut buffer = pool.take(10);
        buffer.append(b"seven");
        let address = buffer.as_ptr();
        drop((buffer, pool.take(10)));
        let again = pool.take(10);
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
    }

    #[test]
    fn a_buffer_grows_when_more_is_appended_than_fits() {
        let mut buffer = Buffer::default();
        buffer.append(b"one");
        buffer.append(&[7; 100]);
        assert_eq!((buffer.len(), &buffer[..4]), (103, &b"one\x07"[..]));
    }
}
