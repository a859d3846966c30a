//! Leases: how a run in progress is told from what a dead one left behind.
//!
//! A run writes `lease-0001.toml` into its backup's directory before anything else, and removes it last. While it
//! works it renews the lease by writing `lease-0002.toml` and deleting the one before, because objects are written
//! once and never changed. A directory without a record is therefore one of two things: a run in progress, whose
//! newest lease has not expired, or garbage. Clocks of different hosts disagree, so a lease lasts far longer than the
//! pause between renewals; on the host that wrote it, the death of its process says the same at once.

use std::io::Read;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::layout;
use crate::storage::{self, Entry, Storage};

/// How long a lease holds without being renewed.
pub const LIFETIME: TimeDelta = TimeDelta::hours(2);
/// How old a lease becomes before it is renewed.
pub const RENEWAL: TimeDelta = TimeDelta::minutes(10);
/// A lease is a handful of short lines; more than this is none.
const SIZE_MAX_BYTES: u64 = 16 << 10;

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
    pub fn take(
        storage: &dyn Storage,
        directory: &str,
        holder: &Holder,
        now: DateTime<Utc>,
    ) -> storage::Result<Self> {
        let lease = Lease { holder: holder.clone(), started_at: now, expires_at: now + LIFETIME };
        let held = Self { directory: directory.to_owned(), number: 1, lease, renewed_at: now };
        held.write(storage)?;
        Ok(held)
    }

    /// Renews the lease when it is due. The new one is there before the old one goes.
    pub fn keep(&mut self, storage: &dyn Storage, now: DateTime<Utc>) -> storage::Result<()> {
        if now - self.renewed_at < RENEWAL {
            return Ok(());
        }
        let old = self.key();
        self.number += 1;
        self.lease.expires_at = now + LIFETIME;
        self.renewed_at = now;
        self.write(storage)?;
        storage.delete(&old)
    }

    pub fn release(self, storage: &dyn Storage) -> storage::Result<()> {
        storage.delete(&self.key())
    }

    fn key(&self) -> String {
        storage::join(&self.directory, &layout::lease(self.number))
    }

    fn write(&self, storage: &dyn Storage) -> storage::Result<()> {
        let text = toml::to_string(&self.lease).expect("a lease is plain strings and numbers");
        super::put_small(storage, &self.key(), text.as_bytes())
    }
}

/// Whether the backup directory that holds `entries` belongs to a run that may still be alive.
///
/// Errs on the side of life: a lease that vanishes while it is read was renewed or released just now, and one that
/// cannot be understood counts from when it was stored.
pub fn is_in_progress(
    storage: &dyn Storage,
    directory: &str,
    entries: &[Entry],
    now: DateTime<Utc>,
    observer: &Observer<'_>,
) -> storage::Result<bool> {
    let leases = entries.iter().filter(|entry| layout::is_lease(&entry.name));
    let Some(newest) = leases.max_by_key(|entry| (entry.name.len(), &entry.name)) else { return Ok(false) };
    let object = match storage.open(&storage::join(directory, &newest.name)) {
        Err(error) if error.kind == storage::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    let mut text = String::new();
    let lease =
        object.take(SIZE_MAX_BYTES).read_to_string(&mut text).ok().and_then(|_| toml::from_str(&text).ok());
    Ok(lease.map_or(now < newest.modified_at + LIFETIME, |lease: Lease| lease.is_live(now, observer)))
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
        is_in_progress(storage, "d", &entries, now, observer).unwrap()
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
}
