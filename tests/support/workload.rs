//! Clients that write all the time, and an exact account of what they wrote.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use postgres::Client;

use super::history::{Commit, History};
use super::process::wait_until;
use super::{Cluster, Installation};
use pgbak::pg::Lsn;

/// Each transaction writes one to three rows of `ledger` and moves money between two rows of `account`, whose sum
/// is always 0; every seventh is rolled back.
const SCHEMA: &str = "
    CREATE TABLE ledger (id bigserial PRIMARY KEY, writer int, xid text DEFAULT pg_current_xact_id()::xid::text);
    CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
    INSERT INTO account SELECT id, 0 FROM generate_series(0, 9) AS id;
";

const WRITERS: i32 = 4;

/// Writers at work; they end with [`Workload::finish`], or when this is dropped.
pub struct Workload {
    start: Lsn,
    backed_up: Lsn,
    done: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Vec<u32>>>,
}

/// What the clients wrote, and in which order the server committed it.
pub struct Account {
    pub history: History,
    rows: BTreeMap<u32, Vec<i64>>,
}

impl Workload {
    pub fn start(cluster: &Cluster) -> Self {
        // PostgreSQL 12 and older spell the function differently; they are not supported.
        assert!(Installation::find().is_some_and(|installation| installation.major >= 13));
        let start = cluster.lsn();
        cluster.sql(SCHEMA);
        let (done, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |number| {
            let mut client = cluster.connect().expect("the cluster runs");
            let (done, committed) = (Arc::clone(&done), Arc::clone(&committed));
            thread::spawn(move || write_until(&mut client, number, &done, &committed))
        };
        Self { start, backed_up: start, writers: (0..WRITERS).map(writer).collect(), done, committed }
    }

    /// Waits until that many more transactions have been committed.
    pub fn wait_for_more(&self, transactions: u64) {
        let enough = self.committed.load(Ordering::Relaxed) + transactions;
        wait_until("the workload to go on", || {
            assert!(!self.writers.iter().any(JoinHandle::is_finished), "a writer gave up");
            self.committed.load(Ordering::Relaxed) >= enough
        });
    }

    /// Notes that a base backup has ended; see [`History::middle`].
    pub fn is_backed_up(&mut self, cluster: &Cluster) {
        self.backed_up = cluster.lsn();
    }

    /// Stops the writers and reads from the cluster's WAL what they did.
    pub fn finish(mut self, cluster: &Cluster) -> Account {
        self.done.store(true, Ordering::Relaxed);
        let writers = std::mem::take(&mut self.writers);
        let acknowledged: Vec<u32> =
            writers.into_iter().flat_map(|writer| writer.join().expect("a writer gave up")).collect();
        let mut rows: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
        let mut client = cluster.connect().expect("the cluster runs");
        for row in client.query("SELECT id, xid FROM ledger ORDER BY id", &[]).expect("ledger is there") {
            let xid: String = row.get(1);
            rows.entry(xid.parse().expect("a transaction has a number")).or_default().push(row.get(0));
        }
        let mut commits = cluster.commits_since(self.start);
        commits.retain(|commit| rows.contains_key(&commit.xid));
        assert!(acknowledged.iter().all(|xid| rows.contains_key(xid)), "an acknowledged transaction is lost");
        assert_eq!(commits.len(), rows.len(), "the WAL and the table tell of other transactions");
        Account { history: History { commits, backed_up: self.backed_up }, rows }
    }
}

impl Account {
    /// The rows that `commits` wrote, as [`Account::found_in`] reads them.
    pub fn of(&self, commits: &[Commit]) -> Vec<i64> {
        let mut ids: Vec<i64> = commits.iter().flat_map(|commit| &self.rows[&commit.xid]).copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The rows of a restored cluster. That money was neither made nor lost is asserted here.
    pub fn found_in(restored: &Cluster) -> Vec<i64> {
        assert_eq!(restored.sql("SELECT sum(balance) FROM account"), "0", "a transaction is there in half");
        let mut client = restored.connect().expect("the restored cluster runs");
        let rows = client.query("SELECT id FROM ledger ORDER BY id", &[]).expect("ledger is there");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Asserts that `restored` holds what `commits` wrote and perhaps what some of the next ones did, without a gap.
    #[track_caller]
    pub fn assert_holds_at_least(&self, restored: &Cluster, commits: &[Commit]) {
        let found = Self::found_in(restored);
        let all = &self.history.commits;
        let is_there = (commits.len()..=all.len()).any(|end| self.of(&all[..end]) == found);
        assert!(
            is_there,
            "{} rows are not what the first {} commits wrote, or more",
            found.len(),
            commits.len()
        );
    }

    /// Asserts that `restored` holds what `commits` wrote, all of it and nothing else.
    #[track_caller]
    pub fn assert_holds_exactly(&self, restored: &Cluster, commits: &[Commit]) {
        let (expected, found) = (self.of(commits), Self::found_in(restored));
        let missing: Vec<_> = expected.iter().filter(|id| found.binary_search(id).is_err()).collect();
        let surplus: Vec<_> = found.iter().filter(|id| expected.binary_search(id).is_err()).collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "of {} rows, missing: {missing:?}, surplus: {surplus:?}",
            expected.len()
        );
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }
}

/// Returns the transactions whose commit the server has acknowledged.
fn write_until(client: &mut Client, writer: i32, done: &AtomicBool, committed: &AtomicU64) -> Vec<u32> {
    let mut acknowledged = Vec::new();
    for round in 0i32.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        match write_once(client, writer, round) {
            Ok(Some(xid)) => acknowledged.push(xid),
            Ok(None) => {}
            // The test may stop the server, or drop a table, under a writer's feet.
            Err(_) => break,
        }
        committed.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

/// One transaction; `None` when it was rolled back, as every seventh is.
fn write_once(client: &mut Client, writer: i32, round: i32) -> Result<Option<u32>, postgres::Error> {
    let mut transaction = client.transaction()?;
    let insert = "INSERT INTO ledger (writer) SELECT $1 FROM generate_series(0, $2) RETURNING xid";
    let xid: String = transaction.query(insert, &[&writer, &(round % 3)])?[0].get(0);
    // Lower account first, so that no two writers wait for each other.
    let (from, to) = (round % 9, round % 9 + 1);
    for (account, amount) in [(from, -1i64), (to, 1)] {
        transaction
            .execute("UPDATE account SET balance = balance + $2 WHERE id = $1", &[&account, &amount])?;
    }
    if round % 7 == 6 {
        transaction.rollback()?;
        return Ok(None);
    }
    transaction.commit()?;
    Ok(Some(xid.parse().expect("a transaction has a number")))
}
