//! Deleting what is no longer needed: what goes, what stays, and that what stays can be restored.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::support::{Outcome, Repository, Running, Site, SiteBuilder, process, wait_until};
use crate::{pair, site};
use pgbak::catalog::backup::with_digest;
use pgbak::pg::SegmentSize;

/// Segments of 1 MiB, so that much WAL is soon written.
fn small() -> SegmentSize {
    SegmentSize::from_bytes(1 << 20).unwrap()
}

/// Ends the segment in use, after writing something into it; returns its name once it is archived.
fn archive_one(site: &Site) -> String {
    site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', md5(random()::text))");
    let segment = site.cluster().switch_wal();
    wait_until(&format!("{segment} to be archived"), || site.repository().holds(&segment));
    segment
}

fn take_backup(site: &Site) -> String {
    let report = site.pgbak("base-backup --json").succeeds().json();
    report["name"].as_str().unwrap().to_owned()
}

/// Backups with a row and two segments of WAL behind each.
fn take_backups(site: &Site, count: usize) -> Vec<String> {
    site.cluster().sql("CREATE TABLE IF NOT EXISTS t (id int)");
    let backup = |number: usize| {
        let name = take_backup(site);
        site.cluster().sql(&format!("INSERT INTO t VALUES ({number})"));
        archive_one(site);
        archive_one(site);
        name
    };
    let names = (0..count).map(backup).collect();
    site.wait_until_archived();
    names
}

/// Every file of a repository, as a set.
fn files(repository: &Repository) -> BTreeSet<PathBuf> {
    repository.files().into_iter().collect()
}

/// The name of the WAL file that a path of a repository is, without the codec's suffix.
fn wal_name(path: &Path) -> Option<String> {
    path.starts_with("wal-archive").then(|| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.strip_suffix(".zst").unwrap_or(name).to_owned()
    })
}

/// What is left of `before` with these backups alone, and of timeline 1 the WAL from the first segment of the oldest.
fn left_of(before: &BTreeSet<PathBuf>, repository: &Repository, kept: &[String]) -> BTreeSet<PathBuf> {
    let first = repository.first_segment(&kept[0], small());
    let stays = |path: &&PathBuf| match wal_name(path) {
        Some(name) => name.ends_with(".history") || name[..24] >= *first,
        None if path.starts_with("base-backups") => {
            kept.iter().any(|backup| path.starts_with(Path::new("base-backups").join(backup)))
        }
        None => true,
    };
    before.iter().filter(stays).cloned().collect()
}

/// What a report says is deleted, or would be: names of backups, ranges of WAL, leftovers.
fn deletions(outcome: &Outcome) -> Vec<String> {
    let report = outcome.json();
    let mut all = Vec::new();
    for repository in report["repositories"].as_array().unwrap() {
        for kind in ["backups", "wal", "leftovers"] {
            let items = repository[kind].as_array().unwrap().iter();
            all.extend(items.filter(|item| item["action"] == "delete").map(ToString::to_string));
        }
    }
    all
}

/// Sets the time of everything in a directory of a repository back.
fn age(site: &Site, path: &Path, by: &str) {
    let mut find = site.identity().command("find", "KILL");
    find.arg(path).args(["-exec", "touch", "--no-dereference", "--date", by, "{}", "+"]);
    process::run(find.current_dir("/"));
}

/// A lease as another host's process writes it, good for hours.
fn lease_of_another_host(minutes_ago: i64) -> String {
    let now = chrono::Utc::now();
    let started = now - chrono::TimeDelta::minutes(minutes_ago);
    format!(
        "host = \"elsewhere\"\npid = 4711\npid_scope = \"another boot\"\nstarted_at = \"{}\"\nexpires_at = \"{}\"\n",
        started.to_rfc3339(),
        (started + chrono::TimeDelta::hours(2)).to_rfc3339()
    )
}

#[test]
fn what_is_kept_and_what_goes_is_what_the_dry_run_said() {
    let site = site!(initdb("--wal-segsize=1"));
    let backups = take_backups(&site, 4);
    let repository = site.repository();
    let before = files(repository);
    let planned = site.pgbak("prune --keep-last 2 --dry-run --json").succeeds().says("");
    let text = site.pgbak("prune --keep-last 2 --dry-run").succeeds().says("");
    assert_eq!(files(repository), before, "a dry run changes nothing");

    let expected = left_of(&before, repository, &backups[2..]);
    let said = site.pgbak("prune --keep-last 2").succeeds().says("");
    assert_eq!(files(repository), expected);
    let in_the_past = text.stdout.replace("  delete   ", "  deleted  ").replace("  keep     ", "  kept     ");
    assert_eq!(in_the_past.replace("would delete", "deleted"), said.stdout);
    assert!(said.stdout.lines().all(|line| line.chars().count() <= 80 || line.starts_with("first: ")));
    for name in &backups[..2] {
        assert!(deletions(&planned).iter().any(|deleted| deleted.contains(name)), "{name}");
    }
    assert_eq!(repository.backups(), backups[2..]);
    site.pgbak("prune --keep-last 2").succeeds().stdout_has("nothing to delete");
    assert_eq!(site.pgbak("-q prune --keep-last 1").succeeds().says("").stdout, "");
    assert_eq!(repository.backups(), backups[3..]);

    let restored = site.restore("");
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "4");
    site.pgbak(&format!("restore -D {} --backup {}", site.fresh("x").display(), backups[0])).exits(1);
}

#[test]
fn every_instant_of_the_window_can_be_restored_after_pruning() {
    let site = site!(initdb("--wal-segsize=1"), config("[retention]\nkeep_last = 1\nkeep_daily = 1\n"));
    let backups = take_backups(&site, 2);
    let begin = std::time::Instant::now();
    let before_the_mistake = site.cluster().now();
    site.cluster().sql("DELETE FROM t");
    let rest = take_backups(&site, 2);
    let all: Vec<String> = backups.iter().chain(&rest).cloned().collect();
    let repository = site.repository();
    let before = files(repository);
    // The window begins just before the mistake, and before that lie both older backups.
    let window = begin.elapsed().as_millis() + 100;
    let outcome = site.pgbak(&format!("prune --pitr-window {window}ms")).succeeds();
    let expected = left_of(&before, repository, &[all[1].clone(), all[3].clone()]);
    assert_eq!(files(repository), expected, "{outcome}");
    let restored = site.restore(&format!("--target-time '{before_the_mistake}'"));
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "2");
    let restored = site.restore("");
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "2");
}

#[test]
fn an_older_backup_outside_of_the_window_is_restored_to_its_end() {
    let site = site!(initdb("--wal-segsize=1"));
    let backups = take_backups(&site, 3);
    let repository = site.repository();
    let first = repository.first_segment(&backups[0], small());
    site.pgbak("prune --keep-last 3 --pitr-window 0s")
        .succeeds()
        .stdout_has("to be restored to its end only");
    assert_eq!(repository.backups(), backups);
    let archived = repository.archived();
    assert!(archived.contains(&first), "the WAL that makes it consistent");
    let newest = repository.first_segment(&backups[2], small());
    let between = archived.iter().filter(|name| name.len() == 24 && **name > first && **name < newest);
    assert!(between.count() <= 2, "{archived:?}");
    // A hole that retention made is no damage, where the configuration says so; else it would be.
    site.pgbak("verify --quick").exits(3).stdout_has("wal-missing");
    site.add_to_config("\n[retention]\nkeep_last = 3\npitr_window = \"0s\"\n");
    site.pgbak("verify --quick").succeeds().stdout_has("pitr_window needs none");
    site.pgbak("status -q").succeeds().stdout_is("");
    let old = |target: &str| format!("--backup {} {target}", backups[0]);
    let restored = site.restore(&old("--target-immediate --target-action promote"));
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "0");
    site.pgbak(&format!("restore -D {} {}", site.fresh("x").display(), old(""))).exits(1).stderr_has("hint");
    assert_eq!(site.restore("").sql("SELECT count(*) FROM t"), "3");
}

#[test]
fn what_another_host_writes_or_restores_stays() {
    let site = site!(initdb("--wal-segsize=1"));
    let backups = take_backups(&site, 3);
    let repository = site.repository();
    let path = |backup: &str, name: &str| format!("repositories/first/base-backups/{backup}/{name}");
    let restoring = path(&backups[0], "lease-elsewhere-4711-0001.toml");
    site.write(&restoring, lease_of_another_host(5));
    let archived = repository.archived();
    site.pgbak("prune --keep-last 1").succeeds().stdout_has("in use by process 4711 on elsewhere");
    assert_eq!(repository.backups(), [backups[0].clone(), backups[2].clone()]);
    let first = repository.first_segment(&backups[0], small());
    let expected: Vec<_> = archived.into_iter().filter(|name| name[..24] >= *first).collect();
    assert_eq!(repository.archived(), expected, "it may be restored to any time");
    fs::remove_file(site.path(&restoring)).unwrap();

    let writing = "base_backup_20261122_020000";
    site.make_directory(&path(writing, "")[..path(writing, "").len() - 1]);
    site.write(&path(writing, "lease-0003.toml"), lease_of_another_host(5));
    site.write(&path(writing, "pg_wal.tar.zst"), "half");
    age(&site, &site.path(&path(writing, "pg_wal.tar.zst")), "3 days ago");
    let archived = repository.archived();
    let said = site.pgbak("prune --keep-last 1").succeeds().stdout_has("is being written, and may need it");
    let said = said.stdout_has("being written by process 4711 on elsewhere");
    assert_eq!(repository.backups(), backups[2..]);
    assert_eq!(repository.archived(), archived, "nobody knows what it needs: {said}");
    assert!(site.path(&path(writing, "pg_wal.tar.zst")).exists());

    // Its lease has expired, and nobody has written to it for a day.
    site.write(&path(writing, "lease-0003.toml"), lease_of_another_host(200));
    site.pgbak("prune --keep-last 1").succeeds().stdout_has("less than a day old");
    age(&site, &site.path(&path(writing, "")), "2 days ago");
    site.pgbak("prune --keep-last 1").succeeds().stdout_has("it was never recorded");
    assert_eq!(repository.directories_of_backups(), backups[2..]);
}

#[test]
fn a_restore_under_way_keeps_its_backup() {
    let site = site!(initdb("--wal-segsize=1"));
    site.cluster().sql("CREATE TABLE large AS SELECT md5(id::text) FROM generate_series(1, 200000) AS id");
    let backups = take_backups(&site, 2);
    let directory = site.fresh("restored");
    let command = format!("restore -D {} --backup {}", directory.display(), backups[0]);
    let mut running = site.call(&command).start();
    let leases = || {
        let entries = fs::read_dir(site.repository().backup(&backups[0])).unwrap().flatten();
        let is_lease = |name: &str| name.starts_with("lease-") && name.ends_with(".toml");
        entries.filter(|entry| is_lease(&entry.file_name().to_string_lossy())).count()
    };
    wait_until("the restore to take its lease", || running.has_ended() || leases() > 0);
    running.signal(Signal::STOP);
    if leases() == 0 {
        // It was faster than this test.
        running.signal(Signal::CONT);
        running.finish().succeeds();
        return;
    }
    site.pgbak("prune --keep-last 1").succeeds().stdout_has("in use by process");
    assert_eq!(site.repository().backups(), backups);
    running.signal(Signal::CONT);
    running.finish().succeeds();
    assert_eq!(leases(), 0, "it is given back");
    let mut restored = site.restored_in(&directory);
    restored.launch();
    restored.wait_until_recovered();
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "2");
    drop(restored);
    site.pgbak("prune --keep-last 1").succeeds();
    assert_eq!(site.repository().backups(), backups[1..]);
}

#[test]
fn a_restore_from_a_repository_that_cannot_be_written_to_is_as_good() {
    let site = site!();
    let backup = take_backups(&site, 1).remove(0);
    let read_only = |mode: &str| {
        let mut chmod = site.identity().command("chmod", "KILL");
        process::run(chmod.arg(mode).arg(site.repository().backup(&backup)).current_dir("/"));
    };
    read_only("0500");
    let restored = site.restore("");
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "1");
    read_only("0700");
}

#[test]
fn a_killed_prune_is_finished_by_the_next() {
    let site = site!(initdb("--wal-segsize=1"));
    let backups = take_backups(&site, 6);
    (0..40).for_each(|_| drop(archive_one(&site)));
    let last = take_backups(&site, 1);
    let repository = site.repository();
    let before = files(repository);
    let expected = left_of(&before, repository, &last);
    let kill_when = |what: &str, holds: &dyn Fn() -> bool| -> bool {
        let mut running: Running = site.call("prune --keep-last 1").start();
        wait_until(what, || holds() || running.has_ended());
        let ended = running.has_ended();
        running.signal(Signal::KILL);
        let code = running.finish().code;
        assert!(ended || code == 128 + 9, "{code}");
        !ended
    };
    // The first data file gone, then some WAL.
    let killed = kill_when("the first backup to lose its record", &|| repository.backups().len() < 7);
    for backup in repository.backups() {
        repository.prove(&backup, &site.make_directory(&format!("proof-{backup}")));
    }
    let gone = || before.len() - files(repository).len() > 40;
    let again = kill_when("some WAL to go", &gone);
    assert!(repository.backups().ends_with(&last));
    site.pgbak("prune --keep-last 1").succeeds();
    assert_eq!(files(repository), expected, "killed {killed} {again}, of {backups:?}");
    assert_eq!(site.restore("").sql("SELECT count(*) FROM t"), "7");
}

#[test]
fn half_a_deleted_backup_is_finished_at_once() {
    let site = site!(initdb("--wal-segsize=1"));
    let backups = take_backups(&site, 2);
    let repository = site.repository();
    let expected = left_of(&files(repository), repository, &backups[1..]);
    fs::remove_file(repository.backup(&backups[0]).join("backup_info.toml")).unwrap();
    fs::remove_file(repository.backup(&backups[0]).join("base.tar.zst")).unwrap();
    site.pgbak("prune --keep-last 1").succeeds().stdout_has("an earlier prune began to delete it");
    assert_eq!(files(repository), expected);
}

#[test]
fn a_damaged_newest_backup_never_costs_the_last_good_one() {
    let site = site!(initdb("--wal-segsize=1"));
    let backups = take_backups(&site, 3);
    let repository = site.repository();
    let archive = |backup: &str| Path::new("base-backups").join(backup).join("base.tar.zst");
    repository.alter(&archive(&backups[2]), |bytes| bytes.truncate(100));
    let out = site.pgbak("prune --keep-last 1").succeeds().stdout_has("DAMAGED: base.tar.zst has 100 bytes");
    assert_eq!(repository.backups(), backups[1..], "{out}");
    repository.remove(&archive(&backups[1]));
    site.pgbak("prune --keep-last 1").exits(1).refuses(&["no good backup", "2 damaged"], &["base-backup"]);
    assert_eq!(repository.backups(), backups[1..]);
}

#[test]
fn a_repository_that_cannot_be_understood_keeps_everything_and_does_not_stop_the_other() {
    let site = site!(initdb("--wal-segsize=1"), repositories(2));
    let backups = take_backups(&site, 2);
    site.pgbak("wal-sync").succeeds();
    let [first, second] = site.repositories() else { panic!("two repositories") };
    let record = Path::new("base-backups").join(&backups[0]).join("backup_info.toml");
    second.alter(&record, |bytes| bytes.splice(..10, *b"format = 9").for_each(drop));
    let before = files(second);
    let outcome = site.pgbak("prune --keep-last 1").exits(3);
    let outcome = outcome.stdout_has("second: ").stdout_has("has format 9").stdout_has("upgrade this one");
    assert_eq!((first.backups(), files(second)), (backups[1..].to_vec(), before), "{outcome}");
    site.pgbak("prune --keep-last 1 --repository second")
        .exits(1)
        .refuses(&["second", "format 9"], &["upgrade"]);

    // It is given up, and comes back from nowhere.
    fs::remove_dir_all(second.backup(&backups[0])).unwrap();
    site.pgbak("prune --keep-last 1").succeeds();
    assert_eq!(second.backups(), backups[1..]);
    fs::rename(&second.path, site.path("away")).unwrap();
    site.pgbak("prune --keep-last 1").exits(3).stdout_has("second").stdout_has("mounted");
    fs::rename(site.path("away"), &second.path).unwrap();
}

#[test]
fn after_a_promotion_both_timelines_keep_what_the_window_needs() {
    let mut site = site!(initdb("--wal-segsize=1"));
    let first = take_backups(&site, 1).remove(0);
    let restored = site.restore("");
    site.cluster_mut().stop();
    let (restored_data, data) = (restored.data.clone(), site.path("data"));
    drop(restored);
    // The restored cluster takes the place of the first, on timeline 2.
    fs::rename(&data, site.path("former")).unwrap();
    fs::rename(&restored_data, &data).unwrap();
    site.cluster_mut().start();
    wait_until("the promotion to be over", || site.cluster().sql("SELECT pg_is_in_recovery()") == "f");
    archive_one(&site);
    let repository = site.repository();
    // It did not archive while it was restored beside the other.
    site.pgbak(&format!("wal-push {}", data.join("pg_wal/00000002.history").display())).succeeds();

    // No backup leads to timeline 2 but the first.
    let before = files(repository);
    site.pgbak("prune --keep-last 1").succeeds();
    assert_eq!(files(repository), left_of_all_timelines(&before, repository, &[first]));
    site.cluster().sql("INSERT INTO t VALUES (7)");
    let second = take_backup(&site);
    archive_one(&site);
    let before = files(repository);
    site.pgbak("prune --keep-last 1").succeeds();
    assert_eq!(files(repository), left_of_all_timelines(&before, repository, &[second]));
    assert!(repository.holds("00000002.history"));
    assert_eq!(site.restore("").sql("SELECT count(*) FROM t"), "2");
}

/// As [`left_of`], with the place of WAL on any timeline.
fn left_of_all_timelines(
    before: &BTreeSet<PathBuf>,
    repository: &Repository,
    kept: &[String],
) -> BTreeSet<PathBuf> {
    let first = repository.first_segment(&kept[0], small());
    let stays = |path: &&PathBuf| match wal_name(path) {
        Some(name) => name.ends_with(".history") || name[8..24] >= first[8..],
        None if path.starts_with("base-backups") => {
            kept.iter().any(|backup| path.starts_with(Path::new("base-backups").join(backup)))
        }
        None => true,
    };
    before.iter().filter(stays).cloned().collect()
}

#[test]
fn a_former_cluster_goes_by_time_and_another_ones_repository_is_refused() {
    let site = site!(initdb("--wal-segsize=1"));
    let Some(other) = Site::with().initdb("--wal-segsize=1").of_another_system().build() else { return };
    let former = take_backups(&site, 2);
    let repository = site.repository();
    // As after pg_upgrade: another cluster's backups come into the same repository.
    let own = format!("path = \"{}\"", other.repository().path.display());
    other.change_config(&own, &format!("path = \"{}\"", repository.path.display()));
    other.pgbak("prune").exits(1).refuses(&["holds no backup of the cluster"], &["pgbak base-backup"]);
    let new = take_backup(&other);
    other.cluster().sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
    let segment = other.cluster().switch_wal();
    let system = other.cluster().system_identifier();
    let of_system = |name: &str| {
        let files = files(repository).into_iter().filter(|path| path.to_string_lossy().contains(name));
        files.collect::<BTreeSet<_>>()
    };
    wait_until("its WAL to be archived", || {
        of_system(&system).iter().any(|path| wal_name(path).is_some_and(|name| name == segment))
    });
    let former_system = site.cluster().system_identifier();
    let wal_of_new = of_system(&system);

    other.pgbak("prune --keep-last 2").succeeds();
    assert_eq!(repository.backups(), [former[1].clone(), new.clone()]);
    let first = repository.first_segment(&former[1], small());
    assert!(of_system(&former_system).iter().all(|path| wal_name(path).unwrap()[..24] >= *first));
    other.pgbak("prune --keep-last 1").succeeds().stdout_has("no backup of this cluster is kept");
    assert_eq!(repository.backups(), [new]);
    assert_eq!(of_system(&former_system), BTreeSet::new());
    let first = repository.first_segment(&repository.the_backup(), small());
    let expected = wal_of_new.into_iter().filter(|path| wal_name(path).unwrap()[..24] >= *first);
    assert_eq!(of_system(&system), expected.collect());
    // The former server may still be there; it is not to prune its successor's repository.
    site.pgbak("prune").exits(1).refuses(&["holds no backup of the cluster"], &["data_directory"]);
}

#[test]
fn a_clock_that_jumped_is_refused() {
    let site = site!();
    take_backups(&site, 2);
    let repository = site.repository();
    let before = files(repository);
    // The repository is of the day after tomorrow, or the clock is two days behind.
    age(&site, &repository.path, "2 days");
    site.pgbak("prune --keep-last 1").exits(1).refuses(&["the clock says", "before"], &["date"]);
    assert_eq!(files(repository), before);
    for backup in repository.backups() {
        let record = Path::new("base-backups").join(&backup).join("backup_info.toml");
        repository.alter(&record, |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            let mut table: toml::Table = text.parse().unwrap();
            for field in ["started_at", "stopped_at"] {
                table.insert(field.to_owned(), toml::Value::String("2026-01-01T00:00:00Z".to_owned()));
            }
            *bytes = with_digest(&toml::to_string(&table).unwrap()).into_bytes();
        });
    }
    age(&site, &repository.path, "2 days ago");
    site.pgbak("prune --keep-last 1").exits(1).refuses(&["the clock says", "after"], &["pgbak base-backup"]);
    assert_eq!(files(repository), before);
}

#[test]
fn only_one_prune_at_a_time_and_what_the_flags_say_counts() {
    let site = site!(initdb("--wal-segsize=1"), config("[retention]\nkeep_last = 1\n"));
    let backups = take_backups(&site, 3);
    site.pgbak("prune --keep-last 0 --keep-within 1h").succeeds().stdout_has("not older than 1 hour");
    site.pgbak("prune --keep-weekly 1 --keep-last 3").succeeds().stdout_has("nothing to delete");
    assert_eq!(site.repository().backups(), backups);
    site.pgbak("prune --repository nowhere").exits(2).stderr_has("nowhere");
    let report = site.pgbak("prune --json").succeeds().json();
    assert_eq!(report["repositories"][0]["deleted"]["backups"], 2);
    assert_eq!(report["repositories"][0]["backups"][2]["reason"], "the newest good one");
    assert_eq!(site.repository().backups(), backups[2..]);
}

#[test]
fn over_ssh_the_same_goes() {
    let mut pair = pair!(Chrooted);
    let backups: Vec<String> = (0..3)
        .map(|_| {
            let name = take_backup(&pair.site);
            (0..3).for_each(|_| drop(pair.archive_a_segment()));
            name
        })
        .collect();
    pair.archive_a_segment();
    pair.repair();
    let (local, remote) = (files(pair.local()), files(pair.remote()));
    pair.site.pgbak("prune --keep-last 2 --dry-run").succeeds().stdout_has("would delete");
    assert_eq!(files(pair.remote()), remote);
    pair.site.pgbak("prune --keep-last 2").succeeds().says("");
    assert_eq!(files(pair.local()), left_of(&local, pair.local(), &backups[1..]));
    assert_eq!(files(pair.remote()), left_of(&remote, pair.remote(), &backups[1..]));

    // Killed in the middle, and away; the next run finishes what is left.
    let (local, remote) = (files(pair.local()), files(pair.remote()));
    pair.kill_in_the_middle("prune --keep-last 1 --repository remote", 2_500);
    pair.proxy.heal();
    pair.sshd.kill();
    pair.site.pgbak("prune --keep-last 1").exits(3).stdout_has("remote");
    assert_eq!(files(pair.local()), left_of(&local, pair.local(), &backups[2..]));
    pair.sshd.start_again();
    // What the first lost does not come back from the one that was away, if the configuration says so, too.
    pair.site.add_to_config("\n[retention]\nkeep_last = 1\n");
    pair.site.pgbak("wal-sync").succeeds();
    assert_eq!(files(pair.local()), left_of(&local, pair.local(), &backups[2..]));
    pair.site.pgbak("prune --keep-last 1").succeeds();
    assert_eq!(files(pair.remote()), left_of(&remote, pair.remote(), &backups[2..]));
    pair.repair();
    drop(pair.restore_from("remote"));
}

/// A site whose server copies WAL into `archive/`.
fn site_with_directory(builder: SiteBuilder) -> Option<Site> {
    let site = builder.initdb("--wal-segsize=1").without_archiving().build()?;
    let archive = site.make_directory("archive");
    let mut site = site;
    let command = format!("test ! -f {0}/%f && cp %p {0}/%f", archive.display());
    site.cluster().sql("ALTER SYSTEM SET archive_mode = on");
    site.cluster().sql(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
    site.cluster_mut().stop();
    site.cluster_mut().start();
    let config = format!("[wal]\nsource = \"directory\"\ndirectory = \"{}\"\n", archive.display());
    site.change_config(
        "\n[[repository]]\nname = \"first\"",
        &format!("\n{config}\n[[repository]]\nname = \"first\""),
    );
    Some(site)
}

#[test]
fn the_directory_loses_what_every_repository_holds_and_nothing_else() {
    let Some(site) = site_with_directory(Site::with().repositories(2)) else { return };
    let archive = site.path("archive");
    let switch = || {
        site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', md5(random()::text))");
        let segment = site.cluster().switch_wal();
        wait_until(&format!("{segment} to be copied"), || {
            fs::metadata(archive.join(&segment)).is_ok_and(|found| found.len() == 1 << 20)
        });
        segment
    };
    let names = || {
        let entries = fs::read_dir(&archive).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    take_backup(&site);
    let collected: Vec<String> = (0..4).map(|_| switch()).collect();
    site.pgbak("wal-sync").succeeds();
    site.write("archive/00000009.history", "1\t0/1\tx\n");
    let later: Vec<String> = (0..2).map(|_| switch()).collect();
    // Of one of them a repository has a copy that cannot be read, of another none.
    let [first, second] = site.repositories() else { panic!("two repositories") };
    first.alter(&first.wal_file(&collected[1]).unwrap(), |bytes| bytes.truncate(40));
    second.remove(&second.wal_file(&collected[2]).unwrap());
    let before = names();

    let planned = site.pgbak("prune --dry-run --json").succeeds().json();
    assert_eq!(names(), before);
    let deleted = planned["directory"]["files"].as_array().unwrap().iter();
    let deleted: BTreeSet<_> = deleted
        .filter(|file| file["action"] == "delete")
        .map(|file| file["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(deleted.contains(&collected[0]) && deleted.contains(&collected[3]), "{planned}");
    for kept in [&collected[1], &collected[2], &later[0], &later[1]] {
        assert!(!deleted.contains(kept), "{kept}");
    }
    assert!(names().contains("00000009.history"));
    // Only some repositories are asked: nothing is known of the other.
    site.pgbak("prune --repository first").succeeds();
    assert_eq!(names(), before);
    site.pgbak("prune").succeeds().stdout_has("wal.directory").stdout_has("every repository holds it");
    let left: BTreeSet<_> = before.difference(&deleted).cloned().collect();
    assert_eq!(names(), left);
    fs::rename(&second.path, site.path("away")).unwrap();
    site.pgbak("prune").exits(3);
    fs::rename(site.path("away"), &second.path).unwrap();
    assert_eq!(names(), left);
    fs::remove_file(archive.join("00000009.history")).unwrap();
    first.remove(&first.wal_file(&collected[1]).unwrap());
    site.pgbak("wal-sync").succeeds();
    site.pgbak("prune").succeeds();
    assert!(names().contains(&later[1]), "the newest may still be copied");
    assert!(!names().contains(&later[0]) && !names().contains(&collected[2]));
}
