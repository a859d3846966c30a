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
use crate::interrupt::{Interrupt, Interrupted};

/// The longest sleep in one piece, so that an interrupt is noticed soon.
const SLICE: Duration = Duration::from_millis(100);

/// How long to go on after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub first_pause: Duration,
    /// Each pause is twice the one before, up to this.
    pub longest_pause: Duration,
    /// All pauses together.
    pub pauses_total: Duration,
    /// After that long no attempt is begun, however few pauses there were: each attempt may itself take its time.
    pub time_limit: Duration,
}

impl Patience {
    /// Outlasts a server that restarts.
    pub const USUAL: Self = Self {
        first_pause: Duration::from_millis(500),
        longest_pause: Duration::from_secs(15),
        pauses_total: Duration::from_secs(120),
        time_limit: Duration::from_secs(120),
    };

    /// For a caller that repeats the whole command, or has another repository to turn to.
    pub const SHORT: Self = Self {
        first_pause: Duration::from_millis(500),
        longest_pause: Duration::from_secs(2),
        pauses_total: Duration::from_secs(3),
        time_limit: Duration::from_secs(10),
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
        // Rings once; nobody reads a clock.
        let mut alarm = None;
        loop {
            let error = match call() {
                Err(error) if error.kind == ErrorKind::Transient => error,
                outcome => return outcome,
            };
            let alarm = alarm.get_or_insert_with(|| crossbeam_channel::after(self.patience.time_limit));
            let pause = pauses.next().filter(|_| alarm.try_recv().is_err());
            let Some(pause) = pause else { return Err(error) };
            let pause = shorten(pause);
            tracing::warn!("{error}; trying again in {:.1} s", pause.as_secs_f32());
            if let Err(interrupted) = self.sleep(pause) {
                return Err(Error { kind: ErrorKind::Other, source: interrupted.into(), ..error });
            }
        }
    }

    fn sleep(&self, pause: Duration) -> std::result::Result<(), Interrupted> {
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

    fn sync(&self, path: &str) -> Result<()> {
        self.policy.repeat(|| self.inner.sync(path))
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;

    use proptest::prelude::*;

    use super::super::{Memory, contract};
    use super::*;

    const QUICK: Patience = Patience {
        first_pause: Duration::from_nanos(1),
        longest_pause: Duration::from_nanos(1),
        pauses_total: Duration::from_nanos(20),
        time_limit: Duration::MAX,
    };

    /// Fails calls by a script: `Some` is how, `None` lets the call through. Behind its end, all go through.
    #[derive(Clone)]
    struct Flaky {
        inner: Memory,
        script: Arc<Mutex<Vec<Option<ErrorKind>>>>,
    }

    impl Flaky {
        fn new(script: impl IntoIterator<Item = Option<ErrorKind>>) -> Self {
            let mut script: Vec<_> = script.into_iter().collect();
            script.reverse();
            Self { inner: Memory::default(), script: Arc::new(Mutex::new(script)) }
        }

        fn call<T>(&self, verb: &'static str, key: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
            match self.script.lock().unwrap().pop().flatten() {
                Some(kind) => Err(Error::new(kind, verb, key, self, "on purpose")),
                None => call(),
            }
        }

        fn calls_left(&self) -> usize {
            self.script.lock().unwrap().len()
        }
    }

    impl Storage for Flaky {
        fn list(&self, directory: &str) -> Result<Vec<Entry>> {
            self.call("list", directory, || self.inner.list(directory))
        }

        fn sync(&self, path: &str) -> Result<()> {
            self.call("sync", path, || self.inner.sync(path))
        }

        fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
            let inner = self.call("open", key, || self.inner.open(key))?;
            Ok(Box::new(FlakyRead { inner, storage: self.clone() }))
        }

        fn create(&self, key: &str) -> Result<Box<dyn Upload>> {
            let inner = self.call("create", key, || self.inner.create(key))?;
            Ok(Box::new(FlakyUpload { inner, storage: self.clone() }))
        }

        fn delete(&self, key: &str) -> Result<()> {
            self.call("delete", key, || self.inner.delete(key))
        }
    }

    impl fmt::Display for Flaky {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.inner.fmt(f)
        }
    }

    struct FlakyRead {
        inner: Box<dyn Read + Send>,
        storage: Flaky,
    }

    impl Read for FlakyRead {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            // Few bytes at a time, so that failures fall between them.
            let count = buffer.len().min(7);
            self.storage.call("read", "x", || Ok(()))?;
            self.inner.read(&mut buffer[..count])
        }
    }

    struct FlakyUpload {
        inner: Box<dyn Upload>,
        storage: Flaky,
    }

    impl Write for FlakyUpload {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.storage.call("write", "x", || Ok(()))?;
            self.inner.write(&bytes[..bytes.len().min(7)])
        }

        fn flush(&mut self) -> io::Result<()> {
            self.storage.call("write", "x", || Ok(()))?;
            self.inner.flush()
        }
    }

    impl Upload for FlakyUpload {
        fn commit(&mut self) -> Result<()> {
            self.storage.call("commit", "x", || Ok(()))?;
            self.inner.commit()
        }
    }

    fn retry(flaky: &Flaky, patience: Patience) -> Retry {
        Retry::new(Arc::new(flaky.clone()), patience, Interrupt::default())
    }

    #[test]
    fn it_keeps_the_contract_of_what_is_behind_it() {
        contract::check(&retry(&Flaky::new([]), QUICK));
        let transient = Some(ErrorKind::Transient);
        let often = (0..20_000).map(|i| if i % 3 == 0 { transient } else { None });
        contract::check(&retry(&Flaky::new(often), QUICK));
    }

    #[test]
    fn only_transient_failures_are_repeated() {
        use ErrorKind::{AlreadyExists, Denied, NoSpace, NotFound, Other};
        for kind in [NotFound, AlreadyExists, Denied, NoSpace, Other] {
            let flaky = Flaky::new([Some(kind), Some(kind)]);
            assert_eq!(retry(&flaky, QUICK).list("").unwrap_err().kind, kind);
            assert_eq!(flaky.calls_left(), 1);
        }
    }

    #[test]
    fn patience_ends_with_the_failure_itself_and_begins_anew_with_the_next_call() {
        let flaky = Flaky::new([Some(ErrorKind::Transient); 42]);
        let storage = retry(&flaky, QUICK);
        let error = storage.delete("x").unwrap_err();
        assert_eq!((error.kind, error.verb), (ErrorKind::Transient, "delete"));
        assert_eq!(flaky.calls_left(), 42 - 21, "one call and twenty repetitions");
        assert!(storage.delete("x").is_err());
        storage.delete("x").unwrap();
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_no_further_than_the_total() {
        let seconds: Vec<_> = Patience::USUAL.pauses().map(|pause| pause.as_secs_f32()).collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0, 15.0, 15.0, 14.5]);
        assert!(Patience::SHORT.pauses().sum::<Duration>() == Duration::from_secs(3));
        for pause in Patience::USUAL.pauses() {
            assert!((pause.mul_f32(0.74)..=pause).contains(&shorten(pause)));
        }
    }

    #[test]
    fn attempts_that_take_their_time_are_not_repeated_for_ever() {
        let flaky = Flaky::new([Some(ErrorKind::Transient); 5]);
        let storage = retry(&flaky, Patience { time_limit: Duration::ZERO, ..QUICK });
        assert!(storage.list("").is_err());
        assert_eq!(flaky.calls_left(), 4);
    }

    #[test]
    fn an_interrupt_ends_the_longest_pause() {
        let interrupt = Interrupt::default();
        let hours = Patience {
            first_pause: Duration::from_secs(3600),
            longest_pause: Duration::from_secs(3600),
            pauses_total: Duration::from_secs(7200),
            time_limit: Duration::MAX,
        };
        let storage =
            Retry::new(Arc::new(Flaky::new([Some(ErrorKind::Transient)])), hours, interrupt.clone());
        thread::scope(|threads| {
            let call = threads.spawn(|| storage.list(""));
            interrupt.cell().store(2, Ordering::Relaxed);
            let error = call.join().unwrap().unwrap_err();
            assert_eq!(error.interrupted().map(|interrupted| interrupted.signal), Some(2), "{error}");
        });
    }

    proptest! {
        #[test]
        fn the_bytes_that_arrive_are_the_bytes_sent_whatever_fails_in_between(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            fails in prop::collection::vec(any::<bool>(), 0..300),
        ) {
            let script = fails.iter().map(|fails| fails.then_some(ErrorKind::Transient));
            let flaky = Flaky::new(script);
            let patient = Patience { pauses_total: Duration::from_nanos(400), ..QUICK };
            let storage = retry(&flaky, patient);
            let mut upload = storage.create("x").unwrap();
            upload.write_all(&bytes).unwrap();
            upload.flush().unwrap();
            upload.commit().unwrap();
            let mut found = Vec::new();
            storage.open("x").unwrap().read_to_end(&mut found).unwrap();
            prop_assert_eq!(found, bytes);
            prop_assert_eq!(storage.list("").unwrap().len(), 1);
        }
    }
}
