//! What happens to one cluster, told step by step.

use chrono::TimeDelta;

use super::*;

/// Two backups on timeline 1 and WAL to segment 9.
fn simple() -> World {
    World::new().backup(1, 4, 5).backup(1, 20, 22).wal(1, 1..=9)
}

#[test]
fn the_newest_backup_that_stopped_before_the_target_is_chosen() {
    assert_eq!(simple().chooses(&to(Target::End)), name(20));
    assert_eq!(simple().chooses(&to_time(30)), name(20));
    assert_eq!(simple().chooses(&to_time(21)), name(4), "it was still being taken");
    assert_eq!(simple().chooses(&to_lsn(21)), name(4));
    assert_eq!(simple().chooses(&to_lsn(22)), name(20));
}

#[test]
fn at_the_very_instant_at_which_a_backup_stopped_only_an_inclusive_target_is_certain() {
    assert_eq!(simple().chooses(&to_time(22)), name(20));
    assert_eq!(simple().chooses(&RecoveryRequest { exclusive: true, ..to_time(22) }), name(4));
}

#[test]
fn a_target_before_every_backup_is_refused_with_the_earliest_one() {
    assert_eq!(
        simple().refuses(&to_time(4)),
        "no backup of system 7439122314155001234 stopped before the target, 2026-11-22 01:00:00+00:00\n\
         The earliest restorable time is 2026-11-22 01:15:00+00:00."
    );
    assert!(simple().refuses(&to_lsn(4)).ends_with("The earliest restorable location is 0/1400000."));
    let exclusive = RecoveryRequest { exclusive: true, ..to_time(5) };
    assert!(
        simple().refuses(&exclusive).ends_with("Only times after 2026-11-22 01:15:00+00:00 can be restored.")
    );
}

#[test]
fn a_target_in_the_future_is_refused() {
    let error = plan(&simple().catalog(), &to_time(41), at(40)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the target time 2026-11-22 10:15:00+00:00 lies in the future (it is 2026-11-22 10:00:00+00:00)"
    );
}

#[test]
fn a_named_backup_that_stopped_after_the_target_is_refused_with_the_one_that_would_do() {
    assert_eq!(
        simple().refuses(&to_time(21).from(20)),
        "base_backup_20261122_050000 stopped at 2026-11-22 05:30:00+00:00 (0/5800000), after the target, \
         2026-11-22 05:15:00+00:00\n\
         Restore base_backup_20261122_010000, which stopped before the target: `--backup \
         base_backup_20261122_010000`."
    );
    assert!(
        simple()
            .refuses(&to_time(4).from(20))
            .ends_with("The earliest restorable time is 2026-11-22 01:15:00+00:00.")
    );
    assert_eq!(simple().chooses(&to_time(30).from(4)), name(4));
}

#[test]
fn an_unknown_name_is_refused_with_the_newest_one() {
    let request = RecoveryRequest { backup: Some("latest".to_owned()), ..to(Target::End) };
    let refusal = simple().refuses(&request);
    assert!(refusal.starts_with("there is no backup named \"latest\"\n"), "{refusal}");
    assert!(refusal.contains("base_backup_20261122_050000"), "{refusal}");
    assert_eq!(
        World::new().refuses(&to(Target::End)),
        "there is no backup to restore\nTake one with `pgbak base-backup`."
    );
}

#[test]
fn what_was_proven_is_what_the_settings_say() {
    let plan = simple().plan(&to_time(30)).unwrap();
    assert_eq!(
        plan.settings,
        [
            ("recovery_target_time", "2026-11-22 07:30:00.000000+00:00".to_owned()),
            ("recovery_target_inclusive", "true".to_owned()),
            ("recovery_target_timeline", "1".to_owned()),
            ("recovery_target_action", "promote".to_owned()),
        ]
    );
    assert_eq!(plan.wal, Some(WalRange { from: lsn(22), to: lsn(40) }));
    assert_eq!(plan.signal, SignalFile::Recovery);
    assert_eq!(plan.notes, [""; 0]);

    let microsecond = at(30) + TimeDelta::nanoseconds(1_999);
    let plan = simple().plan(&to(Target::Time(microsecond))).unwrap();
    assert_eq!(setting(&plan, "recovery_target_time"), Some("2026-11-22 07:30:00.000001+00:00"));
}

#[test]
fn each_target_has_its_own_setting_and_no_other() {
    let only = |target: Target| {
        let plan = simple().plan(&RecoveryRequest { exclusive: true, ..to(target) }).unwrap();
        let is_target = |key: &str| {
            !["recovery_target_action", "recovery_target_timeline", "recovery_target_inclusive"]
                .contains(&key)
        };
        let mut targets = plan.settings.iter().filter(|(key, _)| is_target(key));
        let first = targets.next().map(|(key, value)| format!("{key} = {value}"));
        assert_eq!(targets.next(), None);
        (first, setting(&plan, "recovery_target_inclusive").map(str::to_owned))
    };
    let excluded = Some("false".to_owned());
    assert_eq!(only(Target::End), (None, None));
    assert_eq!(only(Target::Immediate), (Some("recovery_target = immediate".into()), None));
    assert_eq!(
        only(Target::Lsn(lsn(30))),
        (Some("recovery_target_lsn = 0/7800000".into()), excluded.clone())
    );
    assert_eq!(only(Target::Xid(735)), (Some("recovery_target_xid = 735".into()), excluded));
    assert_eq!(
        only(Target::Name("it's \"it\"".into())),
        (Some("recovery_target_name = it's \"it\"".into()), None)
    );
}

#[test]
fn a_standby_follows_the_latest_timeline_unless_it_has_a_target() {
    let standby = |request| simple().plan(&RecoveryRequest { standby: true, ..request }).unwrap();
    let follows = standby(to(Target::End));
    assert_eq!(follows.signal, SignalFile::Standby);
    assert_eq!(follows.settings, [("recovery_target_timeline", "latest".to_owned())]);
    assert_eq!(setting(&standby(to_time(30)), "recovery_target_timeline"), Some("1"));
    let current = standby(to(Target::End).on(TargetTimeline::Current));
    assert_eq!(setting(&current, "recovery_target_timeline"), Some("1"));
}

#[test]
fn impossible_targets_are_refused() {
    for (target, message) in [
        (Target::Xid(2), "2 is not a transaction that commits"),
        (Target::Name(String::new()), "the name of the restore point is empty"),
        (Target::Name("x".repeat(64)), "has 64 bytes, more than 63"),
        (Target::Name("a\nb".into()), "holds control characters"),
    ] {
        let refusal = simple().refuses(&to(target));
        assert!(refusal.contains(message), "{refusal}");
    }
    assert!(simple().plan(&to(Target::Name("é".repeat(31)))).is_ok());
}

#[test]
fn an_action_or_exclusion_without_a_target_is_noted() {
    let request = RecoveryRequest { action: TargetAction::Shutdown, exclusive: true, ..to(Target::End) };
    let notes = simple().plan(&request).unwrap().notes;
    assert!(notes[0].contains("nothing to exclude"), "{notes:?}");
    assert!(notes[1].contains("no target at which to shutdown"), "{notes:?}");
}

#[test]
fn a_gap_before_the_target_is_refused_with_the_last_location_before_it() {
    let world = World::new().backup(1, 4, 5).wal(1, [1, 2, 3, 4, 7, 8]);
    assert_eq!(
        world.refuses(&to_lsn(30)),
        "cannot restore base_backup_20261122_010000 to 0/7800000: WAL segment 000000010000000000000005 is missing \
         from the archive, which is contiguous up to 0/5000000\n\
         Restore with `--target-lsn 0/4000000`, the last location that recovery is certain to reach before it."
    );
    assert_eq!(world.plan(&to_lsn(16)).unwrap().wal, Some(WalRange { from: lsn(5), to: lsn(20) }));
    for target in [Target::End, Target::Time(at(30)), Target::Xid(735), Target::Name("before".into())] {
        let refusal = world.refuses(&to(target));
        assert!(refusal.contains("000000010000000000000005 is missing"), "{refusal}");
    }
    assert_eq!(world.plan(&to(Target::Immediate)).unwrap().wal, None);
}

#[test]
fn a_gap_behind_the_target_does_no_harm_when_a_backup_in_between_shows_that_it_is_behind() {
    let gap_at_8 = World::new().backup(1, 4, 5).wal(1, [1, 2, 3, 4, 5, 6, 7, 10, 11]);
    assert!(gap_at_8.plan(&to_time(20)).is_err(), "nothing says what was written when");
    let shown = gap_at_8.clone().backup(1, 24, 25);
    assert_eq!(shown.chooses(&to_time(20)), name(4));
    assert!(shown.plan(&to_time(26)).is_err(), "nothing says so for the time behind the backup");

    let behind = gap_at_8.clone().backup(1, 40, 41);
    assert!(behind.plan(&to_time(20)).is_err(), "it stopped behind the gap, and so may the target");

    let mut lagging = shown;
    lagging.backups[1].source = BackupSource::Standby;
    assert!(lagging.plan(&to_time(20)).is_err(), "a standby may not have had all of it yet");
}

#[test]
fn a_missing_segment_right_behind_the_backup_is_a_gap_too() {
    let world = World::new().backup(1, 20, 22).wal(1, [6, 7]);
    assert!(world.refuses(&to(Target::End)).contains("000000010000000000000005 is missing"));
    assert!(
        world.refuses(&to_lsn(30)).ends_with("`--backup base_backup_20261122_050000 --target-immediate`.")
    );
}

#[test]
fn a_backup_that_stopped_at_a_segments_end_needs_the_next_one() {
    let world = World::new().backup(1, 20, 24).wal(1, [6]);
    assert_eq!(world.plan(&to_lsn(25)).unwrap().wal, Some(WalRange { from: lsn(24), to: lsn(28) }));
    assert!(world.plan(&to_lsn(28)).is_err());
}

#[test]
fn without_archived_wal_a_backup_can_be_restored_as_it_is() {
    let mut world = World::new().backup(1, 20, 22);
    let catalog = Catalog::new(world.backups.clone(), vec![], BTreeMap::new());
    for catalog in [catalog, world.catalog()] {
        let end = plan(&catalog, &to(Target::End), at(100)).unwrap();
        assert_eq!(end.wal, None);
        assert_eq!(
            end.notes,
            ["No WAL after the backup is archived: recovery ends where the backup stopped."]
        );
        assert!(plan(&catalog, &to(Target::Immediate), at(100)).is_ok());
        let instants = [Target::Time(at(22)), Target::Time(at(30))];
        let others = [Target::Lsn(lsn(22)), Target::Xid(735), Target::Name("before".into())];
        for target in instants.into_iter().chain(others) {
            let error = plan(&catalog, &to(target), at(100)).unwrap_err();
            assert!(matches!(error, RecoveryError::NothingArchived { .. }), "{error}");
            assert!(error.hint().unwrap().contains("--target-immediate"));
        }
    }
    world = world.wal(1, 1..=5);
    assert!(world.plan(&to_lsn(23)).is_ok());
}

#[test]
fn a_time_that_the_archive_provably_does_not_reach_is_refused() {
    let world = World::new().backup(1, 4, 5).wal(1, 1..=4).backup(1, 20, 22);
    let refusal = world.refuses(&to_time(30).from(4));
    assert!(refusal.contains("contiguous up to 0/5000000"), "{refusal}");
    assert!(world.plan(&to_time(18).from(4)).is_ok());
}

#[test]
fn an_end_before_a_later_backup_is_not_the_end() {
    let world = World::new().backup(1, 4, 5).wal(1, 1..=4).backup(1, 20, 22);
    assert!(world.refuses(&to(Target::End).from(4)).contains("000000010000000000000005 is missing"));
    assert_eq!(world.chooses(&to(Target::End)), name(20));
}

#[test]
fn an_idle_cluster_is_restored_with_a_note_about_its_newest_wal() {
    let world = World::new().backup(1, 20, 22).wal(1, [5]);
    let plan = world.plan(&to_time(90)).unwrap();
    assert_eq!(
        plan.notes,
        [
            "The newest WAL was archived at 2026-11-22 06:00:00+00:00, before the target: PostgreSQL will stop with an \
          error if nothing in it was committed after the target."
        ]
    );
}

#[test]
fn a_transaction_needs_wal_behind_the_backup_so_a_backup_without_any_is_passed_over() {
    let world = simple().backup(1, 44, 45);
    let plan = world.plan(&to(Target::Xid(735))).unwrap();
    assert_eq!(plan.backup, name(20));
    assert!(plan.notes[0].starts_with("A newer backup was passed over: cannot restore"), "{:?}", plan.notes);
    assert!(
        plan.notes[1].contains("base_backup_20261122_050000 stopped before transaction 735 is known only"),
        "{:?}",
        plan.notes
    );
}

/// Timeline 2 left 1 in the middle of segment 5, timeline 3 left 1 again in segment 7 (a second restore), and
/// timeline 4 left 3 in segment 9.
fn forked_twice() -> World {
    World::new()
        .backup(1, 4, 5)
        .wal(1, 1..=7)
        .history(2, &[(1, 22)])
        .wal(2, 5..=12)
        .backup(2, 24, 25)
        .history(3, &[(1, 30)])
        .wal(3, 7..=9)
        .backup(3, 32, 33)
        .history(4, &[(1, 30), (3, 38)])
        .wal(4, 9..=11)
}

#[test]
fn the_latest_timeline_is_followed_through_both_of_its_forks() {
    let plan = forked_twice().plan(&to(Target::End)).unwrap();
    assert_eq!(plan.backup, name(32));
    assert_eq!(plan.history.timeline(), timeline(4));
    assert_eq!(setting(&plan, "recovery_target_timeline"), Some("4"));
    assert_eq!(plan.wal.unwrap().to, lsn(48));
    let early = forked_twice().plan(&to_time(28)).unwrap();
    assert_eq!(early.backup, name(4), "the backup of timeline 2 is on an abandoned branch");
    assert_eq!(setting(&early, "recovery_target_timeline"), Some("4"));
}

#[test]
fn a_target_on_an_abandoned_branch_is_reached_by_naming_its_timeline() {
    let plan = forked_twice().plan(&to_time(40).on(number(2))).unwrap();
    assert_eq!(plan.backup, name(24));
    assert_eq!(setting(&plan, "recovery_target_timeline"), Some("2"));
    assert_eq!(plan.wal, Some(WalRange { from: lsn(25), to: lsn(52) }));
    let current = forked_twice().plan(&to_lsn(50).from(24).on(TargetTimeline::Current)).unwrap();
    assert_eq!(setting(&current, "recovery_target_timeline"), Some("2"));
}

#[test]
fn a_time_that_may_lie_on_an_abandoned_branch_is_noted() {
    // Timeline 1 went on for two hours; then it was restored to quarter 22, which began timeline 2.
    let world = World::new().backup(1, 4, 5).wal(1, 1..=7).history(2, &[(1, 22)]).wal(2, 5..=12);
    let note = "Timeline 1 went on after the history of timeline 2 left it at 0/5800000: what was committed there \
                until 2026-11-22 07:00:00+00:00 comes back only with `--target-timeline 1`.";
    assert_eq!(world.plan(&to_time(28)).unwrap().notes, [note]);
    assert_eq!(world.plan(&to_time(33)).unwrap().notes, [""; 0], "by then it had ended");
    assert_eq!(world.plan(&to_time(28).on(number(1))).unwrap().notes, [""; 0]);
    let before = world.clone().backup(1, 20, 21).plan(&to_time(20)).unwrap();
    assert_eq!(before.notes, [""; 0], "the backup shows that the fork came later");
    let after = world.backup(2, 23, 24).plan(&to_time(28)).unwrap();
    assert_eq!((after.backup, after.notes), (name(23), vec![]), "the backup is from behind the fork");
}

#[test]
fn what_was_streamed_of_the_last_segment_can_be_a_target() {
    let world = World::new().backup(1, 4, 5).wal(1, 1..=4).part(1, 20, 21).part(1, 21, 23);
    assert_eq!(world.plan(&to(Target::End)).unwrap().wal.unwrap().to, lsn(23));
    assert!(world.plan(&to_lsn(22)).is_ok());
    assert!(world.plan(&to_lsn(23)).is_err());
    // A hole in front of it, or something behind it, and it is worth nothing.
    let torn = World::new().backup(1, 4, 5).wal(1, 1..=4).part(1, 21, 23);
    assert_eq!(torn.plan(&to(Target::End)).unwrap().wal.unwrap().to, lsn(20));
    let followed = world.wal(1, 6..=6);
    assert!(followed.plan(&to(Target::End)).is_err() && followed.plan(&to_lsn(22)).is_err());
}

#[test]
fn what_was_streamed_beyond_a_promotion_is_not_read_by_the_other_branch() {
    // The old primary was streamed up to quarter 23; timeline 2 left it at 22.
    let world = World::new().backup(1, 4, 5).wal(1, 1..=4).part(1, 20, 23).history(2, &[(1, 22)]);
    assert_eq!(world.plan(&to(Target::End).on(number(1))).unwrap().wal.unwrap().to, lsn(23));
    let refusal = world.refuses(&to(Target::End));
    assert!(refusal.contains("past 0/5800000, where the history leaves that timeline"), "{refusal}");
    // With the new timeline's own beginning, or where the old one ends at the fork, nothing is in the way.
    assert_eq!(world.clone().part(2, 20, 24).plan(&to(Target::End)).unwrap().wal.unwrap().to, lsn(24));
    let cut_off = World::new().backup(1, 4, 5).wal(1, 1..=4).part(1, 20, 22).history(2, &[(1, 22)]);
    assert_eq!(cut_off.plan(&to(Target::End)).unwrap().wal.unwrap().to, lsn(22));
    // What only the abandoned branch has is noted.
    let notes = world.part(2, 20, 24).plan(&to_time(22)).unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("Timeline 1 went on")), "{notes:?}");
}

#[test]
fn a_named_backup_of_an_abandoned_branch_is_refused_with_the_fork() {
    assert_eq!(
        forked_twice().refuses(&to(Target::End).from(24)),
        "base_backup_20261122_060000, which stopped at 0/6400000 on timeline 2, is not on the history of timeline 4, \
         which never was on timeline 2\n\
         Restore base_backup_20261122_080000, which is on it, or restore along the backup's own timeline with \
         `--target-timeline current`."
    );
    let late = forked_twice().backup(1, 31, 32);
    let refusal = late.refuses(&to(Target::End).from(31));
    assert!(refusal.contains("timeline 4, which left timeline 1 at 0/7800000"), "{refusal}");
    assert_eq!(forked_twice().chooses(&to(Target::Immediate).from(24)), name(24));
}

#[test]
fn a_backup_that_stopped_at_the_switch_point_is_on_both_timelines() {
    let world = World::new().backup(1, 20, 22).wal(1, 1..=4).history(2, &[(1, 22)]).wal(2, 5..=6);
    assert_eq!(world.plan(&to_lsn(26)).unwrap().wal, Some(WalRange { from: lsn(22), to: lsn(28) }));
}

#[test]
fn a_timeline_without_a_history_is_refused_with_the_known_ones() {
    assert_eq!(
        forked_twice().refuses(&to(Target::End).on(number(7))),
        "the archive of system 7439122314155001234 has no history of timeline 7\n\
         Timelines that can be restored: 1, 2, 3, 4."
    );
    let lost = World::new().backup(3, 4, 5).wal(3, 1..=9);
    let plan = lost.plan(&to(Target::End).on(number(3))).unwrap();
    assert_eq!(plan.history, TimelineHistory::of(timeline(3)), "it is the backup's own");
    assert_eq!(setting(&plan, "recovery_target_timeline"), Some("current"), "PostgreSQL would not take 3");
}

#[test]
fn wal_of_a_timeline_whose_history_is_lost_is_noted() {
    let notes = simple().wal(2, 9..=12).plan(&to(Target::End)).unwrap().notes;
    assert_eq!(notes, ["The archive has WAL of timeline 2, but not its history: it cannot be followed."]);
}

#[test]
fn a_torn_history_is_never_guessed_at() {
    let mut world = forked_twice();
    world.archive.add_history(timeline(5), b"");
    let refusal = world.refuses(&to(Target::End));
    assert!(
        refusal.starts_with(
            "the history of timeline 5 in the archive cannot be used: the history of timeline 5"
        ),
        "{refusal}"
    );
    assert!(refusal.contains("00000005.history"), "{refusal}");
    assert_eq!(world.chooses(&to(Target::End).on(number(4))), name(32));
}

#[test]
fn a_partial_segment_at_the_switch_point_is_not_missed() {
    let world = World::new().backup(1, 4, 5).wal(1, 1..=4).partial(1, 5).history(2, &[(1, 22)]).wal(2, 5..=8);
    assert_eq!(world.plan(&to(Target::End)).unwrap().wal.unwrap().to, lsn(36));
    let refusal = world.refuses(&to_lsn(21).on(number(1)));
    assert!(refusal.ends_with("Only a beginning of 000000010000000000000005 is there."), "{refusal}");
}

#[test]
fn postgresql_is_kept_from_reading_on_in_the_abandoned_branch() {
    // The old primary went on and archived; the new one did not archive its first segment.
    let world = World::new().backup(1, 4, 5).wal(1, 1..=8).history(2, &[(1, 22)]);
    assert_eq!(
        world.refuses(&to(Target::End)),
        "cannot restore base_backup_20261122_010000 to the end of the archived WAL: WAL segment \
         000000020000000000000005 is missing from the archive, and PostgreSQL would read 000000010000000000000005 in \
         its place, past 0/5800000, where the history leaves that timeline\n\
         Restore with `--target-lsn 0/4000000`, the last location that recovery is certain to reach before it."
    );
    assert!(world.plan(&to_lsn(16)).is_ok());
    assert!(world.plan(&to_lsn(20)).is_err());
    assert!(world.plan(&to_lsn(30).on(number(1))).is_ok());
}

#[test]
fn damaged_backups_are_passed_over_with_a_note() {
    let damaged = |start: u64, reason: &str, hint: Option<&str>| DamagedBackup {
        name: name(start).to_string(),
        reason: reason.to_owned(),
        hint: hint.map(str::to_owned),
    };
    let mut world = simple();
    world.damaged = vec![
        damaged(30, "backup_info.toml has format 7; this pgbak reads format 1", Some("Upgrade.")),
        damaged(3, "older than what was chosen", None),
    ];
    let plan = world.plan(&to(Target::End)).unwrap();
    assert_eq!(
        plan.notes,
        [
            "base_backup_20261122_073000 was passed over: backup_info.toml has format 7; this pgbak reads format 1."
        ]
    );
    assert_eq!(world.plan(&to_time(29)).unwrap().notes, [""; 0], "it began after the target");
    assert_eq!(
        world.refuses(&to(Target::End).from(30)),
        "base_backup_20261122_073000 cannot be restored: backup_info.toml has format 7; this pgbak reads format 1\n\
         Upgrade."
    );
    assert!(
        world.refuses(&to(Target::End).from(3)).contains("The newest backup is base_backup_20261122_050000")
    );
    world.backups.clear();
    assert!(world.refuses(&to(Target::End)).contains("There are 2 that are damaged"));
}

#[test]
fn a_backup_with_damaged_pages_is_the_last_resort() {
    let mut world = simple();
    world.backups[1].damaged_pages = vec!["base/5/16384, block 7".into()];
    let plan = world.plan(&to(Target::End)).unwrap();
    assert_eq!(plan.backup, name(4));
    assert_eq!(
        plan.notes,
        ["base_backup_20261122_050000 is newer, but was passed over: it holds damaged pages."]
    );
    world.backups.remove(0);
    let plan = world.plan(&to(Target::End)).unwrap();
    assert_eq!(plan.backup, name(20));
    assert!(plan.notes[0].ends_with("the first: base/5/16384, block 7."), "{:?}", plan.notes);
}

#[test]
fn after_pg_upgrade_the_newest_cluster_is_meant_and_time_orders_them() {
    let mut world = simple();
    let mut upgraded = backup(1, 2, 3);
    // As if named by a clock that was wrong: only the record's time counts.
    (upgraded.started_at, upgraded.stopped_at) = (at(60), at(61));
    upgraded.system_identifier = SystemIdentifier(8);
    world.backups.push(upgraded);
    let plan = world.plan(&to(Target::End)).unwrap();
    assert_eq!((plan.backup, plan.system_identifier), (name(2), SystemIdentifier(8)));
    assert_eq!(plan.wal, None, "the WAL of the old cluster is none of its business");

    let refusal = world.refuses(&to_time(30));
    assert!(refusal.contains("no backup of system 8 stopped before the target"), "{refusal}");
    assert!(refusal.ends_with("restore it with `--backup base_backup_20261122_050000`."), "{refusal}");
    assert_eq!(world.plan(&to_time(30).from(20)).unwrap().system_identifier, SYSTEM);
}

#[test]
fn segments_of_64_mebibytes_are_named_by_their_size() {
    let size = SegmentSize::from_bytes(64 << 20).unwrap();
    let mut world = World::new().backup(1, 62, 63);
    world.archive = WalArchive::new(size);
    world.backups[0].wal_segment_size = size;
    for number in 3..=4 {
        let segment = SegmentName { timeline: timeline(1), number };
        world.file(&segment.file_name(size).to_string(), 70);
    }
    assert!(world.plan(&to(Target::Lsn(Lsn((320 << 20) - 1)))).is_ok());
    let refusal = world.refuses(&to(Target::Lsn(Lsn(320 << 20))));
    assert!(refusal.contains("000000010000000000000005 is missing"), "{refusal}");
    assert!(refusal.contains("`--target-lsn 0/10000000`"), "{refusal}");
}
