//! The threads that compress, decompress, check and write: one per core, shared by everything that runs.
//!
//! Jobs start in the order in which they were submitted. Whoever submits one keeps a [`Pending`], and bounds the
//! work in flight by how many of these it holds; in a queue they give the results in order. A job must not wait
//! for another job, and must not own the [`Workers`].

use std::any::Any;
use std::io;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::buffer::Pool;
use super::frame::Scratch;

type Job = Box<dyn FnOnce(&mut Scratch) + Send>;

/// A pool of threads; dropping it finishes what was submitted and ends them.
#[derive(Debug)]
pub struct Workers {
    /// `None` only while dropping.
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    buffers: Pool,
}

/// A result that a worker will deliver.
#[derive(Debug)]
#[must_use = "a job's result, or its panic, is only seen by waiting for it"]
pub struct Pending<T>(Receiver<thread::Result<T>>);

/// A job panicked: a bug in pgbak.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("internal error in a worker thread: {0}")]
pub struct Panicked(String);

impl Workers {
    /// Starts `count` threads; 0 is one per core.
    pub fn new(count: usize) -> io::Result<Self> {
        let cores = || thread::available_parallelism().map_or(1, NonZero::get);
        let count = if count == 0 { cores() } else { count };
        let (sender, jobs) = unbounded::<Job>();
        // Each frame in flight has one buffer for its input and one for its output.
        let buffers = Pool::new(4 * count + 8);
        let mut workers = Self { jobs: Some(sender), threads: Vec::new(), buffers };
        for number in 0..count {
            let jobs = jobs.clone();
            let run = move || {
                let mut scratch = Scratch::default();
                jobs.into_iter().for_each(|job| job(&mut scratch));
            };
            workers.threads.push(thread::Builder::new().name(format!("worker-{number}")).spawn(run)?);
        }
        Ok(workers)
    }

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// How many frames should be under way at a time, so that no thread waits for the next.
    pub(super) fn in_flight(&self) -> usize {
        2 * self.count() + 2
    }

    pub(super) fn buffers(&self) -> &Pool {
        &self.buffers
    }

    pub fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Scratch) -> T + Send + 'static,
    ) -> Pending<T> {
        let (sender, result) = bounded(1);
        let job = move |scratch: &mut Scratch| {
            let outcome = catch_unwind(AssertUnwindSafe(|| job(scratch)));
            if outcome.is_err() {
                *scratch = Scratch::default(); // whatever the panic left in it
            }
            let _ = sender.send(outcome); // nobody may be waiting any more
        };
        let jobs = self.jobs.as_ref().expect("is only taken when dropping");
        jobs.send(Box::new(job)).expect("the threads hold the receiver until the sender is gone");
        Pending(result)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // panics were caught, job by job
        }
    }
}

impl<T> Pending<T> {
    pub fn wait(self) -> Result<T, Panicked> {
        let outcome = self.0.recv().expect("every job sends its outcome, and every job runs");
        outcome.map_err(|payload| Panicked(message(payload.as_ref())))
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_can_be_waited_for_in_order() {
        let workers = Workers::new(3).unwrap();
        let pending: Vec<_> = (0..100).map(|i| workers.submit(move |_| i * i)).collect();
        let results: Vec<_> = pending.into_iter().map(|p| p.wait().unwrap()).collect();
        assert_eq!(results, (0..100).map(|i| i * i).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_reaches_the_one_who_waits_and_the_thread_lives_on() {
        let workers = Workers::new(1).unwrap();
        let panics = workers.submit(|_| panic!("the sky falls"));
        let works = workers.submit(|_| 42);
        assert_eq!(panics.wait(), Err::<(), _>(Panicked("the sky falls".to_owned())));
        assert_eq!(works.wait(), Ok(42));
    }

    #[test]
    fn zero_is_one_thread_per_core() {
        let cores = thread::available_parallelism().unwrap().get();
        assert_eq!(Workers::new(0).unwrap().count(), cores);
    }
}
