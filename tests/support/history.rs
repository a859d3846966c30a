//! What really happened, in WAL order: the oracle for point-in-time recovery.
//!
//! PostgreSQL decides at each commit record whether recovery stops there (`recoveryStopsBefore` and
//! `recoveryStopsAfter` in `src/backend/access/transam/xlogrecovery.c`). Commits that run at the same time may be
//! written in another order than their timestamps say, so what a target means is read from the WAL itself, by
//! `pg_waldump`, and from nothing that a client believes.

use std::fs;
use std::path::Path;

use super::{Identity, Installation};
use pgbak::pg::{Lsn, SegmentName, SegmentSize};

/// A commit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub xid: u32,
    /// Where the record starts.
    pub lsn: Lsn,
    /// As recovery compares it, in UTC with microseconds: `2026-11-22 02:00:00.123456 UTC`. Text order is time order.
    pub time: String,
}

/// The commits of one stretch of WAL, in its order.
#[derive(Debug, Clone)]
pub struct History {
    pub commits: Vec<Commit>,
    /// Where a base backup had ended, so that what comes after it can be a target.
    pub backed_up: Lsn,
}

impl History {
    /// What is there after `recovery_target_time` with `recovery_target_inclusive = true`.
    pub fn up_to_time(&self, time: &str) -> &[Commit] {
        self.before(|commit| commit.time.as_str() > time)
    }

    /// The same with `recovery_target_inclusive = false`.
    pub fn before_time(&self, time: &str) -> &[Commit] {
        self.before(|commit| commit.time.as_str() >= time)
    }

    pub fn up_to_xid(&self, xid: u32) -> &[Commit] {
        &self.commits[..self.before_xid(xid).len() + 1]
    }

    pub fn before_xid(&self, xid: u32) -> &[Commit] {
        self.before(|commit| commit.xid == xid)
    }

    /// Everything whose record starts before `lsn`.
    pub fn before_lsn(&self, lsn: Lsn) -> &[Commit] {
        self.before(|commit| commit.lsn >= lsn)
    }

    /// A commit in the middle of those after the base backup, with others on both sides.
    pub fn middle(&self) -> &Commit {
        let reachable = &self.commits[self.before_lsn(self.backed_up).len()..];
        &reachable[reachable.len() / 2]
    }

    fn before(&self, stops: impl Fn(&Commit) -> bool) -> &[Commit] {
        let end = self.commits.iter().position(stops).unwrap_or(self.commits.len());
        &self.commits[..end]
    }
}

/// Reads the commit records between two locations from a cluster's `pg_wal`.
pub fn read_commits(identity: &Identity, data: &Path, from: Lsn, to: Lsn) -> Vec<Commit> {
    let dump = waldump(identity, data, from, to, "Transaction");
    let commits: Vec<Commit> = dump.lines().filter_map(commit).collect();
    assert!(!commits.is_empty(), "no commit in {from}..{to}");
    commits
}

/// Reads where a restore point was made, from the segments that hold everything before `to`.
pub fn read_restore_point(identity: &Identity, data: &Path, name: &str, to: Lsn) -> Lsn {
    let names = fs::read_dir(data.join("pg_wal")).expect("a cluster has a pg_wal").flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let oldest = names.filter(|name| name.len() == 24).min().expect("a cluster has WAL");
    let segment = SegmentName::parse(&oldest, SegmentSize::DEFAULT).expect("made with segments of 16 MiB");
    let dump = waldump(identity, data, segment.start(SegmentSize::DEFAULT), to, "XLOG");
    let of_it = dump.lines().find(|line| line.ends_with(&format!("desc: RESTORE_POINT {name}")));
    of_it
        .and_then(|line| field(line, "lsn: "))
        .expect("there is such a restore point")
        .parse()
        .expect("an LSN")
}

fn waldump(identity: &Identity, data: &Path, from: Lsn, to: Lsn, manager: &str) -> String {
    let installation = Installation::find().expect("there is WAL only where PostgreSQL is");
    let mut command = identity.command(installation.program("pg_waldump"), "KILL");
    command.arg("--path").arg(data.join("pg_wal")).args(["--rmgr", manager]);
    command.args(["--start", &from.to_string(), "--end", &to.to_string()]).env("TZ", "UTC").current_dir(data);
    // At the end of the WAL it says that it found no further record, and fails; what it printed holds.
    let output = command.output().expect("pg_waldump runs");
    String::from_utf8(output.stdout).expect("pg_waldump prints UTF-8")
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(name)?.1.split(',').next().map(str::trim)
}

/// Reads `rmgr: Transaction len (rec/tot): 34/34, tx: 745, lsn: 0/01510D50, prev …, desc: COMMIT 2026-11-22
/// 02:00:00.123456 UTC; …`.
fn commit(line: &str) -> Option<Commit> {
    let (head, description) = line.split_once("desc: COMMIT ")?;
    let time = description.split(';').next()?.trim();
    Some(Commit {
        xid: field(head, "tx: ")?.parse().ok()?,
        lsn: field(head, "lsn: ")?.parse().ok()?,
        time: time.to_owned(),
    })
}
