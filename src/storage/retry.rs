//! Repetition, as a storage around another: what fails as transient is tried again, after growing pauses.
//!
//! The one place where a failure costs time. An object that is read or written survives with its place: whoever is
//! behind this keeps the promise that a repeated read, write or commit goes on where it failed.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Entry, Error, ErrorKind, Result, Storage, Upload};
use crate::interrupt::Interrupt;

/// The longest sleep in one piece, so that an interrupt is noticed soon.
const SLICE: Duration = Duration::from_millis(100);

/// How long to go on after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub first_pause: Duration,
    /// Each pause is twice the one before, up to this.
    pub longest_pause: Duration,
    /// All pauses together. A call that hangs until its own timeout adds that.
    pub pauses_total: Duration,
}

impl Patience {
    /// Outlasts a server that restarts.
    pub const USUAL: Self = Self {
        first_pause: Duration::from_millis(500),
        longest_pause: Duration::from_secs(15),
        pauses_total: Duration::from_secs(120),
    };

    /// For a caller that repeats the whole command, or has another repository to turn to.
    pub const SHORT: Self = Self {
        first_pause: Duration::from_millis(500),
        longest_pause: Duration::from_secs(2),
        pauses_total: Duration::from_secs(3),
    };

    /// The pauses in order.
    fn pauses(self) -> impl Iterator<Item = Duration> {
        let (mut next, mut left) = (self.first_pause, self.pauses_total);
        std::iter::from_fn(move || {
            let pause = next.min(self.longest_pause).min(left);
            left = left.checked_sub(pause).filter(|_| !pause.is_zero())?;
            next = pause * 2;
            Some(pause)
        })
    }
}

/// Clones share what is behind them.
#[derive(Clone)]
pub struct Retry {
    inner: Arc<dyn Storage>,
    policy: Policy,
}

#[derive(Clone)]
struct Policy {
    patience: Patience,
    interrupt: Interrupt,
}

impl Retry {
    pub fn new(inner: Arc<dyn Storage>, patience: Patience, interrupt: Interrupt) -> Self {
        Self { inner, policy: Policy { patience, interrupt } }
    }
}

impl Policy {
    /// Repeats `call` while it fails as transient and patience lasts.
    fn repeat<T>(&self, mut call: impl FnMut() -> Result<T>) -> Result<T> {
        let mut pauses = self.patience.pauses();
        loop {
            let error = match call() {
                Err(error) if error.kind == ErrorKind::Transient => error,
                outcome => return outcome,
            };
            let Some(pause) = pauses.next() else { return Err(error) };
            let pause = shorten(pause);
            tracing::warn!("{error}; trying again in {:.1} s", pause.as_secs_f32());
            if self.sleep(pause).is_err() {
                return Err(error);
            }
        }
    }

    fn sleep(&self, pause: Duration) -> std::result::Result<(), crate::interrupt::Interrupted> {
        let mut left = pause;
        while !left.is_zero() {
            self.interrupt.check()?;
            let slice = left.min(SLICE);
            thread::sleep(slice);
            left -= slice;
        }
        self.interrupt.check()
    }
}

/// By up to a quarter, at random: those who failed together do not come back together.
fn shorten(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) as u32;
    pause - pause.mul_f64(f64::from(random) / f64::from(u32::MAX) / 4.0)
}

impl Storage for Retry {
    fn list(&self, directory: &str) -> Result<Vec<Entry>> {
        self.policy.repeat(|| self.inner.list(directory))
    }

    fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        let inner = self.policy.repeat(|| self.inner.open(key))?;
        Ok(Box::new(RetryRead { inner, key: key.to_owned(), storage: self.clone() }))
    }

    fn create(&self, key: &str) -> Result<Box<dyn Upload>> {
        let inner = self.policy.repeat(|| self.inner.create(key))?;
        Ok(Box::new(RetryUpload { inner, key: key.to_owned(), storage: self.clone() }))
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.policy.repeat(|| self.inner.delete(key))
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

struct RetryRead {
    inner: Box<dyn Read + Send>,
    key: String,
    storage: Retry,
}

impl Read for RetryRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { inner, key, storage } = self;
        let read = || inner.read(buffer).map_err(|error| Error::from_io("read", key, storage, error));
        Ok(storage.policy.repeat(read)?)
    }
}

struct RetryUpload {
    inner: Box<dyn Upload>,
    key: String,
    storage: Retry,
}

impl RetryUpload {
    fn repeat<T>(&mut self, mut call: impl FnMut(&mut dyn Upload) -> io::Result<T>) -> io::Result<T> {
        let Self { inner, key, storage } = self;
        let call = || call(inner.as_mut()).map_err(|error| Error::from_io("write", key, storage, error));
        Ok(storage.policy.repeat(call)?)
    }
}

impl Write for RetryUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.repeat(|upload| upload.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.repeat(|upload| upload.flush())
    }
}

impl Upload for RetryUpload {
    fn commit(&mut self) -> Result<()> {
        self.storage.policy.repeat(|| self.inner.commit())
    }
}
