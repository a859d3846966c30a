//! How far a long run has come: written by the run, read by whoever draws a progress bar.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of payload (uncompressed), counted up while they pass.
#[derive(Debug, Default)]
pub struct Meter {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Meter {
    pub fn add(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sets how much there will be; an estimate, which the run may exceed.
    pub fn expect(&self, bytes: u64) {
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    /// `None` while it is not known how much there will be.
    pub fn total_bytes(&self) -> Option<u64> {
        Some(self.total_bytes.load(Ordering::Relaxed)).filter(|&bytes| bytes > 0)
    }
}
