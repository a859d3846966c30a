//! Everything at once, on the same two repositories, under load, with deaths at random; then a restore to a random
//! moment, compared row by row with what was committed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::campaign::Campaign;
use super::{length, scene};
use crate::pair;
use crate::support::{Account, Pair, Workload, process, wait_until};
use pgbak::pg::Lsn;

const KILLED: i32 = 128 + 9;

/// How long after its time a kind of run may take that was always killed or locked out before.
const PATIENCE: Duration = Duration::from_secs(60);

/// One kind of run, over and over.
struct Crowd {
    arguments: &'static str,
    /// With which exit codes it may end; 4 is another run's lock.
    may_end_with: &'static [i32],
}

const CROWD: [Crowd; 6] = [
    Crowd { arguments: "base-backup", may_end_with: &[0, 4, KILLED] },
    Crowd { arguments: "wal-sync", may_end_with: &[0, 4, KILLED] },
    Crowd { arguments: "prune", may_end_with: &[0, 4, KILLED] },
    Crowd { arguments: "verify", may_end_with: &[0, 4, KILLED] },
    Crowd { arguments: "verify --quick", may_end_with: &[0, 4, KILLED] },
    Crowd { arguments: "restore", may_end_with: &[0, KILLED] },
];

impl Crowd {
    /// Runs it until the deadline, and until it has gone through once, with some patience; a third of the runs are
    /// killed at some moment. Counts how they ended.
    fn run(&self, pair: &Pair, campaign: &Mutex<Campaign>, deadline: Instant, ends: &Mutex<Ends>) {
        let directory = pair.site.fresh("restored");
        let goes_on = |now: Instant| {
            let has_gone_through = || ends.lock().unwrap().contains_key(&(self.arguments, 0));
            now < deadline || (now < deadline + PATIENCE && !has_gone_through())
        };
        while goes_on(Instant::now()) {
            let (dies, moment) = {
                let mut campaign = campaign.lock().unwrap();
                (campaign.below(3) == 0, Duration::from_millis(campaign.number() % 700))
            };
            let is_restore = self.arguments == "restore";
            let _ = fs::remove_dir_all(&directory);
            let arguments = match is_restore {
                true => format!("restore -D {}", directory.display()),
                false => self.arguments.to_owned(),
            };
            let mut running = pair.site.call(&arguments).start();
            let killed_at = Instant::now() + moment;
            if dies {
                wait_until("the moment of death", || running.has_ended() || Instant::now() > killed_at);
                running.signal(Signal::KILL);
            }
            let outcome = running.finish();
            assert!(self.may_end_with.contains(&outcome.code), "{outcome}");
            if is_restore {
                scene::assert_restored(&pair.site, &directory, &outcome);
            }
            let mut ends = ends.lock().unwrap();
            *ends.entry((self.arguments, outcome.code)).or_default() += 1;
        }
        let _ = fs::remove_dir_all(&directory);
    }
}

/// How many runs ended how.
type Ends = BTreeMap<(&'static str, i32), usize>;

/// pgbench, until it is dropped.
struct Load(Child);

impl Load {
    fn start(pair: &Pair, seconds: u64) -> Self {
        let cluster = pair.site.cluster();
        process::run(cluster.client("pgbench").args(["--initialize", "--quiet", "--scale=1"]));
        let mut pgbench = cluster.client("pgbench");
        pgbench.args(["--client=2", "--rate=150", "--no-vacuum", &format!("--time={seconds}")]);
        Self(pgbench.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgbench is installed"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn everything_at_once_with_deaths_at_random_loses_nothing() {
    let mut pair = pair!(Shell, config("[retention]\nkeep_last = 3\n"));
    pair.site.repositories().iter().for_each(|repository| repository.forget());
    let campaign = Campaign::begin("concurrency");
    let seconds = length::of(20, 600) as u64;
    let workload = Workload::start(pair.site.cluster());
    let load = Load::start(&pair, seconds + 60);
    pair.site.pgbak("base-backup").succeeds();
    let (campaign, ends) = (Mutex::new(campaign), Mutex::new(Ends::new()));
    let deadline = Instant::now() + Duration::from_secs(seconds);
    thread::scope(|scope| {
        for crowd in &CROWD {
            let (pair, campaign, ends) = (&pair, &campaign, &ends);
            scope.spawn(move || crowd.run(pair, campaign, deadline, ends));
        }
    });
    drop(load);
    let account = workload.finish(pair.site.cluster());
    pair.archive_a_segment();
    pair.repair();
    let (mut campaign, ends) = (campaign.into_inner().unwrap(), ends.into_inner().unwrap());
    println!("{ends:?}");
    let killed: usize = ends.iter().filter(|((_, code), _)| *code == KILLED).map(|(_, count)| count).sum();
    let done: usize = ends.iter().filter(|((_, code), _)| *code == 0).map(|(_, count)| count).sum();
    for crowd in &CROWD {
        assert!(ends.contains_key(&(crowd.arguments, 0)), "{} never went through: {ends:?}", crowd.arguments);
    }
    let rows = restores_to_random_commits(&mut pair, &account, &mut campaign);
    pair.assert_both_restore(&account);
    campaign.end(&format!("{seconds} s, {done} runs done, {killed} killed; {rows} rows compared, 0 lost"));
}

/// From each repository to a transaction of which nobody knew while it was committed.
fn restores_to_random_commits(pair: &mut Pair, account: &Account, campaign: &mut Campaign) -> usize {
    let oldest = pair.local().backups().into_iter().next().expect("there is a backup");
    let stopped: Lsn = pair.local().record(&oldest)["stop_lsn"].as_str().unwrap().parse().unwrap();
    let reachable = &account.history.commits[account.history.before_lsn(stopped).len()..];
    let mut rows = 0;
    for repository in ["first", "remote"] {
        for _ in 0..length::of(1, 4) {
            let target = &reachable[campaign.below(reachable.len())];
            // A location tells by itself from which backup on it can be reached; the number of a transaction does not.
            let (by, expected) = match campaign.flips() {
                true => (
                    format!("--target-lsn {}", target.lsn),
                    account.history.before_lsn(Lsn(target.lsn.0 + 1)),
                ),
                false => {
                    let by = format!("--backup {oldest} --target-xid {}", target.xid);
                    (by, account.history.up_to_xid(target.xid))
                }
            };
            println!("restored from {repository}, {by}");
            let restored = pair.site.restore(&format!("--repository {repository} {by}"));
            account.assert_holds_exactly(&restored, expected);
            rows += account.of(expected).len();
        }
    }
    rows
}

/// Listing and reading take their time, in which the other machine deletes what nobody needs.
#[test]
fn a_verify_is_not_alarmed_by_a_prune_on_another_machine() {
    let pair = pair!(Shell, config("[retention]\nkeep_last = 1\n"));
    for _ in 0..3 {
        pair.site.pgbak("base-backup").succeeds();
        (0..3).for_each(|_| drop(pair.archive_a_segment()));
    }
    pair.site.pgbak("wal-sync").succeeds();
    let there = format!(
        "[postgres]\nconnection = \"host=/nowhere\"\n\n[retention]\nkeep_last = 1\n\n[[repository]]\nname = \"remote\"\npath = \"{}\"\n",
        pair.remote().path.display()
    );
    let there = pair.site.write("there.toml", there);
    let elsewhere = pair.site.fresh("state");
    let before = pair.proxy.uploaded_bytes();
    let verify = "verify --repository remote";
    pair.site.pgbak(verify).succeeds();
    let bytes = pair.proxy.uploaded_bytes() - before;
    for (arguments, part) in [(verify, 60), (verify, 75), ("verify --quick --repository remote", 50)] {
        let _ = fs::remove_dir_all(pair.site.path("home/.local/state"));
        pair.site.pgbak("base-backup").succeeds();
        let running = pair.stop_in_the_middle(arguments, bytes * part / 100);
        let prune = pair.site.call("prune").env("PGBAK_CONFIG", there.to_str().unwrap());
        prune.env("PGBAK_STATE_DIRECTORY", elsewhere.to_str().unwrap()).run().succeeds();
        pair.proxy.heal();
        if let Some(running) = running {
            running.finish().succeeds();
        }
        pair.archive_a_segment();
        pair.site.pgbak("wal-sync").succeeds();
    }
    // And what is really gone is still found.
    let newest = pair.remote().backups().pop().unwrap();
    pair.remote().remove(&Path::new("base-backups").join(newest).join("backup_manifest"));
    pair.site.pgbak(verify).exits(3).stdout_has("[missing]");
}
