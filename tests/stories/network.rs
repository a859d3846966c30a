//! Two places, and a bad network or a dying server between them. Each story ends in a restore from either place alone.

use std::fs;

use rustix::process::Signal;

use crate::pair;
use crate::support::{Ending, Pair, Workload, wait_until};

/// Writers for a moment, with a backup that goes through in `meanwhile`.
macro_rules! under_load {
    ($pair:expr, $meanwhile:expr) => {{
        let workload = Workload::start($pair.site.cluster());
        workload.wait_for_more(100);
        $meanwhile;
        workload.wait_for_more(100);
        let account = workload.finish($pair.site.cluster());
        $pair.archive_a_segment();
        account
    }};
}

/// The server dies under pgbak and is started again; returns how pgbak took it.
fn the_server_dies(pair: &mut Pair, arguments: &str, after_bytes: u64) -> crate::support::Outcome {
    let running = pair.stop_in_the_middle(arguments, after_bytes).expect("it uploads more than that");
    pair.sshd.kill();
    pair.proxy.heal();
    pair.sshd.start_again();
    running.finish()
}

#[test]
fn a_backup_and_all_wal_are_in_both_places_and_each_restores_alone() {
    let mut pair = pair!(Chrooted);
    let account = under_load!(pair, pair.site.pgbak("base-backup").succeeds());
    pair.site.pgbak("wal-sync").succeeds();
    assert_eq!(pair.local().backups(), pair.remote().backups());
    pair.assert_both_have_the_wal();
    pair.assert_nothing_is_half();
    pair.assert_both_restore(&account);
    let before = (pair.local().files(), pair.remote().files());
    pair.repair();
    assert_eq!((pair.local().files(), pair.remote().files()), before, "there was nothing to repair");
}

#[test]
fn a_server_that_dies_and_comes_back_costs_nothing() {
    let mut pair = pair!(Shell);
    let account = under_load!(pair, {
        let outcome = the_server_dies(&mut pair, "base-backup --json", 1_000_000);
        pair.assert_report_is_true(&outcome);
        pair.assert_nothing_is_half();
        assert_eq!(pair.local().backups().len(), 1);
    });
    let outcome = the_server_dies(&mut pair, "wal-sync", 100_000);
    assert!([0, 3].contains(&outcome.code), "{outcome}");
    pair.assert_nothing_is_half();
    pair.repair();
    pair.assert_both_restore(&account);
}

#[test]
fn a_link_that_is_cut_after_every_so_many_bytes_goes_unnoticed() {
    let mut pair = pair!(Chrooted);
    // So slow that acknowledgements come back before the next cut.
    pair.proxy.throttle(5_000_000);
    let account = under_load!(pair, {
        for (after_bytes, ending) in [(2_000_003, Ending::Close), (1_000_001, Ending::Reset)] {
            pair.proxy.cut_every(after_bytes, ending);
            let cuts = pair.proxy.cuts();
            pair.site.pgbak("base-backup").succeeds();
            assert!(pair.proxy.cuts() > cuts, "nothing was cut after {after_bytes}");
            pair.assert_nothing_is_half();
        }
    });
    for (after_bytes, ending) in [(10_007, Ending::Reset), (30_011, Ending::Close)] {
        pair.proxy.cut_times(after_bytes, ending, 3);
        let cuts = pair.proxy.cuts();
        pair.site.pgbak("wal-sync").succeeds();
        assert!(pair.proxy.cuts() > cuts, "nothing was cut after {after_bytes}");
        pair.assert_both_have_the_wal();
        pair.assert_nothing_is_half();
        (0..30).for_each(|_| drop(pair.archive_a_segment()));
    }
    pair.proxy.heal();
    pair.repair();
    pair.assert_both_restore(&account);
}

#[test]
fn a_link_on_which_nothing_gets_through_is_given_up_when_asked_to() {
    let mut pair = pair!(Shell);
    let account = under_load!(pair, pair.site.pgbak("base-backup").succeeds());
    for arguments in ["base-backup", "wal-sync"] {
        for after_bytes in [500, 5_000] {
            pair.proxy.cut_every(after_bytes, Ending::Reset);
            let mut running = pair.site.call(arguments).start();
            wait_until("the second attempt", || {
                assert!(!running.has_ended(), "it ended: {}", running.stderr_so_far());
                running.stderr_so_far().matches("trying again").count() >= 2
            });
            running.signal(Signal::TERM);
            running.finish().exits(143);
            pair.assert_nothing_is_half();
        }
    }
    pair.proxy.heal();
    pair.repair();
    pair.assert_both_restore(&account);
}

#[test]
fn silence_is_waited_for_no_longer_than_it_takes_to_call_again() {
    let mut pair = pair!(Chrooted);
    let account = under_load!(pair, {});
    let during_login = 1_500;
    for (bytes, backups) in [(during_login, 1), (6_000, 2), (1_000_000, 3)] {
        let running = pair.stop_in_the_middle("base-backup --json", bytes);
        let mut running = running.expect("it uploads more than that");
        if bytes == during_login {
            pair.proxy.strand();
        } else {
            wait_until("the local copy to be there", || pair.local().backups().len() == backups);
            assert!(!running.has_ended(), "{}", running.stderr_so_far());
        }
        pair.proxy.heal();
        let outcome = running.finish().succeeds();
        assert_eq!(outcome.stderr.contains("trying again"), bytes == during_login, "{outcome}");
        pair.assert_report_is_true(&outcome);
    }

    let running = pair.stop_in_the_middle("wal-sync", 6_000).expect("it uploads more than that");
    running.signal(Signal::TERM);
    running.finish().exits(143);
    pair.proxy.heal();
    pair.assert_nothing_is_half();
    let running = pair.stop_in_the_middle("wal-sync", 6_000).expect("it uploads more than that");
    pair.proxy.heal();
    running.finish().succeeds();
    pair.repair();
    pair.assert_both_restore(&account);
}

/// PostgreSQL asks for its WAL while nobody can give it, and while only one of two can.
#[test]
fn recovery_stops_while_every_repository_is_away_and_goes_on_from_the_one_that_is_back() {
    let mut pair = pair!(Shell);
    pair.site.cluster().sql("CREATE TABLE t (id int)");
    pair.site.pgbak("base-backup").succeeds();
    for id in 0..40 {
        pair.site.cluster().sql(&format!("INSERT INTO t VALUES ({id})"));
        pair.site.cluster().switch_wal();
    }
    let last = pair.archive_a_segment();
    pair.site.pgbak("wal-sync").succeeds();

    let directory = pair.site.fresh("restored");
    pair.site.pgbak(&format!("restore -D {}", directory.display())).succeeds();
    let mut restored = pair.site.restored_in(&directory);
    restored.launch();
    wait_until("recovery to be under way", || restored.log().contains("restored log file"));
    restored.freeze();
    let (home, away) = (pair.local().path.clone(), pair.site.path("away"));
    fs::rename(&home, &away).unwrap();
    pair.sshd.kill();
    let fetched = pair.site.fresh("fetched");
    pair.site.pgbak(&format!("wal-fetch {last} {}", fetched.display())).exits(200);
    assert!(!fetched.exists());
    restored.thaw();
    assert!(!restored.wait_until_it_ends(), "it must not go on:\n{}", restored.log());
    assert!(!restored.log().contains("archive recovery complete"), "{}", restored.log());
    assert!(restored.log().contains("FATAL"), "{}", restored.log());

    pair.sshd.start_again();
    let fetched = pair.site.fresh("fetched");
    pair.site.pgbak(&format!("wal-fetch {last} {}", fetched.display())).succeeds();
    assert_eq!(
        fs::read(&fetched).unwrap(),
        fs::read(pair.site.cluster().data.join("pg_wal").join(&last)).unwrap()
    );
    // A restore from nothing goes to the repository that is there.
    let remote_alone = pair.site.restore("");
    assert_eq!(remote_alone.sql("SELECT count(*) FROM t"), "40");
    drop(remote_alone);

    // Where the archive ends, only both together can tell.
    fs::rename(&away, &home).unwrap();
    restored.start();
    restored.wait_until_recovered();
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "40");
}
