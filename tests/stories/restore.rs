//! Restoring: the reason for everything else. Where recovery lands, and where it must not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::site;
use crate::support::{Account, Cluster, Commit, Site, Workload, wait_until};
use pgbak::pg::Lsn;

/// A site whose workload ran before, during and after a base backup, all of it archived.
fn site_with_a_past(site: &Site) -> Account {
    let mut workload = Workload::start(site.cluster());
    workload.wait_for_more(100);
    site.pgbak("base-backup").succeeds();
    workload.is_backed_up(site.cluster());
    workload.wait_for_more(500);
    site.cluster().sql("SELECT pg_create_restore_point('half-way')");
    workload.wait_for_more(500);
    let account = workload.finish(site.cluster());
    site.wait_until_archived();
    account
}

fn lands_on(site: &Site, account: &Account, arguments: &str, expected: &[Commit]) {
    let restored = site.restore(arguments);
    assert_eq!(restored.sql("SELECT pg_is_in_recovery()"), "t", "it waits at the target for a decision");
    account.assert_holds_exactly(&restored, expected);
}

#[test]
fn a_table_dropped_by_mistake_comes_back() {
    let site = site!();
    let shop = site.cluster();
    shop.sql("CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id");
    site.pgbak("base-backup").succeeds();
    shop.sql("INSERT INTO orders VALUES (1001)");
    let before_the_mistake = shop.now();
    shop.sql("DROP TABLE orders");
    site.wait_until_archived();

    // A server that pauses there instead holds the lock of the DROP, whose commit it has not replayed.
    let restored = site.restore(&format!("--target-time '{before_the_mistake}' --target-action promote"));
    assert_eq!(restored.sql("SELECT count(*) FROM orders"), "1001");
    restored.sql("INSERT INTO orders VALUES (1002)");
}

#[test]
fn a_target_time_lands_on_exactly_the_right_rows() {
    let site = site!();
    let account = site_with_a_past(&site);
    let time = account.history.middle().time.clone();
    // Written at the very microsecond of a commit, so that inclusive and exclusive differ by it.
    lands_on(&site, &account, &format!("--target-time '{time}'"), account.history.up_to_time(&time));
    let exclusive = format!("--target-time '{time}' --target-exclusive");
    lands_on(&site, &account, &exclusive, account.history.before_time(&time));
}

#[test]
fn a_target_lsn_lands_on_exactly_the_right_rows() {
    let site = site!();
    let account = site_with_a_past(&site);
    let lsn = account.history.middle().lsn;
    let through = account.history.before_lsn(Lsn(lsn.0 + 1));
    lands_on(&site, &account, &format!("--target-lsn {lsn}"), through);
    let exclusive = format!("--target-lsn {lsn} --target-exclusive");
    lands_on(&site, &account, &exclusive, account.history.before_lsn(lsn));
}

#[test]
fn a_target_transaction_lands_on_exactly_the_right_rows() {
    let site = site!();
    let account = site_with_a_past(&site);
    let xid = account.history.middle().xid;
    lands_on(&site, &account, &format!("--target-xid {xid}"), account.history.up_to_xid(xid));
    let exclusive = format!("--target-xid {xid} --target-exclusive");
    lands_on(&site, &account, &exclusive, account.history.before_xid(xid));
}

#[test]
fn a_named_restore_point_and_the_end_of_the_backup_land_on_exactly_the_right_rows() {
    let site = site!();
    let account = site_with_a_past(&site);
    let point = site.cluster().restore_point("half-way");
    lands_on(&site, &account, "--target-name half-way", account.history.before_lsn(point));
    let record = site.repository().record(&site.repository().the_backup());
    let stop_lsn: Lsn = record["stop_lsn"].as_str().unwrap().parse().unwrap();
    lands_on(&site, &account, "--target-immediate", account.history.before_lsn(stop_lsn));
}

#[test]
fn without_a_target_everything_archived_comes_back_and_the_server_opens() {
    let site = site!();
    let account = site_with_a_past(&site);
    let restored = site.restore("");
    assert_eq!(restored.sql("SELECT pg_is_in_recovery()"), "f");
    account.assert_holds_exactly(&restored, &account.history.commits);
}

#[test]
fn what_happens_at_the_target_can_be_chosen() {
    let site = site!();
    let account = site_with_a_past(&site);
    let xid = account.history.middle().xid;
    let promoted = site.restore(&format!("--target-xid {xid} --target-action promote"));
    assert_eq!(promoted.sql("SELECT pg_is_in_recovery()"), "f");
    account.assert_holds_exactly(&promoted, account.history.up_to_xid(xid));

    let directory = site.fresh("restored");
    let arguments = format!("restore -D {} --target-xid {xid} --target-action shutdown", directory.display());
    site.pgbak(&arguments).succeeds();
    let mut stopped = site.restored_in(&directory);
    stopped.launch();
    stopped.wait_until_it_ends();
    assert!(stopped.log().contains("shutdown at recovery target"), "{}", stopped.log());
}

#[test]
fn a_restored_cluster_goes_on_with_a_timeline_of_its_own() {
    let mut site = site!();
    site.cluster().sql("CREATE TABLE t AS SELECT 'first' AS life");
    site.pgbak("base-backup").succeeds();
    let fork = site.cluster().now();
    site.cluster().sql("INSERT INTO t VALUES ('abandoned')");
    site.wait_until_archived();
    site.cluster_mut().stop();

    let directory = site.fresh("restored");
    let arguments =
        format!("restore -D {} --target-time '{fork}' --target-action promote", directory.display());
    site.pgbak(&arguments).succeeds();
    let mut second = site.restored_in(&directory);
    second.set("archive_mode", "on");
    second.start();
    second.wait_until_recovered();
    second.sql("INSERT INTO t VALUES ('second')");
    let segment = second.switch_wal();
    assert!(segment.starts_with("00000002"), "{segment}");
    wait_until("the second life to be archived", || site.repository().holds(&segment));
    assert!(site.repository().holds("00000002.history"));
    drop(second);

    let lives = "SELECT string_agg(life, ' ' ORDER BY life) FROM t";
    assert_eq!(site.restore("").sql(lives), "first second");
    assert_eq!(site.restore("--target-timeline 2").sql(lives), "first second");
    assert_eq!(site.restore("--target-timeline current").sql(lives), "abandoned first");
    site.pgbak(&format!("restore -D {} --target-timeline 3", site.path("nowhere").display()))
        .exits(1)
        .refuses(&["timeline 3"], &["1, 2"]);
}

#[test]
fn a_time_before_the_first_backup_is_refused_with_the_earliest_one() {
    let site = site!();
    let too_early = site.cluster().now();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let directory = site.path("nowhere");
    site.pgbak(&format!("restore -D {} --target-time '{too_early}'", directory.display()))
        .exits(1)
        .refuses(&["before the target"], &["The earliest restorable time is"]);
    assert!(!directory.exists(), "nothing was touched");
}

#[test]
fn targets_that_cannot_be_reached_are_refused() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    let end = site.cluster().lsn();
    site.wait_until_archived();
    let directory = site.path("nowhere");
    for (target, error) in [
        (format!("--target-lsn {}", Lsn(end.0 + (1 << 30))), "missing from the archive"),
        ("--target-lsn 0/1000000".to_owned(), "before the target"),
        ("--target-time '2096-01-01 00:00:00Z'".to_owned(), "future"),
        ("--backup base_backup_20010101_000000".to_owned(), "no backup named"),
    ] {
        let outcome = site.pgbak(&format!("restore -D {} {target}", directory.display())).exits(1);
        outcome.stderr_has(error).stderr_has("hint: ");
        assert!(!directory.exists(), "nothing was touched by {target}");
    }
}

#[test]
fn a_target_behind_a_gap_is_refused_and_one_before_it_is_not() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    let segments = [(); 4].map(|()| {
        site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
        (site.cluster().lsn(), site.cluster().switch_wal())
    });
    let last = site.cluster().now();
    site.wait_until_archived();
    let repository = site.repository();
    let missing = &segments[2].1;
    repository.remove(&repository.wal_file(missing).unwrap());

    let directory = site.path("nowhere");
    for target in
        [format!("--target-lsn {}", segments[3].0), format!("--target-time '{last}'"), String::new()]
    {
        site.pgbak(&format!("restore -D {} {target}", directory.display()))
            .exits(1)
            .refuses(&[missing, "missing"], &["--target-lsn"]);
        assert!(!directory.exists(), "nothing was touched");
    }
    let refused = site.pgbak(&format!("restore -D {}", directory.display())).exits(1);
    let remedy = refused.stderr.split('`').nth(1).unwrap().to_owned();
    assert!(remedy.starts_with("--target-lsn"), "{remedy}");
    assert_eq!(site.restore(&remedy).sql("SELECT 1"), "1", "the hint keeps its word");
}

#[test]
fn the_newest_backup_before_the_target_is_chosen_unless_another_is_named() {
    let site = site!();
    let backup = || site.pgbak("base-backup --json").succeeds().json()["name"].as_str().unwrap().to_owned();
    let older = backup();
    site.cluster().sql("CREATE TABLE t AS SELECT 1 AS id");
    let between = site.cluster().now();
    let newer = backup();
    site.cluster().sql("INSERT INTO t VALUES (2)");
    site.wait_until_archived();

    let plan = |arguments: &str| {
        let directory = site.path("nowhere");
        let outcome = site.pgbak(&format!("restore -D {} --dry-run --json {arguments}", directory.display()));
        outcome.succeeds().json()["backup"].as_str().unwrap().to_owned()
    };
    assert_eq!(plan(""), newer);
    assert_eq!(plan(&format!("--target-time '{between}'")), older);
    assert_eq!(plan(&format!("--backup {older}")), older);
    assert_eq!(site.restore(&format!("--backup {older}")).sql("SELECT count(*) FROM t"), "2");
    site.pgbak(&format!("restore -D /nowhere --backup {newer} --target-time '{between}'"))
        .exits(1)
        .refuses(&[&newer, "after the target"], &[&older]);
}

#[test]
fn a_dry_run_writes_nothing_and_prints_what_to_do() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let directory = site.path("planned");
    let before = site.repository().files();
    let outcome = site.pgbak(&format!("restore -D {} --dry-run --target-immediate", directory.display()));
    let outcome = outcome.succeeds().says("").stdout_has("Nothing was written").stdout_has("restore_command");
    assert!(outcome.stdout.contains(&format!("pg_ctl -D \"{}\" start", directory.display())), "{outcome}");
    assert!(!directory.exists());
    assert_eq!(site.repository().files(), before);
}

#[test]
fn tablespaces_go_where_they_are_mapped() {
    let site = site!(tablespaces(2));
    site.cluster().sql(
        "CREATE TABLE one TABLESPACE space1 AS SELECT generate_series(1, 100) AS id;
         CREATE TABLE two TABLESPACE space2 AS SELECT generate_series(1, 200) AS id;",
    );
    site.pgbak("base-backup").succeeds();
    site.cluster().sql("INSERT INTO one SELECT * FROM two");
    site.wait_until_archived();

    let directory = site.path("nowhere");
    // The tablespaces of the running cluster are in the way, and no flag makes pgbak fill them by mistake.
    for flags in ["", "--delta"] {
        let outcome = site.pgbak(&format!("restore -D {} {flags}", directory.display())).exits(1);
        outcome.refuses(&["space1"], &["--tablespace-mapping"]);
        assert!(!directory.exists());
        assert_eq!(site.cluster().sql("SELECT count(*) FROM one"), "300", "the original is untouched");
    }

    let place = |number| (site.path(&format!("space{number}")), site.path(&format!("new{number}")));
    let mapping =
        |(old, new): (PathBuf, PathBuf)| format!(" --tablespace-mapping {}={}", old.display(), new.display());
    let restored = site.restore(&(mapping(place(1)) + &mapping(place(2))));
    assert_eq!(restored.sql("SELECT count(*) FROM one"), "300");
    let locations = restored
        .sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname ~ 'space' ORDER BY 1");
    assert_eq!(locations, format!("{}\n{}", place(1).1.display(), place(2).1.display()));
    assert_eq!(site.cluster().sql("SELECT count(*) FROM one"), "300", "the original is untouched");
}

#[test]
fn a_standby_follows_the_archive() {
    let site = site!();
    site.cluster().sql("CREATE TABLE t (id int)");
    site.pgbak("base-backup").succeeds();
    let standby = site.restore_standby();
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
    site.cluster().sql("INSERT INTO t VALUES (1)");
    site.wait_until_archived();
    wait_until("the standby to follow", || standby.sql("SELECT count(*) FROM t") == "1");
    standby.sql("SELECT pg_promote()");
    standby.sql("INSERT INTO t VALUES (2)");
}

/// What tells whether a file was touched: its inode and when it was last written.
fn identities(directory: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let files = WalkDir::new(directory).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
    };
    files
        .map(|entry| (entry.path().strip_prefix(directory).unwrap().to_owned(), identity(entry.path())))
        .collect()
}

#[test]
fn delta_touches_only_what_differs() {
    let site = site!();
    site.cluster().sql("CREATE TABLE t AS SELECT md5(id::text) FROM generate_series(1, 10000) AS id");
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let directory = site.fresh("restored");
    site.pgbak(&format!("restore -D {}", directory.display())).succeeds();
    let table = PathBuf::from(site.cluster().sql("SELECT pg_relation_filepath('t')"));
    let catalog = PathBuf::from(site.cluster().sql("SELECT pg_relation_filepath('pg_proc')"));

    let mut bytes = fs::read(directory.join(&table)).unwrap();
    // Neither size nor time tells that this one differs.
    let written_at = fs::metadata(directory.join(&table)).unwrap().modified().unwrap();
    bytes[9000] ^= 1;
    fs::write(directory.join(&table), bytes).unwrap();
    fs::File::options().write(true).open(directory.join(&table)).unwrap().set_modified(written_at).unwrap();
    fs::remove_file(directory.join(&catalog)).unwrap();
    for alien in ["base/99999", "stray"] {
        fs::write(directory.join(alien), "not of this backup").unwrap();
    }
    let before = identities(&directory);

    let report = site.pgbak(&format!("restore -D {} --delta --json", directory.display())).succeeds().json();
    let after = identities(&directory);
    let kept = before.iter().filter(|(path, identity)| after.get(*path) == Some(identity)).count() as u64;
    assert!(kept >= report["files_kept"].as_u64().unwrap(), "{report}");
    assert!(report["files_kept"].as_u64().unwrap() > 500, "{report}");
    assert!(report["files_removed"].as_u64().unwrap() >= 2, "{report}");
    assert!(!after.contains_key(Path::new("base/99999")) && !after.contains_key(Path::new("stray")));
    assert_ne!(before.get(&table), after.get(&table), "what differed was replaced");

    let mut restored = site.restored_in(&directory);
    restored.start();
    restored.wait_until_recovered();
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "10000");
    assert_eq!(
        restored.sql("SELECT sum(hashtext(t::text)::bigint) FROM t"),
        site.cluster().sql("SELECT sum(hashtext(t::text)::bigint) FROM t")
    );
}

#[test]
fn delta_brings_a_crashed_cluster_back_in_its_own_directory() {
    let mut site = site!(tablespaces(1));
    site.cluster().sql("CREATE TABLE t TABLESPACE space1 AS SELECT 1 AS id");
    site.pgbak("base-backup").succeeds();
    site.cluster().sql("INSERT INTO t VALUES (2)");
    let good = site.cluster().now();
    site.cluster().sql("DELETE FROM t");
    site.wait_until_archived();
    site.cluster_mut().crash();

    site.pgbak(&format!("restore --delta --target-time '{good}' --target-action promote")).succeeds();
    site.cluster_mut().start();
    site.cluster_mut().wait_until_recovered();
    assert_eq!(site.cluster().sql("SELECT count(*) FROM t"), "2");
}

/// Says where to restore it.
fn back_up_what_takes_a_while_to_restore(site: &Site) -> PathBuf {
    site.cluster().sql(
        "CREATE TABLE t AS SELECT md5(random()::text) || id AS text FROM generate_series(1, 400000) AS id",
    );
    site.pgbak("base-backup --compression zstd:1").succeeds();
    site.wait_until_archived();
    site.fresh("restored")
}

#[test]
fn a_restore_killed_in_the_middle_cannot_be_started_and_can_be_repeated() {
    let site = site!();
    let directory = back_up_what_takes_a_while_to_restore(&site);
    let arguments = format!("restore -D {}", directory.display());
    let mut running = site.call(&arguments).start();
    wait_until("the restore to be under way", || running.has_ended() || directory.join("base").exists());
    running.signal(rustix::process::Signal::KILL);
    running.finish().exits(128 + 9);

    assert!(!directory.join("global/pg_control").exists(), "pg_control comes last");
    let mut half = site.restored_in(&directory);
    half.launch();
    assert!(!half.wait_until_it_ends(), "it must not start:\n{}", half.log());
    drop(half);

    site.pgbak(&arguments).exits(1).refuses(&[&directory.display().to_string()], &["--delta"]);
    site.pgbak(&format!("{arguments} --delta")).succeeds();
    let mut restored = site.restored_in(&directory);
    restored.start();
    restored.wait_until_recovered();
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "400000");
}

#[test]
fn an_interrupted_restore_says_so_and_can_be_repeated() {
    let site = site!();
    let directory = back_up_what_takes_a_while_to_restore(&site);
    let arguments = format!("restore -D {} --delta", directory.display());
    for (signal, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        let mut running = site.call(&arguments).start();
        // The archive of the table is being written: its file is there, its control file is not.
        wait_until("the restore to be under way", || {
            running.has_ended()
                || (directory.join("base").exists() && !directory.join("global/pg_control").exists())
        });
        running.signal(signal);
        running.finish().exits(code);
        assert!(!directory.join("global/pg_control").exists());
    }
    site.pgbak(&arguments).succeeds();
    assert!(directory.join("global/pg_control").exists());
}

#[test]
fn a_directory_in_use_or_of_someone_else_is_refused_and_left_alone() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let own = site.cluster().data.clone();
    let refused = |directory: &Path, flags: &str| {
        let before = identities(directory);
        let outcome = site.pgbak(&format!("restore -D {} {flags}", directory.display())).exits(1);
        let after = identities(directory);
        // A running server removes some of what it keeps there by itself.
        let own_business = |path: &PathBuf| {
            let is_temporary = path.extension().is_some_and(|suffix| suffix == "tmp" || suffix == "init");
            path.starts_with("pg_wal") || path.starts_with("pg_stat_tmp") || is_temporary
        };
        let untouched = before.keys().all(|path| own_business(path) || after.contains_key(path));
        assert!(untouched, "nothing may be removed from {}", directory.display());
        outcome.stderr_has(&directory.display().to_string()).stderr_has("hint: ")
    };
    refused(&own, "");
    refused(&own, "--delta").stderr_has("server");

    let photographs = site.make_directory("photographs");
    site.write("photographs/cat", "purr");
    refused(&photographs, "");
    refused(&photographs, "--delta");
    assert_eq!(fs::read_to_string(photographs.join("cat")).unwrap(), "purr");

    let mut other = site!(of_another_system(), without_archiving());
    other.cluster_mut().stop();
    refused(&other.cluster().data, "").stderr_has("not empty");
    refused(&other.cluster().data, "--delta").stderr_has(&site.cluster().system_identifier());
    other.cluster_mut().start();
}

#[test]
fn stale_recovery_settings_do_not_come_back() {
    let site = site!();
    for setting in [
        "restore_command = 'false'",
        "recovery_target_time = '2001-01-01 00:00:00+00'",
        "recovery_target_action = 'shutdown'",
        "recovery_target_timeline = '7'",
        "primary_conninfo = 'host=/nowhere'",
        "work_mem = '5MB'",
    ] {
        site.cluster().sql(&format!("ALTER SYSTEM SET {setting}"));
    }
    site.pgbak("base-backup").succeeds();
    site.cluster().sql("CREATE TABLE t AS SELECT 1 AS id");
    site.wait_until_archived();
    let restored = site.restore("");
    assert_eq!(restored.sql("SELECT id FROM t"), "1");
    assert_eq!(restored.sql("SHOW work_mem"), "5MB", "what has nothing to do with recovery stays");
    assert_eq!(restored.sql("SHOW recovery_target_time"), "");
    assert_eq!(restored.sql("SHOW primary_conninfo"), "");
}

#[test]
fn what_root_restores_belongs_to_whom_it_belonged() {
    let site = site!(tablespaces(1));
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let (directory, space) = (site.fresh("restored"), site.fresh("space"));
    let arguments = format!(
        "restore -D {} --tablespace-mapping {}={}",
        directory.display(),
        site.path("space1").display(),
        space.display()
    );
    let Some(call) = site.call_as_root(&arguments) else { return };
    call.run().succeeds();
    for entry in [&directory, &space].into_iter().flat_map(WalkDir::new) {
        let entry = entry.unwrap();
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        let owner = (metadata.uid(), metadata.gid());
        assert_eq!(owner, (site.identity().uid, site.identity().gid), "{}", entry.path().display());
        let expected = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        assert!(entry.path_is_symlink() || metadata.mode() & 0o777 == expected, "{}", entry.path().display());
    }
    let mut restored = site.restored_in(&directory);
    restored.start();
    restored.wait_until_recovered();
}

#[test]
fn group_access_is_restored_as_it_was() {
    let site = site!(initdb("--allow-group-access"));
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let restored = site.restore("");
    assert_eq!(fs::metadata(&restored.data).unwrap().mode() & 0o777, 0o750);
    assert_eq!(fs::metadata(restored.data.join("base")).unwrap().mode() & 0o777, 0o750);
    assert_eq!(fs::metadata(restored.data.join("PG_VERSION")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(restored.sql("SHOW data_directory_mode"), "0750");
}

/// A restored cluster, not started, with much WAL still to be fetched.
fn much_to_recover(site: &Site) -> Cluster {
    site.cluster().sql("CREATE TABLE t (id int)");
    site.pgbak("base-backup").succeeds();
    for id in 0..60 {
        site.cluster().sql(&format!("INSERT INTO t VALUES ({id})"));
        site.cluster().switch_wal();
    }
    site.wait_until_archived();
    let directory = site.fresh("restored");
    site.pgbak(&format!("restore -D {}", directory.display())).succeeds();
    site.restored_in(&directory)
}

#[test]
fn recovery_stops_when_the_repository_vanishes_and_goes_on_when_it_is_back() {
    let site = site!(initdb("--wal-segsize=1"));
    let mut restored = much_to_recover(&site);
    restored.launch();
    wait_until("recovery to be under way", || restored.log().contains("restored log file"));
    restored.freeze();
    fs::rename(&site.repository().path, site.path("gone")).unwrap();
    restored.thaw();
    assert!(!restored.wait_until_it_ends(), "it must not go on:\n{}", restored.log());
    assert!(!restored.log().contains("archive recovery complete"), "{}", restored.log());
    assert!(restored.log().contains("FATAL"), "{}", restored.log());

    fs::rename(site.path("gone"), &site.repository().path).unwrap();
    restored.start();
    restored.wait_until_recovered();
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "60");
}

#[test]
fn an_archive_that_is_damaged_in_one_repository_comes_from_another() {
    let site = site!(repositories(2));
    let [first, second] = site.repositories() else { panic!("a site with two repositories") };
    site.cluster().sql("CREATE TABLE t AS SELECT generate_series(1, 30000) AS id");
    site.pgbak("base-backup").succeeds();
    let backup = first.the_backup();
    for (archive, place) in [("base.tar.zst", 2), ("pg_wal.tar.zst", 3)] {
        first.alter(&first.backup(&backup).join(archive), |bytes| {
            let middle = bytes.len() / place;
            bytes[middle] ^= 0x10;
        });
    }
    let refused = site.fresh("refused");
    site.pgbak(&format!("restore -D {} --target-immediate --repository first", refused.display())).exits(1);

    let directory = site.fresh("restored");
    let arguments = format!("restore -D {} --target-immediate --target-action promote", directory.display());
    site.pgbak(&arguments).succeeds().stderr_has("base.tar.zst").stderr_has("trying repository second");
    let mut restored = site.restored_in(&directory);
    restored.launch();
    restored.wait_until_recovered();
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "30000");

    second.remove(&second.backup(&backup).join("base.tar.zst"));
    site.pgbak(&format!("restore -D {} --target-immediate", site.fresh("neither").display())).exits(1);
}

#[test]
fn recovery_stops_at_damaged_wal_instead_of_promoting() {
    let site = site!(initdb("--wal-segsize=1"));
    let mut restored = much_to_recover(&site);
    let repository = site.repository();
    let segments: Vec<String> = repository.archived().into_iter().filter(|name| name.len() == 24).collect();
    let damaged = repository.wal_file(&segments[segments.len() - 10]).unwrap();
    repository.alter(&damaged, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    restored.launch();
    assert!(!restored.wait_until_it_ends(), "it must not go on:\n{}", restored.log());
    assert!(!restored.log().contains("archive recovery complete"), "{}", restored.log());
}

/// A way to damage a file's content.
type Damage = fn(&mut Vec<u8>);

#[test]
fn a_damaged_archive_leaves_nothing_that_can_be_started() {
    let site = site!(repositories(1));
    site.cluster().sql("CREATE TABLE t AS SELECT md5(id::text) FROM generate_series(1, 100000) AS id");
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let backup = site.repository().the_backup();
    let stored = site.repository().backup(&backup);
    let damage: [(&str, &str, Damage); 8] = [
        ("a flipped bit in the archive", "base.tar.zst", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("a truncated archive", "base.tar.zst", |bytes| bytes.truncate(bytes.len() / 2)),
        ("an archive without its seek table", "base.tar.zst", |bytes| bytes.truncate(bytes.len() - 1)),
        ("a flipped bit in the WAL", "pg_wal.tar.zst", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("an altered manifest", "backup_manifest", |bytes| {
            let at = bytes.windows(7).position(|word| word == b"\"Size\":").unwrap();
            bytes[at + 9] = if bytes[at + 9] == b'1' { b'2' } else { b'1' };
        }),
        ("a truncated manifest", "backup_manifest", |bytes| bytes.truncate(bytes.len() / 2)),
        ("a truncated record", "backup_info.toml", |bytes| bytes.truncate(bytes.len() / 2)),
        ("a record of another format", "backup_info.toml", |bytes| {
            let text = String::from_utf8(std::mem::take(bytes)).unwrap();
            *bytes = text.replace("format = 1", "format = 99").into_bytes();
        }),
    ];
    for (what, file, change) in damage {
        let path = stored.join(file);
        let whole = fs::read(&path).unwrap();
        site.repository().alter(&path, change);
        assert_ne!(fs::read(&path).unwrap(), whole, "{what} is damage");
        let directory = site.fresh("restored");
        let outcome = site.pgbak(&format!("restore -D {}", directory.display())).exits(1);
        assert!(
            outcome.stderr.contains("hint: ") && outcome.stderr.lines().count() == 2,
            "{what}\n{outcome}"
        );
        assert!(!directory.join("global/pg_control").exists(), "{what}\n{outcome}");
        site.repository().alter(&path, |bytes| *bytes = whole);
    }
    site.restore("");
}

#[test]
fn every_bit_of_a_record_is_guarded() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let backup = site.repository().the_backup();
    let path = site.repository().backup(&backup).join("backup_info.toml");
    let text = fs::read_to_string(&path).unwrap();
    let (start, stop) = {
        let record = site.repository().record(&backup);
        (record["start_lsn"].as_str().unwrap().to_owned(), record["stop_lsn"].as_str().unwrap().to_owned())
    };
    let size = site.repository().record(&backup)["size_bytes"].as_integer().unwrap();
    for (from, to) in [
        (format!("\"{stop}\""), "\"0/1\"".to_owned()),
        (format!("\"{start}\""), "\"nonsense\"".to_owned()),
        (format!("size_bytes = {size}"), "size_bytes = -1".to_owned()),
        ("kind = \"full\"".to_owned(), "kind = \"half\"".to_owned()),
        ("base.tar.zst".to_owned(), "../base.tar.zst".to_owned()),
    ] {
        assert!(text.contains(&from), "no {from} in {text}");
        site.repository().alter(&path, |bytes| *bytes = text.replace(&from, &to).into_bytes());
        let directory = site.fresh("restored");
        let outcome = site.pgbak(&format!("restore -D {}", directory.display())).exits(1);
        assert!(!directory.exists(), "{from} became {to}, and it was restored\n{outcome}");
    }
}

#[test]
fn the_other_repository_is_used_when_the_first_is_damaged() {
    let site = site!(repositories(2), config("[wal]\npush_to = [\"first\", \"second\"]"));
    site.cluster().sql("CREATE TABLE t AS SELECT 1 AS id");
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let [first, second] = site.repositories() else { panic!("two repositories") };
    wait_until("both to have the WAL", || first.archived() == second.archived());
    let backup = first.the_backup();
    first.alter(&first.backup(&backup).join("backup_info.toml"), |bytes| bytes.truncate(20));
    let restored = site.restore("");
    assert_eq!(restored.sql("SELECT id FROM t"), "1");

    fs::rename(&first.path, site.path("gone")).unwrap();
    let restored = site.restore("");
    assert_eq!(restored.sql("SELECT id FROM t"), "1");
    fs::rename(site.path("gone"), &first.path).unwrap();
}
