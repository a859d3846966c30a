//! The network fails at every boundary between two messages, and inside of each message.
//!
//! A run over SSH is watched by the proxy, which notes what came at once. Then its connection is cut, held up or made
//! deaf after each of these pieces in turn. A command that was asked to be patient goes through all the same; nothing
//! is lost, and nothing that has a name is half.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::campaign::Campaign;
use super::deed::Command;
use super::{length, scene};
use crate::support::{Account, Direction, Ending, Identity, Outcome, Pair, SshAccount, Sshd, wait_until};

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
    let pair = scene::build_pair(Sshd::start(&Identity::ordinary(), SshAccount::Shell)?)?;
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

fn meets_every_fault(command: Command) {
    let Some((mut pair, account)) = filled_pair() else { return };
    if command == Command::WalPush {
        pair.site.add_to_config("\n[wal]\npush_to = [\"remote\"]\n");
    }
    let mut campaign = Campaign::begin(&format!("network/{}", command.name()));
    let mut deed = command.on(&pair.site, pair.remote());
    let arguments = deed.prepare();
    let connections = pair.proxy.accepted();
    deed.assert_law(&pair.site.pgbak(&arguments).succeeds());
    let pieces = &pair.proxy.uploaded_pieces()[connections..];
    let boundaries: BTreeSet<u64> = pieces.iter().flatten().copied().collect();
    // At each boundary, and in the middle of each message.
    let inside = boundaries.iter().zip(boundaries.iter().skip(1)).map(|(a, b)| u64::midpoint(*a, *b));
    let points = boundaries.iter().copied().chain(inside);
    let all = points.flat_map(|point| FAULTS.map(|fault| (point, fault))).collect();
    let points = campaign.some_of(all, length::of(4, 300));
    let (count, mut given_up) = (points.len(), 0);
    for (point, fault) in points {
        let arguments = deed.prepare();
        println!("{fault:?} after {point} bytes: {arguments}");
        let outcome = run_through(&pair, &arguments, point, fault);
        deed.assert_law(&outcome);
        if outcome.code != 0 {
            // An operator's command is patient.
            let may_give_up = command.is_called_by_the_server() && command.failures().contains(&outcome.code);
            assert!(may_give_up, "{outcome}");
            given_up += 1;
            deed.assert_next_run_succeeds();
        }
    }
    campaign.end(&format!(
        "{count} faults at {} boundaries, {given_up} given up and repeated, 0 lost",
        boundaries.len()
    ));
    if command == Command::Restore {
        deed.assert_last_restored(&account);
    }
    drop(deed);
    if !command.only_reads() {
        scene::archive_all(&pair.site);
        pair.repair();
        pair.assert_both_restore(&account);
    }
}

#[test]
fn a_base_backup_meets_every_fault_of_the_network() {
    meets_every_fault(Command::BaseBackup);
}

#[test]
fn a_wal_sync_meets_every_fault_of_the_network() {
    meets_every_fault(Command::WalSync);
}

#[test]
fn a_wal_push_meets_every_fault_of_the_network() {
    meets_every_fault(Command::WalPush);
}

#[test]
fn a_restore_meets_every_fault_of_the_network() {
    meets_every_fault(Command::Restore);
}

#[test]
fn a_wal_fetch_meets_every_fault_of_the_network() {
    meets_every_fault(Command::WalFetch);
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
