//! The wish to stop, passed down to whatever may take long.
//!
//! `main` raises it when SIGINT or SIGTERM arrives; long loops ask [`Interrupt::check`] and unwind, so that every
//! upload that was begun is discarded by its own `Drop`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Shared by all threads of a run; clones see the same wish.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted by signal {signal}")]
pub struct Interrupted {
    /// 2 for SIGINT, 15 for SIGTERM.
    pub signal: usize,
}

impl Interrupt {
    /// The cell for `signal_hook::flag::register_usize`: 0, or the number of the signal that arrived.
    pub fn cell(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.0)
    }

    /// Does what the arrival of this signal does.
    pub fn raise(&self, signal: usize) {
        self.0.store(signal, Ordering::Relaxed);
    }

    pub fn check(&self) -> Result<(), Interrupted> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Interrupted { signal }),
        }
    }
}

/// For the inside of `Read` and `Write`: not [`std::io::ErrorKind::Interrupted`], which callers retry.
impl From<Interrupted> for std::io::Error {
    fn from(interrupted: Interrupted) -> Self {
        Self::other(interrupted)
    }
}
