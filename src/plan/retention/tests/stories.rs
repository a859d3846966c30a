//! Plans that can be checked by hand. A quarter of a segment takes fifteen minutes: 96 of them are a day.

use super::*;
use crate::plan::recovery::tests::{SIZE, SYSTEM, at, backup, lsn, name, timeline};

const FORMER: SystemIdentifier = SystemIdentifier(7_000_000_000_000_000_001);

/// A backup a day, at two in the morning (quarter 8), and all WAL.
fn daily(days: u64) -> World {
    let world = (0..days).fold(World::new(), |world, day| world.backup(1, 96 * day + 8, 96 * day + 9));
    world.wal(1, 0..24 * days)
}

fn planned(world: &World, policy: &Policy, now: u64) -> RetentionPlan {
    plan(&situation(&world.catalog(), at(now)), policy).unwrap()
}

fn refused(situation: &Situation<'_>) -> String {
    let error = plan(situation, &keep_last(1)).unwrap_err();
    let hint = error.hint().unwrap();
    assert!(hint.ends_with('.') && !error.to_string().ends_with('.'), "{error}\n{hint}");
    error.to_string()
}

/// The days on which the kept backups were taken.
fn kept_days(world: &World, plan: &RetentionPlan) -> Vec<u64> {
    let start = |backup: &BackupInfo| (backup.start_lsn.0 / lsn(1).0) / 96;
    let kept = kept(plan);
    world.backups.iter().filter(|backup| kept.contains(&backup.name)).map(start).collect()
}

fn reason(plan: &RetentionPlan, start: u64) -> &str {
    let found = plan.backups.iter().find(|backup| backup.name == name(start)).unwrap();
    &found.verdict.reason
}

#[test]
fn the_newest_are_kept_with_all_wal_since_the_oldest_of_them() {
    let world = daily(5);
    let plan = planned(&world, &keep_last(2), 96 * 5);
    assert_eq!(kept_days(&world, &plan), [3, 4]);
    assert_eq!(kept_segments(&world, &plan, 1), (3 * 24 + 2..5 * 24).collect::<Vec<_>>());
    assert_eq!(reason(&plan, 8), "no rule keeps it");
    assert_eq!(reason(&plan, 96 * 4 + 8), "one of the newest 2");
    let wal: Vec<_> = plan.wal.iter().map(|wal| (wal.verdict.deletes(), &*wal.verdict.reason)).collect();
    let since = format!("since {} began", name(96 * 3 + 8));
    assert_eq!(wal, [(true, "no kept backup needs it"), (false, &*since)]);
}

#[test]
fn days_weeks_and_months_count_that_have_a_backup_in_utc() {
    // The 22nd of November 2026 is a Sunday.
    let world = daily(20);
    let policy = |daily, weekly, monthly| Policy {
        keep_daily: daily,
        keep_weekly: weekly,
        keep_monthly: monthly,
        ..nothing()
    };
    let days = |policy| kept_days(&world, &planned(&world, &policy, 96 * 20));
    assert_eq!(days(policy(3, 0, 0)), [17, 18, 19]);
    assert_eq!(days(policy(0, 3, 0)), [7, 14, 19], "Sundays, and the week that is not over");
    assert_eq!(days(policy(0, 9, 0)), [0, 7, 14, 19], "there are no more");
    assert_eq!(days(policy(0, 0, 2)), [8, 19], "the last of November, and of December so far");
    let mut sparse = daily(20);
    sparse.backups.retain(|backup| [name(8), name(96 + 8), name(96 * 19 + 8)].contains(&backup.name));
    let plan = planned(&sparse, &policy(2, 0, 0), 96 * 20);
    assert_eq!(kept_days(&sparse, &plan), [1, 19], "a day without a backup does not count");
    assert_eq!(reason(&plan, 96 + 8), "the newest of 2026-11-23 (UTC)");
}

#[test]
fn what_is_recent_is_kept_even_if_it_is_damaged() {
    let mut world = daily(5);
    world.backups[3].damaged_pages = vec!["block 7 of base/5/16384".to_owned()];
    let policy = Policy { keep_within: Some(TimeDelta::days(2)), ..nothing() };
    let plan = planned(&world, &policy, 96 * 5);
    assert_eq!(kept_days(&world, &plan), [3, 4]);
    assert_eq!(reason(&plan, 96 * 3 + 8), "not older than 2 days");
    assert_eq!(plan.backups[3].damage.as_deref(), Some("block 7 of base/5/16384"));
}

#[test]
fn the_last_good_one_stays_whatever_the_policy_says() {
    let mut world = daily(4);
    world.backups[3].damaged_pages = vec!["x".to_owned()];
    let catalog = world.catalog();
    let mut situation = situation(&catalog, at(96 * 4));
    situation.damage.insert(name(96 * 2 + 8), "base.tar.zst is missing".to_owned());
    let plan = plan(&situation, &nothing()).unwrap();
    assert_eq!(kept_days(&world, &plan), [1]);
    assert_eq!(reason(&plan, 96 + 8), "the last good one");
    assert_eq!(kept_segments(&world, &plan, 1), (26..96).collect::<Vec<_>>());
}

#[test]
fn damaged_ones_do_not_count_among_the_newest() {
    let mut world = daily(5);
    world.backups[4].damaged_pages = vec!["x".to_owned()];
    let plan = planned(&world, &keep_last(2), 96 * 5);
    assert_eq!(kept_days(&world, &plan), [2, 3, 4]);
    assert_eq!(reason(&plan, 96 * 4 + 8), "fewer than 2 good ones are newer");
    world.backups[4].damaged_pages.clear();
    world.backups[1].damaged_pages = vec!["x".to_owned()];
    let plan = planned(&world, &keep_last(2), 96 * 5);
    assert_eq!(kept_days(&world, &plan), [3, 4]);
    assert_eq!(reason(&plan, 96 + 8), "damaged, and no rule keeps it");
}

#[test]
fn a_window_keeps_the_backup_that_it_begins_with_and_older_ones_only_what_makes_them_consistent() {
    let world = daily(10);
    let policy = Policy { keep_weekly: 2, pitr_window: Some(TimeDelta::days(2)), ..nothing() };
    // It begins on day 7 at one in the morning, before that day's backup.
    let plan = planned(&world, &policy, 96 * 9 + 4);
    assert_eq!(kept_days(&world, &plan), [6, 7, 9], "day 7 is a Sunday, and 9 the newest");
    assert_eq!(reason(&plan, 96 * 6 + 8), "the last 2 days begin with it");
    assert_eq!(kept_segments(&world, &plan, 1), (6 * 24 + 2..240).collect::<Vec<_>>());
    let policy = Policy { keep_monthly: 2, ..policy };
    let later = planned(&world, &Policy { pitr_window: Some(TimeDelta::hours(12)), ..policy }, 96 * 10);
    assert_eq!(kept_days(&world, &later), [7, 8, 9], "November has day 8");
    let expected: Vec<u64> = [7 * 24 + 2, 8 * 24 + 2].into_iter().chain(9 * 24 + 2..240).collect();
    assert_eq!(kept_segments(&world, &later, 1), expected);
    let reach: Vec<_> = later.backups.iter().filter_map(|backup| backup.reach).collect();
    assert_eq!(reach, [Reach::ToItsStop, Reach::ToItsStop, Reach::Onward]);
}

#[test]
fn behind_a_gap_a_window_needs_another_backup() {
    let mut world = daily(6);
    world.archive = WalArchive::new(SIZE);
    let world = world.wal(1, (0..80).chain(82..144));
    let policy = Policy { keep_last: 1, pitr_window: Some(TimeDelta::days(4)), ..nothing() };
    let plan = planned(&world, &policy, 96 * 6);
    // The window begins with day 2; segment 80 is of day 3.
    assert_eq!(kept_days(&world, &plan), [1, 3, 4, 5]);
    assert_eq!(reason(&plan, 96 + 8), "the last 4 days begin with it");
    assert_eq!(reason(&plan, 96 * 3 + 8), "it shows where WAL of the last 4 days is not missing");
    assert_eq!(reason(&plan, 96 * 4 + 8), "part of the last 4 days can be restored from no older one");
}

#[test]
fn after_a_restore_to_an_earlier_time_the_backup_that_leads_there_stays() {
    // On day 3, somebody went back to noon of day 1, and has taken no backup since.
    let switch = 96 + 48;
    let world = daily(3).history(2, &[(1, switch)]).wal(2, switch / 4..switch / 4 + 24);
    let plan = planned(&world, &keep_last(1), 96 * 4);
    assert_eq!(kept_days(&world, &plan), [1, 2]);
    assert_eq!(reason(&plan, 96 + 8), "the last good one that leads to timeline 2");
    assert_eq!(kept_segments(&world, &plan, 1), (26..72).collect::<Vec<_>>());
    assert_eq!(kept_segments(&world, &plan, 2), (switch / 4..switch / 4 + 24).collect::<Vec<_>>());
}

#[test]
fn partial_segments_and_notes_go_with_their_segments_and_histories_never() {
    let mut world = daily(3).partial(1, 20).partial(1, 72).history(2, &[(1, 285)]);
    for segment in [2, 50] {
        world.file(&format!("00000001000000000000{segment:04X}.00000028.backup"), 4 * segment);
    }
    world.file("0000000100000000000FFFFF", 9);
    let plan = planned(&world, &keep_last(1), 96 * 3);
    let catalog = after(&world.catalog(), &plan);
    let left = catalog.archive(SYSTEM).unwrap();
    assert_eq!(left.partials().keys().map(|partial| partial.number).collect::<Vec<_>>(), [72]);
    assert_eq!(left.backup_notes().iter().collect::<Vec<_>>(), ["000000010000000000000032.00000028.backup"]);
    assert!(left.histories().contains_key(&timeline(2)));
    let misfit = WalFiles::Named("0000000100000000000FFFFF".to_owned());
    assert!(plan.wal.iter().any(|wal| wal.files == misfit && !wal.verdict.deletes()));
}

/// Days 0 to 3 of a cluster, and then its successor, whose WAL begins anew.
fn upgraded() -> Catalog {
    let world = daily(4);
    let mut backups = world.backups.clone();
    let mut successor = WalArchive::new(SIZE);
    for (day, info) in backups.iter_mut().enumerate() {
        if day >= 2 {
            (info.start_lsn, info.stop_lsn) = (lsn(4 * day as u64), lsn(4 * day as u64 + 1));
        } else {
            info.system_identifier = FORMER;
        }
    }
    let mut former = WalArchive::new(SIZE);
    for number in 0..48 {
        let segment = SegmentName { timeline: timeline(1), number };
        let stored = |at| StoredAs { size_bytes: 1, stored_at: at };
        former
            .add(&WalFileName::parse(&segment.file_name(SIZE).to_string()).unwrap(), stored(at(4 * number)));
        if number < 20 {
            let name = WalFileName::parse(&segment.file_name(SIZE).to_string()).unwrap();
            successor.add(&name, stored(at(192 + 4 * number)));
        }
    }
    Catalog::new(backups, vec![], BTreeMap::from([(FORMER, former), (SYSTEM, successor)]))
}

fn kept_of(catalog: &Catalog, plan: &RetentionPlan, system: SystemIdentifier) -> (usize, Vec<u64>) {
    let left = after(catalog, plan);
    let numbers = left.archive(system).map(segments).unwrap_or_default();
    (left.backups_of(system).count(), numbers.iter().map(|segment| segment.number).collect())
}

#[test]
fn a_former_cluster_counts_by_time_and_its_wal_goes_with_its_last_backup() {
    let catalog = upgraded();
    let now = at(96 * 4);
    let three = plan(&situation(&catalog, now), &keep_last(3)).unwrap();
    assert_eq!(kept_of(&catalog, &three, FORMER), (1, (26..48).collect()));
    assert_eq!(kept_of(&catalog, &three, SYSTEM), (2, (2..20).collect()));
    let two = plan(&situation(&catalog, now), &keep_last(2)).unwrap();
    assert_eq!(kept_of(&catalog, &two, FORMER), (0, vec![]));
    assert_eq!(kept_of(&catalog, &two, SYSTEM), (2, (2..20).collect()));
    assert_eq!(two.wal[0].verdict.reason, "no backup of this cluster is kept");
    let window = Policy { pitr_window: Some(TimeDelta::days(3)), ..keep_last(1) };
    let window = plan(&situation(&catalog, now), &window).unwrap();
    assert_eq!(kept_of(&catalog, &window, FORMER), (1, (2..48).collect()), "it was at work in the window");
}

#[test]
fn the_configured_cluster_keeps_its_last_backup_and_its_wal() {
    let catalog = upgraded();
    let mut situation = situation(&catalog, at(96 * 4));
    situation.cluster = Some(FORMER);
    let plan = plan(&situation, &keep_last(1)).unwrap();
    assert_eq!(kept_of(&catalog, &plan, FORMER), (1, (26..48).collect()));
    assert_eq!(kept_of(&catalog, &plan, SYSTEM).0, 1);
}

#[test]
fn wal_of_a_cluster_without_a_backup_is_kept_while_it_is_new() {
    let mut catalog = upgraded();
    let former: Vec<_> = catalog.backups_of(FORMER).cloned().collect();
    catalog = Catalog::new(former, vec![], catalog.archives().clone());
    let policy = keep_last(1);
    let new = plan(&situation(&catalog, at(96 * 4)), &policy).unwrap();
    assert_eq!(kept_of(&catalog, &new, SYSTEM), (0, (0..20).collect()));
    let reasons: Vec<_> = new.wal.iter().map(|wal| &*wal.verdict.reason).collect();
    assert_eq!(reasons.last(), Some(&"newer than every backup"));
}

#[test]
fn a_backup_that_is_used_stays_with_all_wal_from_its_start_on() {
    let world = daily(4);
    let catalog = world.catalog();
    let mut situation = situation(&catalog, at(96 * 4));
    situation.in_use.insert(name(8), "process 7 on vault".to_owned());
    let policy = Policy { pitr_window: Some(TimeDelta::hours(1)), ..keep_last(1) };
    let plan = plan(&situation, &policy).unwrap();
    assert_eq!(kept_days(&world, &plan), [0, 3]);
    assert_eq!(reason(&plan, 8), "in use by process 7 on vault");
    assert_eq!(kept_segments(&world, &plan, 1), (2..96).collect::<Vec<_>>());
}

fn leftover(key: &str, kind: LeftoverKind, changed_at: DateTime<Utc>) -> Leftover {
    Leftover { key: key.to_owned(), kind, changed_at, stored_bytes: 1 }
}

#[test]
fn while_a_backup_is_written_no_wal_goes() {
    let world = daily(4);
    let catalog = world.catalog();
    let mut situation = situation(&catalog, at(96 * 4));
    let held = LeftoverKind::Unrecorded(Unrecorded::Held("process 7 on vault".to_owned()));
    situation.leftovers.push(leftover("base-backups/base_backup_20261122_120000", held, at(0)));
    let plan = plan(&situation, &keep_last(1)).unwrap();
    assert_eq!(kept_days(&world, &plan), [3]);
    assert!(!plan.wal.iter().any(|wal| wal.verdict.deletes()));
    assert_eq!(plan.wal[0].verdict.reason, "base_backup_20261122_120000 is being written, and may need it");
    assert_eq!(plan.leftovers[0].verdict.reason, "being written by process 7 on vault");
    assert!(!plan.leftovers[0].verdict.deletes());
}

#[test]
fn garbage_is_a_day_old_by_both_clocks() {
    let world = daily(4);
    let catalog = world.catalog();
    let now = at(96 * 4);
    let mut situation = situation(&catalog, now);
    let abandoned = LeftoverKind::Unrecorded(Unrecorded::Abandoned);
    let half = LeftoverKind::Unrecorded(Unrecorded::HalfDeleted);
    let (old, young) = (now - DAY, now - DAY + TimeDelta::seconds(1));
    for kind in [LeftoverKind::Upload, LeftoverKind::Lease, abandoned] {
        situation.leftovers.push(leftover("old", kind.clone(), old));
        situation.leftovers.push(leftover("young", kind, young));
    }
    situation.leftovers.push(leftover("half", half, now));
    let garbage = |situation: &Situation<'_>| -> Vec<String> {
        let plan = plan(situation, &keep_last(1)).unwrap();
        let deleted = plan.leftovers.into_iter().filter(|leftover| leftover.verdict.deletes());
        deleted.map(|leftover| leftover.leftover.key).collect()
    };
    assert_eq!(garbage(&situation), ["old", "old", "old", "half"]);
    situation.newest_object_at = Some(now - TimeDelta::hours(1));
    assert_eq!(garbage(&situation), ["half"], "its machine's clock may be behind");
    situation.newest_object_at = Some(now + TimeDelta::hours(1));
    assert_eq!(garbage(&situation), ["old", "old", "old", "half"]);
}

#[test]
fn what_cannot_be_understood_whole_is_not_touched() {
    let mut world = daily(2);
    world.damaged.push(crate::catalog::DamagedBackup {
        name: "base_backup_20261122_120000".to_owned(),
        reason: "backup_info.toml has format 7; this pgbak reads format 1".to_owned(),
        hint: Some("Upgrade this one.".to_owned()),
    });
    let catalog = world.catalog();
    assert_eq!(
        refused(&situation(&catalog, at(96 * 2))),
        "base_backup_20261122_120000 has a record that cannot be read, so it is not known what it needs: \
         backup_info.toml has format 7; this pgbak reads format 1"
    );
    world.damaged[0].hint = None;
    let catalog = world.catalog();
    refused(&situation(&catalog, at(96 * 2)));
    world.damaged.clear();
    world.archive.add_history(timeline(2), b"nonsense");
    let catalog = world.catalog();
    assert!(refused(&situation(&catalog, at(96 * 2))).starts_with("the history of timeline 2 of cluster "));
}

#[test]
fn without_a_good_backup_or_with_another_clusters_nothing_is_deleted() {
    let empty = World::new().wal(1, 0..9).catalog();
    assert!(refused(&situation(&empty, at(36))).starts_with("it holds no good backup (0 damaged)"));
    let mut world = daily(1);
    world.backups[0].damaged_pages = vec!["x".to_owned()];
    let catalog = world.catalog();
    assert!(refused(&situation(&catalog, at(96))).starts_with("it holds no good backup (1 damaged)"));
    let catalog = daily(1).catalog();
    let foreign = Situation { cluster: Some(FORMER), ..situation(&catalog, at(96)) };
    assert_eq!(
        refused(&foreign),
        format!("it holds no backup of the cluster {FORMER} in the data directory, only of {SYSTEM}")
    );
}

#[test]
fn a_clock_that_jumped_is_not_believed() {
    let catalog = daily(2).catalog();
    let newest = at(96 * 2);
    let at_time = |now| Situation { newest_object_at: Some(newest), ..situation(&catalog, now) };
    assert!(plan(&at_time(newest + DAY), &keep_last(1)).is_ok());
    let message = refused(&at_time(newest + DAY + TimeDelta::seconds(1)));
    assert!(
        message.starts_with("the clock says 2026-11-25T00:00:01+00:00, more than a day after"),
        "{message}"
    );
    assert!(plan(&at_time(newest - DAY), &keep_last(1)).is_ok());
    let message = refused(&at_time(newest - DAY - TimeDelta::seconds(1)));
    assert!(message.contains("more than a day before its newest object"), "{message}");
    // The machine that holds it may have another idea of the time, as long as a backup's own record agrees.
    let slow = Situation { newest_object_at: Some(at(0)), ..situation(&catalog, at(96 * 2)) };
    assert!(plan(&slow, &keep_last(1)).is_ok());
}

#[test]
fn backups_are_ordered_by_time_and_not_by_name() {
    let mut world = daily(3);
    let (first, last) = (world.backups[0].name, world.backups[2].name);
    (world.backups[0].name, world.backups[2].name) = (last, first);
    let plan = planned(&world, &keep_last(1), 96 * 3);
    assert_eq!(kept(&plan), [first], "the name of the oldest, which the newest has");
    assert_eq!(kept_segments(&world, &plan, 1), (50..72).collect::<Vec<_>>());
    assert_eq!(backup(1, 8, 9).name, first);
}
