//! The network fails at every boundary between two messages, and inside of each message.
//!
//! A run over SSH is watched by the proxy, which notes what came at once. Then its connection is cut, held up or made
//! deaf after each of these pieces in turn. A command that was asked to be patient goes through all the same; nothing
//! is lost, and nothing that has a name is half.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::campaign::Campaign;
use super::{length, scene};
use crate::support::{Account, Direction, Ending, Outcome, Pair, Site, SshAccount, wait_until};

/// What is done to the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Cut(Ending),
    /// Nothing is forwarded for a moment.
    Stall,
    /// One side is not heard for a moment.
    StallOneWay(Direction),
    /// The server hears and does what it is told, but its answers never arrive: the connection is cut instead.
    AnswersAreLost,
}

const FAULTS: [Fault; 6] = [
    Fault::Cut(Ending::Reset),
    Fault::Cut(Ending::Close),
    Fault::Stall,
    Fault::StallOneWay(Direction::Up),
    Fault::StallOneWay(Direction::Down),
    Fault::AnswersAreLost,
];

/// A pair with commits and a base backup, all of it in both places.
fn filled_pair() -> Option<(Pair, Account)> {
    let config = "[retention]\nkeep_last = 2\n";
    let site = Site::with().initdb("--wal-segsize=1").without_archiving().config(config);
    let pair = Pair::build(SshAccount::Shell, site)?;
    pair.site.repositories().iter().for_each(|repository| repository.forget());
    let account = scene::committed(&pair.site, || drop(pair.site.pgbak("base-backup").succeeds()));
    scene::archive_all(&pair.site);
    pair.site.pgbak("wal-sync").succeeds();
    Some((pair, account))
}

/// Runs pgbak while the link fails once, after a connection has uploaded so many bytes.
fn run_through(pair: &Pair, arguments: &str, after_bytes: u64, fault: Fault) -> Outcome {
    let proxy = &pair.proxy;
    match fault {
        Fault::Cut(ending) => {
            proxy.cut_times(after_bytes, ending, 1);
            let outcome = pair.site.pgbak(arguments);
            proxy.heal();
            return outcome;
        }
        Fault::Stall => proxy.stall_after(after_bytes),
        Fault::StallOneWay(way) => proxy.stall_one_way_after(after_bytes, way),
        Fault::AnswersAreLost => proxy.stall_one_way_after(after_bytes, Direction::Down),
    }
    let mut running = pair.site.call(arguments).start();
    wait_until("the link to stall", || running.has_ended() || proxy.is_stalled());
    let mut before = u64::MAX;
    wait_until("all that is under way to arrive", || {
        thread::sleep(Duration::from_millis(30));
        std::mem::replace(&mut before, proxy.uploaded_bytes()) == proxy.uploaded_bytes()
    });
    if fault == Fault::AnswersAreLost {
        proxy.cut_now(Ending::Reset);
    }
    proxy.heal();
    running.finish()
}

struct Deed<'a> {
    name: &'a str,
    pair: &'a Pair,
    prepare: &'a dyn Fn() -> String,
    law: &'a dyn Fn(&Outcome),
    /// With which exit codes it may give up: that of an operator's command must be none.
    gives_up_with: &'a [i32],
}

impl Deed<'_> {
    fn meets_every_fault(self) {
        let mut campaign = Campaign::begin(&format!("network/{}", self.name));
        let connections = self.pair.proxy.accepted();
        (self.law)(&self.pair.site.pgbak(&(self.prepare)()).succeeds());
        let pieces = &self.pair.proxy.uploaded_pieces()[connections..];
        let mut boundaries: Vec<u64> = pieces.iter().flatten().copied().collect();
        boundaries.sort_unstable();
        boundaries.dedup();
        // At each boundary, and in the middle of each message.
        let inside = boundaries.windows(2).map(|pair| u64::midpoint(pair[0], pair[1]));
        let points: Vec<u64> = boundaries.iter().copied().chain(inside.collect::<Vec<_>>()).collect();
        let all = points.iter().flat_map(|point| FAULTS.map(|fault| (*point, fault))).collect();
        let points = campaign.some_of(all, length::of(4, 300));
        let (count, mut given_up) = (points.len(), 0);
        for (point, fault) in points {
            let arguments = (self.prepare)();
            println!("{fault:?} after {point} bytes: {arguments}");
            let outcome = run_through(self.pair, &arguments, point, fault);
            assert!(outcome.code == 0 || self.gives_up_with.contains(&outcome.code), "{outcome}");
            (self.law)(&outcome);
            if outcome.code != 0 {
                given_up += 1;
                (self.law)(&self.pair.site.pgbak(&arguments).succeeds());
            }
        }
        campaign.end(&format!(
            "{count} faults at {} boundaries, {given_up} given up and repeated, 0 lost",
            boundaries.len()
        ));
    }
}

#[test]
fn a_base_backup_meets_every_fault_of_the_network() {
    let Some((mut pair, account)) = filled_pair() else { return };
    let deed = Deed {
        name: "base-backup",
        pair: &pair,
        prepare: &|| {
            pair.site.pgbak("prune").succeeds();
            "base-backup".to_owned()
        },
        law: &|outcome| {
            scene::assert_whole(&pair.site);
            assert_eq!(pair.local().backups(), pair.remote().backups(), "{outcome}");
        },
        gives_up_with: &[],
    };
    deed.meets_every_fault();
    scene::archive_all(&pair.site);
    pair.repair();
    pair.assert_both_restore(&account);
}

#[test]
fn a_wal_sync_meets_every_fault_of_the_network() {
    let Some((mut pair, account)) = filled_pair() else { return };
    let oldest = scene::first_segment(pair.local());
    let deed = Deed {
        name: "wal-sync",
        pair: &pair,
        prepare: &|| {
            let push = || pair.site.pgbak(&scene::push(&pair.site, &scene::new_segment(&pair.site)));
            (0..3).for_each(|_| drop(push().succeeds()));
            "wal-sync".to_owned()
        },
        law: &|outcome| scene::assert_synced(&pair.site, &oldest, outcome),
        gives_up_with: &[],
    };
    deed.meets_every_fault();
    scene::archive_all(&pair.site);
    pair.repair();
    pair.assert_both_restore(&account);
}

#[test]
fn a_wal_push_meets_every_fault_of_the_network() {
    let Some((mut pair, account)) = filled_pair() else { return };
    pair.site.add_to_config("\n[wal]\npush_to = [\"remote\"]\n");
    let deed = Deed {
        name: "wal-push",
        pair: &pair,
        prepare: &|| scene::push(&pair.site, &scene::new_segment(&pair.site)),
        law: &|outcome| {
            let name = outcome.arguments.rsplit_once('/').unwrap().1;
            if outcome.code == 0 || pair.remote().holds(name) {
                scene::assert_segment(&pair.site, pair.remote(), name);
            }
        },
        gives_up_with: &[1],
    };
    deed.meets_every_fault();
    scene::archive_all(&pair.site);
    pair.repair();
    pair.assert_both_restore(&account);
}

#[test]
fn a_restore_meets_every_fault_of_the_network() {
    let Some((pair, account)) = filled_pair() else { return };
    let directory = pair.site.path("restored");
    let deed = Deed {
        name: "restore",
        pair: &pair,
        prepare: &|| {
            let _ = fs::remove_dir_all(&directory);
            format!("restore --repository remote -D {}", directory.display())
        },
        law: &|outcome| scene::assert_restored(&pair.site, &directory, outcome),
        gives_up_with: &[],
    };
    deed.meets_every_fault();
    let mut restored = pair.site.restored_in(&directory);
    restored.launch();
    restored.wait_until_recovered();
    account.assert_holds_exactly(&restored, &account.history.commits);
}

#[test]
fn a_wal_fetch_meets_every_fault_of_the_network() {
    let Some((pair, _)) = filled_pair() else { return };
    (0..20).for_each(|_| drop(scene::new_segment(&pair.site)));
    scene::archive_all(&pair.site);
    pair.site.pgbak("wal-sync").succeeds();
    let fetches = scene::Fetches::of(&pair.site);
    let deed = Deed {
        name: "wal-fetch",
        pair: &pair,
        prepare: &|| fetches.next(&pair.site).replace("wal-fetch", "wal-fetch --repository remote"),
        law: &|outcome| fetches.assert_right(&pair.site, outcome),
        gives_up_with: &[200],
    };
    deed.meets_every_fault();
}

/// Each message takes a time of its own, and so the answers of two sessions come in any order.
#[test]
fn a_link_whose_delay_changes_all_the_time_costs_time_alone() {
    let Some((mut pair, account)) = filled_pair() else { return };
    let mut campaign = Campaign::begin("network/delays");
    let rounds = length::of(2, 40);
    for _ in 0..rounds {
        scene::archive_all(&pair.site);
        for arguments in ["base-backup", "wal-sync", "prune"] {
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                let (proxy, is_over, campaign) = (&pair.proxy, &is_over, &mut campaign);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        proxy.delay(Duration::from_millis(campaign.number() % 40));
                        thread::sleep(Duration::from_millis(5));
                    }
                });
                let outcome = pair.site.pgbak(arguments);
                is_over.store(true, Ordering::Relaxed);
                outcome.succeeds();
            });
            pair.proxy.heal();
        }
        scene::assert_whole(&pair.site);
        pair.assert_both_have_the_wal();
    }
    campaign.end(&format!("{rounds} rounds, 0 lost"));
    scene::archive_all(&pair.site);
    pair.repair();
    pair.assert_both_restore(&account);
}

/// Half a minute of silence on a connection that nobody knows any more, and then another one.
#[test]
fn a_link_that_is_forgotten_is_given_up_and_dialled_again() {
    let Some((mut pair, account)) = filled_pair() else { return };
    let mut campaign = Campaign::begin("network/forgotten");
    let rounds = length::of(1, 12);
    for _ in 0..rounds {
        scene::archive_all(&pair.site);
        let arguments = ["base-backup", "wal-sync"][campaign.below(2)];
        let bytes = 1_000 + campaign.number() % 20_000;
        println!("forgotten after {bytes} bytes: {arguments}");
        let running = pair.stop_in_the_middle(arguments, bytes);
        pair.proxy.strand();
        pair.proxy.heal();
        if let Some(running) = running {
            running.finish().succeeds();
        }
        scene::assert_whole(&pair.site);
    }
    campaign.end(&format!("{rounds} rounds, 0 lost"));
    scene::archive_all(&pair.site);
    pair.repair();
    pair.assert_both_restore(&account);
}
