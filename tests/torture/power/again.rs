//! One run is killed between making something visible and making it durable; the next one finds it there, relies on it,
//! and says success. Then the power fails.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use super::super::campaign::Campaign;
use super::super::interposer::{Interposer, Orders};
use super::super::scene;
use super::super::strace::{self, Call, Point};
use super::failure::assert_survives;
use super::recording::{Descriptors, Recording};
use super::{
    Diary, acknowledge, calls_of_the_server, law, record, record_stream, recorded_pair, repositories_of,
};
use crate::scene;
use crate::support::{Installation, Pair, Site, process, wait_until};

/// Runs pgbak under strace, which is killed and so has acknowledged nothing, and follows what it does to repositories.
fn follow_death(site: &Site, recording: &mut Recording, arguments: &str, tool: &[String], log: &Path) {
    let killed = strace::run(site, tool, arguments);
    assert!(killed.code != 0 && strace::has_killed(log), "it was not killed: {killed}");
    recording.follow(&strace::read(log), &repositories_of(site), Descriptors::Shared);
}

/// Kills it at `point`.
fn record_death(site: &Site, recording: &mut Recording, arguments: &str, point: &Point) {
    let log = site.fresh("home/trace");
    let tool = strace::recording_and_killing(&log, strace::FILES, point);
    follow_death(site, recording, arguments, &tool, &log);
}

/// Kills it when it is about to make durable that there is a file whose path ends so.
fn record_death_behind(site: &Site, recording: &mut Recording, arguments: &str, end: &str) -> Option<()> {
    let interposer = Interposer::build(site.identity())?;
    interposer.order("pgbak", &Orders::DieBehind { end: end.to_owned() });
    let log = site.fresh("home/trace");
    let mut tool = strace::recording(&log, strace::FILES);
    tool.extend(interposer.environment().map(|variable| format!("--env={variable}")));
    follow_death(site, recording, arguments, &tool, &log);
    Some(())
}

/// Runs pgbak undisturbed, and finds the sync that makes durable what `is_change` did.
fn sync_behind(site: &Site, arguments: &str, is_change: impl Fn(&Call) -> bool) -> Point {
    let (outcome, calls) = strace::run_recorded(site, strace::FILES, arguments);
    outcome.succeeds();
    first_sync_behind(&calls, is_change)
}

fn first_sync_behind(calls: &[Call], is_change: impl Fn(&Call) -> bool) -> Point {
    let change = calls.iter().position(is_change).expect("the change was made");
    let is_earlier = |call: &&Call| call.thread == calls[change].thread && call.name == "fsync";
    let earlier = calls[..change].iter().filter(is_earlier).count();
    Point { call: "fsync".to_owned(), nth: u32::try_from(earlier + 1).unwrap() }
}

/// Whether a call gives a file its name, which begins so.
fn names(call: &Call, name: &str) -> bool {
    let last = call.strings().pop().unwrap_or_default();
    (call.name.starts_with("link") || call.name.starts_with("rename"))
        && Path::new(std::str::from_utf8(&last).unwrap_or_default())
            .file_name()
            .is_some_and(|file| file.to_str().unwrap().starts_with(name))
}

#[test]
fn wal_is_made_durable_before_it_is_acknowledged() {
    let mut campaign = Campaign::begin("power/wal-push-again");
    let site = scene!();
    if !strace::may_record(site.identity()) {
        return;
    }
    site.pgbak(&scene::push(&site, &scene::new_segment(&site))).succeeds();
    let root = repositories_of(&site);
    let segment = scene::new_segment(&site);
    let push = scene::push(&site, &segment);
    let last = sync_behind(&site, &push, |call| names(call, &segment));
    fs::remove_file(site.repository().wal_file(&segment).unwrap()).unwrap();

    let mut looked_at = 0;
    for nth in 1..=last.nth {
        let mut recording = Recording::begin(&root);
        record_death(&site, &mut recording, &push, &Point { nth, ..last.clone() });
        record(&site, &mut recording, &root, &push);
        assert_eq!(recording.acknowledged.len(), 1, "{:?}", recording.acknowledged);
        looked_at += assert_survives(&recording, &mut campaign, law::of_repositories);
        fs::remove_file(site.repository().wal_file(&segment).unwrap()).unwrap();
    }
    campaign.end(&format!("{looked_at} disks after {} deaths, 0 lost", last.nth));
}

#[test]
fn a_copy_is_made_durable_before_it_counts() {
    let mut campaign = Campaign::begin("power/wal-sync-again");
    let site = scene!(repositories(2));
    if !strace::may_record(site.identity()) {
        return;
    }
    let root = repositories_of(&site);
    let archived = || {
        let segment = scene::new_segment(&site);
        site.pgbak(&scene::push(&site, &segment)).succeeds();
        segment
    };
    let before = archived();
    site.pgbak("wal-sync").succeeds();
    let segment = archived();
    let second = &site.repositories()[1];
    let copy = second.wal_file(&before).unwrap().with_file_name(format!("{segment}.zst"));
    let mut recording = Recording::begin(&root);
    let copy = copy.to_str().unwrap();
    let Some(()) = record_death_behind(&site, &mut recording, "wal-sync", copy) else { return };
    assert!(second.holds(&segment));
    record(&site, &mut recording, &root, "wal-sync");
    assert!(!recording.acknowledged.is_empty());
    let looked_at = assert_survives(&recording, &mut campaign, law::of_repositories);
    campaign.end(&format!("{looked_at} disks, 0 lost"));
}

/// Segments lie in directories by their numbers, and a directory is synced when something is stored in it. Here the
/// next segment goes into the next one.
#[test]
fn the_last_segment_of_a_directory_is_made_durable_before_the_next_is_confirmed() {
    let mut campaign = Campaign::begin("power/streaming-again");
    let mut site = scene!(config("[wal]\nsource = \"stream\"\n"));
    if !strace::may_record(site.identity()) {
        return;
    }
    site.cluster_mut().stop();
    let program = Installation::find().unwrap().program("pg_resetwal");
    let mut reset = site.identity().command(program, "KILL");
    process::run(reset.arg("-D").arg(&site.cluster().data).args(["-l", "000000010000000000000FF0"]));
    site.cluster_mut().start();
    let mut diary = Diary::begin(site.cluster());
    site.pgbak("base-backup").succeeds();
    let current = || site.cluster().sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    while current().as_str() < "000000010000000000000FFF" {
        scene::new_segment(&site);
        diary.write();
    }
    site.pgbak("wal-sync").succeeds();
    let last = current();
    scene::new_segment(&site);
    diary.write();
    assert!(current().starts_with("0000000100000001"), "{}", current());

    let root = repositories_of(&site);
    let mut recording = Recording::begin(&root);
    let name = format!("{last}.zst");
    let Some(()) = record_death_behind(&site, &mut recording, "wal-sync", &name) else { return };
    assert!(site.repository().holds(&last));
    record_stream(&site, &mut recording, "wal-sync", &mut || {});
    let told = recording.flushed_up_to(recording.steps.len());
    assert!(told >= diary.ends.last().unwrap().0, "the messages to the server were not seen");
    let looked_at = assert_survives(&recording, &mut campaign, law::of_streaming);
    campaign.end(&format!("{looked_at} disks, 0 lost"));
}

/// One prune deletes a record, but does not live to make that durable; the next one finds data without a record.
#[test]
fn a_record_is_gone_for_good_before_its_data_goes() {
    let mut campaign = Campaign::begin("power/prune-again");
    let site = scene!(config(scene::RETENTION));
    if !strace::may_record(site.identity()) {
        return;
    }
    let two_backups = || {
        while site.repository().backups().len() < 2 {
            site.pgbak("base-backup").succeeds();
        }
    };
    two_backups();
    let is_removal = |call: &Call| {
        call.name.starts_with("unlink")
            && call.strings().iter().any(|path| path.ends_with(law::RECORD.as_bytes()))
    };
    let point = sync_behind(&site, "prune", is_removal);

    two_backups();
    let root = repositories_of(&site);
    let mut recording = Recording::begin(&root);
    record_death(&site, &mut recording, "prune", &point);
    assert_eq!((site.repository().backups().len(), site.repository().directories_of_backups().len()), (1, 2));
    record(&site, &mut recording, &root, "prune");
    assert_eq!(site.repository().directories_of_backups().len(), 1);
    let looked_at = assert_survives(&recording, &mut campaign, law::of_repositories);
    campaign.end(&format!("{looked_at} disks, 0 lost"));
}

/// A base backup is recorded, but does not live to make that durable; the prune that follows keeps it, and nothing
/// else.
#[test]
fn the_backup_that_is_kept_is_durable_before_the_others_go() {
    let mut campaign = Campaign::begin("power/prune after base-backup");
    let site = scene!(config(scene::RETENTION));
    if !strace::may_record(site.identity()) {
        return;
    }
    site.pgbak("base-backup").succeeds();
    let root = repositories_of(&site);
    let mut recording = Recording::begin(&root);
    let Some(()) = record_death_behind(&site, &mut recording, "base-backup", law::RECORD) else { return };
    assert_eq!(site.repository().backups().len(), 2);
    record(&site, &mut recording, &root, "prune");
    assert_eq!(site.repository().backups().len(), 1);
    let looked_at = assert_survives(&recording, &mut campaign, law::of_a_pruned_repository);
    campaign.end(&format!("{looked_at} disks, 0 without a backup"));
}

/// `sftp-server` is killed at each of its syncs, and pgbak with it; or pgbak lives, and goes on with another one.
#[test]
fn an_upload_is_made_durable_before_it_is_acknowledged() {
    let mut campaign = Campaign::begin("power/sftp-again");
    let scratch = tempfile::tempdir().unwrap();
    let undisturbed = scratch.path().join("undisturbed");
    let Some(mut pair) = recorded_pair(&undisturbed) else { return };
    pair.site.add_to_config("\n[wal]\npush_to = [\"remote\"]\n");
    let new_push = |pair: &Pair| {
        let segment = scene::new_segment(&pair.site);
        (scene::push(&pair.site, &segment), segment)
    };
    // The first one makes directories.
    calls_of_the_server(&pair, &undisturbed, &new_push(&pair).0);
    let (push, segment) = new_push(&pair);
    let calls = calls_of_the_server(&pair, &undisturbed, &push);
    let last = first_sync_behind(&calls, |call| names(call, &segment));

    let (root, seen_as) = (pair.sshd.local_path(), pair.sshd.root_path());
    let mut looked_at = 0;
    // Whoever goes on with another server makes fewer syncs there than it took to come to the last one.
    for (nth, lives) in (1..=last.nth).map(|nth| (nth, false)).chain([(last.nth, true)]) {
        let logs = ["dies", "again"].map(|name| scratch.path().join(format!("{name}-{nth}-{lives}")));
        let point = Point { nth, ..last.clone() };
        pair.sshd.kill();
        pair.sshd.run_under(&strace::recording_and_killing(&logs[0], strace::FILES, &point));
        pair.sshd.start_again();
        let (push, segment) = new_push(&pair);
        let mut recording = Recording::begin(&root);
        let running = pair.site.call(&push).start();
        if lives {
            running.finish().succeeds();
        } else {
            wait_until("the server's process to die", || strace::has_killed(&logs[0]));
            running.signal(Signal::KILL);
            drop(running.finish());
        }
        pair.sshd.kill();
        assert!(strace::has_killed(&logs[0]));
        recording.follow(&strace::read(&logs[0]), &seen_as, Descriptors::OfEachThread);
        if !lives {
            pair.sshd.run_under(&strace::recording(&logs[1], strace::FILES));
            pair.sshd.start_again();
            pair.site.pgbak(&push).succeeds();
            pair.sshd.kill();
            recording.follow(&strace::read(&logs[1]), &seen_as, Descriptors::OfEachThread);
        }
        acknowledge(&mut recording);
        let is_held = |path: &std::path::PathBuf| path.to_str().unwrap().contains(&segment);
        assert!(recording.acknowledged.keys().any(is_held), "{:?}", recording.acknowledged);
        looked_at += assert_survives(&recording, &mut campaign, law::of_repositories);
    }
    campaign.end(&format!("{looked_at} disks after {} deaths, 0 lost", last.nth + 1));
}
