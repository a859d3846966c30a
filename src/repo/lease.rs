//! Leases: how a run in progress is told from what a dead one left behind.
//!
//! A run writes `lease-0001.toml` into its backup's directory before anything else, and removes it last. While it
//! works it renews the lease by writing `lease-0002.toml` and deleting the one before, because objects are written
//! once and never changed. A directory without a record is therefore one of two things: a run in progress, whose
//! newest lease has not expired, or garbage. Clocks of different hosts disagree, so a lease lasts far longer than the
//! pause between renewals; on the host that wrote it, the death of its process says the same at once.
//!
//! Whoever restores a backup takes a lease in its directory, too, under a name of its own: there may be many at a time.
//! It keeps a backup with a record from being pruned. See [`prune`](super::prune) for why that is enough.

use std::fmt;
use std::io::Read;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::layout;
use crate::storage::{self, Entry, ErrorKind, Storage};

/// How long a lease holds without being renewed.
pub const LIFETIME: TimeDelta = TimeDelta::hours(2);
/// How old a lease becomes before it is renewed.
pub const RENEWAL: TimeDelta = TimeDelta::minutes(10);
/// A lease is a handful of short lines; more than this is none.
const SIZE_MAX_BYTES: u64 = 16 << 10;
/// Of a host's name in a lease's.
const HOST_CHARS_MAX: usize = 64;
/// How many readers may have the same host name and process number.
const NAMESAKES_MAX: u32 = 20;

/// Which process holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub host: String,
    pub pid: u32,
    /// Names the kernel's boot and the namespace in which `pid` counts: two containers may share a host name.
    pub pid_scope: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    #[serde(flatten)]
    pub holder: Holder,
    pub started_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// The lease that this process holds on one directory.
#[derive(Debug)]
pub struct HeldLease {
    directory: String,
    /// What tells a reader's leases from those of others; `None` for the writer, who is alone.
    reader: Option<String>,
    number: u32,
    lease: Lease,
    renewed_at: DateTime<Utc>,
}

/// Who asks whether a lease is live: this process, and what it can see of its neighbours.
#[derive(Clone)]
pub struct Observer<'a> {
    pub holder: Holder,
    /// Whether a process of this host and scope runs.
    pub is_running: &'a (dyn Fn(u32) -> bool + Sync),
}

impl Lease {
    fn is_live(&self, now: DateTime<Utc>, observer: &Observer<'_>) -> bool {
        let sees_it = (&self.holder.host, &self.holder.pid_scope)
            == (&observer.holder.host, &observer.holder.pid_scope);
        if sees_it { (observer.is_running)(self.holder.pid) } else { now < self.expires_at }
    }
}

impl HeldLease {
    /// Takes the writer's lease. Fails where there is one.
    pub fn take(
        storage: &dyn Storage,
        directory: &str,
        holder: &Holder,
        now: DateTime<Utc>,
    ) -> storage::Result<Self> {
        Self::take_as(storage, directory, None, holder, now)
    }

    /// Takes a reader's lease.
    pub fn take_to_read(
        storage: &dyn Storage,
        directory: &str,
        holder: &Holder,
        now: DateTime<Utc>,
    ) -> storage::Result<Self> {
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let host: String = holder.host.chars().filter(is_plain).take(HOST_CHARS_MAX).collect();
        let tag = format!("{host}-{}", holder.pid);
        Self::take_as(storage, directory, Some(tag), holder, now)
    }

    fn take_as(
        storage: &dyn Storage,
        directory: &str,
        reader: Option<String>,
        holder: &Holder,
        now: DateTime<Utc>,
    ) -> storage::Result<Self> {
        let lease = Lease { holder: holder.clone(), started_at: now, expires_at: now + LIFETIME };
        let mut held = Self { directory: directory.to_owned(), reader, number: 0, lease, renewed_at: now };
        held.write_next(storage)?;
        Ok(held)
    }

    /// Renews the lease when it is due. The new one is there before the old one goes.
    pub fn keep(&mut self, storage: &dyn Storage, now: DateTime<Utc>) -> storage::Result<()> {
        if now - self.renewed_at < RENEWAL {
            return Ok(());
        }
        let old = self.key();
        self.lease.expires_at = now + LIFETIME;
        self.renewed_at = now;
        self.write_next(storage)?;
        storage.delete(&old)
    }

    pub fn release(self, storage: &dyn Storage) -> storage::Result<()> {
        storage.delete(&self.key())
    }

    fn key(&self) -> String {
        let name = match &self.reader {
            None => layout::lease(self.number),
            Some(tag) => layout::reader_lease(tag, self.number),
        };
        storage::join(&self.directory, &name)
    }

    fn write_next(&mut self, storage: &dyn Storage) -> storage::Result<()> {
        let text = toml::to_string(&self.lease).expect("a lease is plain strings and numbers");
        let last = match self.reader {
            None => self.number + 1,
            // A reader of the same name in another container may have taken a number.
            Some(_) => self.number + NAMESAKES_MAX,
        };
        loop {
            self.number += 1;
            match super::put_small(storage, &self.key(), text.as_bytes()) {
                Err(error) if error.kind == ErrorKind::AlreadyExists && self.number < last => {}
                written => return written,
            }
        }
    }
}

/// A lease that holds, as far as it can be told whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Live {
    Held(Lease),
    /// It vanished while it was read.
    JustRenewed,
    /// It cannot be understood, under this name.
    Illegible(String),
}

/// In words: `process 4711 on vault since 2026-11-22 02:00:00 UTC`.
impl fmt::Display for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(Lease { holder: Holder { host, pid, .. }, started_at, .. }) => {
                write!(f, "process {pid} on {host} since {}", started_at.format("%Y-%m-%d %H:%M:%S UTC"))
            }
            Self::JustRenewed => f.write_str("a run that has just renewed its lease"),
            Self::Illegible(name) => write!(f, "whoever wrote {name}"),
        }
    }
}

/// A live lease on the directory that holds `entries`: it belongs to a run that may still be alive.
///
/// Errs on the side of life: a lease that vanishes while it is read was renewed or released just now, and one that
/// cannot be understood counts from when it was stored.
pub fn live(
    storage: &dyn Storage,
    directory: &str,
    entries: &[Entry],
    now: DateTime<Utc>,
    observer: &Observer<'_>,
) -> storage::Result<Option<Live>> {
    // Where one has died between writing a lease and deleting the one before, both say the same.
    for entry in entries.iter().filter(|entry| layout::is_lease(&entry.name) && entry.size_bytes().is_some())
    {
        let mut text = String::new();
        match storage.open(&storage::join(directory, &entry.name)) {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Some(Live::JustRenewed)),
            // Another user's, as root's.
            Err(error) if error.kind == ErrorKind::Denied => {}
            Err(error) => return Err(error),
            Ok(object) => drop(object.take(SIZE_MAX_BYTES).read_to_string(&mut text)),
        }
        match toml::from_str::<Lease>(&text).ok() {
            Some(lease) if lease.is_live(now, observer) => return Ok(Some(Live::Held(lease))),
            None if now < entry.modified_at + LIFETIME => {
                return Ok(Some(Live::Illegible(entry.name.clone())));
            }
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Memory;

    fn holder(host: &str, pid: u32) -> Holder {
        Holder { host: host.into(), pid, pid_scope: "boot".into() }
    }

    fn in_progress(storage: &Memory, now: DateTime<Utc>, observer: &Observer<'_>) -> bool {
        let entries = storage.list("d").unwrap();
        live(storage, "d", &entries, now, observer).unwrap().is_some()
    }

    #[test]
    fn a_lease_of_another_host_holds_until_it_expires() {
        let storage = Memory::default();
        let start = DateTime::UNIX_EPOCH;
        let mut held = HeldLease::take(&storage, "d", &holder("there", 7), start).unwrap();
        let nobody_runs = Observer { holder: holder("here", 1), is_running: &|_| false };
        assert!(in_progress(&storage, start, &nobody_runs));
        assert!(!in_progress(&storage, start + LIFETIME, &nobody_runs));

        held.keep(&storage, start + RENEWAL).unwrap();
        assert!(in_progress(&storage, start + LIFETIME, &nobody_runs), "renewed");
        assert_eq!(storage.list("d").unwrap().len(), 1, "the old lease is gone");
        held.release(&storage).unwrap();
        assert!(!in_progress(&storage, start, &nobody_runs));
    }

    #[test]
    fn a_dead_process_of_this_host_holds_nothing() {
        let storage = Memory::default();
        let start = DateTime::UNIX_EPOCH;
        let _held = HeldLease::take(&storage, "d", &holder("here", 7), start).unwrap();
        let alive = Observer { holder: holder("here", 1), is_running: &|pid| pid == 7 };
        assert!(in_progress(&storage, start + LIFETIME * 2, &alive));
        let dead = Observer { holder: holder("here", 1), is_running: &|_| false };
        assert!(!in_progress(&storage, start, &dead));
        let elsewhere =
            Observer { holder: Holder { pid_scope: "container".into(), ..holder("here", 1) }, ..dead };
        assert!(in_progress(&storage, start, &elsewhere), "another container's process cannot be seen");
    }
    #[test]
    fn readers_have_leases_of_their_own_beside_the_writers() {
        let storage = Memory::default();
        let start = DateTime::UNIX_EPOCH;
        let writer = HeldLease::take(&storage, "d", &holder("there", 7), start).unwrap();
        assert!(
            HeldLease::take(&storage, "d", &holder("elsewhere", 7), start).is_err(),
            "there is one writer"
        );
        let mut reader = HeldLease::take_to_read(&storage, "d", &holder("th/e re.x-1", 7), start).unwrap();
        let namesake = HeldLease::take_to_read(&storage, "d", &holder("there.x-1", 7), start).unwrap();
        writer.release(&storage).unwrap();
        let names = || storage.list("d").unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
        assert_eq!(names(), ["lease-there.x-1-7-0001.toml", "lease-there.x-1-7-0002.toml"]);
        reader.keep(&storage, start + RENEWAL).unwrap();
        namesake.release(&storage).unwrap();
        assert_eq!(names(), ["lease-there.x-1-7-0003.toml"]);
        let nobody_runs = Observer { holder: holder("here", 1), is_running: &|_| false };
        let entries = storage.list("d").unwrap();
        let live = super::live(&storage, "d", &entries, start + LIFETIME, &nobody_runs).unwrap();
        let live = live.map(|live| live.to_string());
        assert_eq!(live.as_deref(), Some("process 7 on th/e re.x-1 since 1970-01-01 00:00:00 UTC"));
        reader.release(&storage).unwrap();
        assert!(storage.keys().is_empty());
    }
}
