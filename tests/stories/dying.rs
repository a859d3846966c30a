//! Death of pgbak itself, at any point of what it does to the server, and two of it at once.

use std::path::Path;

use crate::pair;
use crate::support::{Ending, Pair, Repository, Workload};

/// What had left before the death arrives, or is lost on the way.
fn the_network_recovers(pair: &Pair, round: u64) {
    if round % 2 == 1 {
        pair.proxy.cut_now(Ending::Reset);
    }
    pair.proxy.heal();
}

#[test]
fn a_backup_killed_anywhere_is_whole_or_absent_and_the_next_one_goes_through() {
    let mut pair = pair!(Shell);
    let workload = Workload::start(pair.site.cluster());
    workload.wait_for_more(50);
    let account = workload.finish(pair.site.cluster());
    pair.site.pgbak("base-backup").succeeds();
    let total_bytes = pair.proxy.uploaded_bytes();
    // The beginning and the end are the interesting parts: lease and directories there, records here.
    let early = [1_000, 4_000, 5_000, 6_000, 8_000];
    let even = (1..5).map(|fifth| total_bytes * fifth / 5);
    let late = [9_000, 6_000, 4_000, 3_000, 2_000, 1_000, 500].map(|left| total_bytes - left);
    let mut killed = 0;
    for (round, bytes) in early.into_iter().chain(even).chain(late).enumerate() {
        killed += u64::from(pair.kill_in_the_middle("base-backup", bytes));
        the_network_recovers(&pair, round as u64);
        if round % 4 == 3 {
            pair.assert_nothing_is_half();
        }
    }
    assert!(killed > 10, "{killed}");
    pair.site.pgbak("base-backup").succeeds();
    pair.archive_a_segment();
    pair.repair();
    for repository in pair.site.repositories() {
        let backups = repository.backups();
        let mut left = repository.files();
        left.retain(|file| file.starts_with("base-backups"));
        left.retain(|file| {
            !backups.iter().any(|backup| file.starts_with(Path::new("base-backups").join(backup)))
        });
        // A directory that was made and never written to may stay: storage knows objects, and deletes nothing else.
        assert!(left.is_empty(), "the dead left in {}: {left:?}", repository.name);
    }
    pair.assert_both_restore(&account);
    // Their digests were checked; a dozen of each to verify file by file would take too long.
    pair.site.repositories().iter().for_each(Repository::forget);
}

#[test]
fn a_wal_sync_killed_anywhere_loses_nothing_and_the_next_one_goes_through() {
    let mut pair = pair!(Chrooted);
    let workload = Workload::start(pair.site.cluster());
    pair.site.pgbak("base-backup").succeeds();
    workload.wait_for_more(200);
    let account = workload.finish(pair.site.cluster());
    // Each segment is a few hundred bytes, and so is a step: death comes between any two messages.
    let mut points = 0;
    for bytes in (1_500..).step_by(700) {
        pair.archive_a_segment();
        let killed = pair.kill_in_the_middle("wal-sync", bytes);
        the_network_recovers(&pair, points);
        points += 1;
        if !killed || points > 40 {
            break;
        }
    }
    assert!(points > 5, "{points}");
    pair.assert_nothing_is_half();
    pair.archive_a_segment();
    pair.repair();
    pair.assert_both_restore(&account);
}

#[test]
fn two_wal_syncs_at_once_do_not_harm_each_other() {
    let mut pair = pair!(Shell);
    let workload = Workload::start(pair.site.cluster());
    pair.site.pgbak("base-backup").succeeds();
    for round in 0..4 {
        workload.wait_for_more(100);
        pair.archive_a_segment();
        let first = pair.site.call("wal-sync").start();
        let second = pair.site.call("wal-sync");
        // On one machine a lock tells them of each other; on two there is none.
        let elsewhere = pair.site.fresh("state");
        let apart = round % 2 == 0;
        let second =
            if apart { second.env("PGBAK_STATE_DIRECTORY", elsewhere.to_str().unwrap()) } else { second };
        let outcomes = [second.start(), first].map(crate::support::Running::finish);
        let may_end_with: &[i32] = if apart { &[0] } else { &[0, 4] };
        for outcome in &outcomes {
            assert!(may_end_with.contains(&outcome.code), "{}{}", outcomes[0], outcomes[1]);
        }
        assert!(outcomes.iter().any(|outcome| outcome.code == 0));
        pair.assert_nothing_is_half();
    }
    let account = workload.finish(pair.site.cluster());
    pair.archive_a_segment();
    pair.repair();
    pair.assert_both_restore(&account);
}
