//! Several things at a time, begun in their order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How many calls of a storage may be waited for at a time; it is their latency that this hides.
const THREADS: usize = 8;

/// Calls `act` for each of `items`, several at a time. Each is begun after the one before it.
pub fn each<T: Sync>(items: &[T], act: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            act(item);
        }
    };
    if items.len() <= 1 {
        return work();
    }
    thread::scope(|scope| {
        for _ in 0..items.len().min(THREADS) {
            scope.spawn(work);
        }
    });
}
