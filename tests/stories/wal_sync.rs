//! Every repository up to date with the WAL: from the first repository, from the directory that `cp` fills, and
//! whatever goes wrong on the way.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::site;
use crate::support::{Outcome, Repository, Site, SiteBuilder, Workload, wait_until};
use pgbak::pg::{Lsn, SegmentName, SegmentSize, Timeline, WalFileName};

/// Ends the segment in use, after writing something into it; returns its name.
fn switch(site: &Site) -> String {
    site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', md5(random()::text))");
    site.cluster().switch_wal()
}

fn switch_and_push(site: &Site) -> String {
    let segment = switch(site);
    wait_until(&format!("{segment} to be archived"), || site.repository().holds(&segment));
    segment
}

fn in_pg_wal(site: &Site, name: &str) -> Vec<u8> {
    fs::read(site.cluster().data.join("pg_wal").join(name)).unwrap()
}

fn two(site: &Site) -> (&Repository, &Repository) {
    let [first, second] = site.repositories() else { panic!("two repositories") };
    (first, second)
}

/// The archived files with their sizes as stored.
fn wal_objects(repository: &Repository) -> BTreeSet<(PathBuf, u64)> {
    let files = repository.files().into_iter().filter(|path| path.starts_with("wal-archive"));
    let size = |path: &Path| fs::metadata(repository.path.join(path)).unwrap().len();
    files.map(|path| (path.clone(), size(&path))).collect()
}

/// The same without what lies before the first base backup, of which nobody has any use.
fn of_use(repository: &Repository, backup: &str) -> BTreeSet<(PathBuf, u64)> {
    let start: Lsn = repository.record(backup)["start_lsn"].as_str().unwrap().parse().unwrap();
    let floor = SegmentName::holding(start, Timeline::FIRST, SegmentSize::DEFAULT);
    let place = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap();
        WalFileName::parse(name).ok()?.place()
    };
    let mut objects = wal_objects(repository);
    objects.retain(|(path, _)| place(path).is_none_or(|place| place >= floor.place(SegmentSize::DEFAULT)));
    objects
}

fn codes(outcome: &Outcome) -> Vec<String> {
    let report = outcome.json();
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

/// Every row is there after a restore from this repository alone.
fn restores_from(site: &Site, repository: &Repository, rows: &str) {
    let restored = site.restore(&format!("--repository {}", repository.name));
    assert_eq!(restored.sql("SELECT count(*) FROM t"), rows, "from {} alone", repository.name);
}

// --- from the repository that wal-push writes to

#[test]
fn the_second_repository_alone_brings_every_row_back() {
    let site = site!(repositories(2));
    site.pgbak("base-backup").succeeds();
    let workload = Workload::start(site.cluster());
    workload.wait_for_more(300);
    switch_and_push(&site);
    workload.wait_for_more(300);
    let account = workload.finish(site.cluster());
    site.wait_until_archived();
    let (first, second) = two(&site);
    assert!(second.archived().is_empty());

    let report = site.pgbak("wal-sync --json").succeeds().says("").json();
    assert_eq!(of_use(first, &first.the_backup()), wal_objects(second), "as it is stored");
    assert_eq!(report["repositories"][1]["files_copied"], second.archived().len());
    assert_eq!(report["repositories"][1]["copied_from"][0]["from"], "first");
    fs::rename(&first.path, site.path("gone")).unwrap();
    let restored = site.restore("--repository second");
    account.assert_holds_exactly(&restored, &account.history.commits);
    drop(restored);
    fs::rename(site.path("gone"), &first.path).unwrap();

    site.pgbak("wal-sync").succeeds().says("").stdout_has("every repository is up to date");
    assert_eq!(site.pgbak("-q wal-sync").succeeds().says("").stdout, "");
}

#[test]
fn each_repository_gives_what_the_other_lacks_and_nothing_needs_a_server() {
    let mut site = site!(repositories(2), initdb("--wal-segsize=1"));
    let segments: Vec<String> = (0..6).map(|_| switch_and_push(&site)).collect();
    site.pgbak("wal-sync").succeeds();
    site.cluster_mut().stop();
    let (first, second) = two(&site);
    first.remove(&first.wal_file(&segments[1]).unwrap());
    first.remove(&first.wal_file(&segments[4]).unwrap());
    second.remove(&second.wal_file(&segments[2]).unwrap());
    let report = site.pgbak("wal-sync --json").succeeds().says("").json();
    assert_eq!(report["repositories"][0]["files_copied"], 2);
    assert_eq!(report["repositories"][1]["files_copied"], 1);
    assert_eq!(wal_objects(first), wal_objects(second));
}

#[test]
fn a_damaged_object_is_taken_from_another_repository_or_told_and_never_spread() {
    let site = site!(repositories(3));
    let segments: Vec<String> = (0..3).map(|_| switch_and_push(&site)).collect();
    site.pgbak("wal-sync").succeeds();
    let [first, second, third] = site.repositories() else { panic!("three repositories") };
    for segment in &segments[..2] {
        third.remove(&third.wal_file(segment).unwrap());
        first.alter(&first.wal_file(segment).unwrap(), |bytes| bytes[40] ^= 1);
    }
    second.remove(&second.wal_file(&segments[0]).unwrap());
    let outcome = site.pgbak("wal-sync --json").exits(3);
    assert_eq!(codes(&outcome), ["wal-damaged", "wal-damaged"]);
    let report = outcome.json();
    for number in [1, 2] {
        let missing = &report["repositories"][number]["missing"];
        assert_eq!(missing[0]["first"], *segments[0], "{report}");
        assert!(missing[0]["reason"].as_str().unwrap().contains("damaged"), "{report}");
    }
    assert_eq!(third.wal_content(&segments[1]), in_pg_wal(&site, &segments[1]), "from the second");
    assert!(!third.holds(&segments[0]) && !second.holds(&segments[0]));
    site.pgbak("wal-sync").exits(3).stdout_has("MISSING").stdout_has(&segments[0]).stdout_has("hint: ");
}

#[test]
fn a_repository_that_is_away_is_told_and_is_complete_when_it_is_back() {
    let site = site!(repositories(2));
    site.pgbak("base-backup").succeeds();
    switch_and_push(&site);
    site.pgbak("wal-sync").succeeds();
    let (first, second) = two(&site);
    fs::rename(&second.path, site.path("gone")).unwrap();
    for _ in 0..2 {
        switch_and_push(&site);
        let outcome = site.pgbak("wal-sync --json").exits(3);
        assert_eq!(codes(&outcome), ["repository-failed"]);
        assert!(outcome.json()["repositories"][1]["hint"].as_str().unwrap().contains("mounted"));
        assert!(!second.path.exists(), "it is not made anew");
        // An empty mount point is no repository either.
        fs::create_dir(&second.path).unwrap();
        site.identity().own_path(&second.path);
        site.pgbak("wal-sync").exits(3).stdout_has("second");
        assert_eq!(second.files(), [] as [&Path; 0]);
        fs::remove_dir(&second.path).unwrap();
    }
    fs::rename(site.path("gone"), &second.path).unwrap();
    site.pgbak("wal-sync").succeeds();
    assert_eq!(of_use(first, &first.the_backup()), wal_objects(second));

    fs::rename(&first.path, site.path("gone")).unwrap();
    fs::rename(&second.path, site.path("gone-too")).unwrap();
    site.pgbak("wal-sync").exits(1).stderr_has("RESTORE.md");
    fs::rename(site.path("gone"), &first.path).unwrap();
    fs::rename(site.path("gone-too"), &second.path).unwrap();
}

#[test]
fn a_read_only_repository_still_gives_what_it_has() {
    let site = site!(repositories(2), without_archiving());
    let (first, second) = two(&site);
    let push = |repository: &str, segment: &str| {
        let wal = format!("[wal]\npush_to = [\"{repository}\"]\n\n[[repository]]");
        site.write("push.toml", site.config().replacen("[[repository]]", &wal, 1));
        let path = site.cluster().data.join("pg_wal").join(segment);
        site.pgbak(&format!("--config {} wal-push {}", site.path("push.toml").display(), path.display()))
            .succeeds();
    };
    let (one, other) = (switch(&site), switch(&site));
    push("first", &one);
    push("second", &other);
    for directory in
        walkdir::WalkDir::new(&first.path).into_iter().flatten().filter(|entry| entry.path().is_dir())
    {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o500)).unwrap();
    }
    let outcome = site.pgbak("wal-sync --json").exits(3);
    assert_eq!(codes(&outcome), ["repository-failed"]);
    assert_eq!(outcome.json()["repositories"][0]["missing"][0]["first"], *other);
    for directory in
        walkdir::WalkDir::new(&first.path).into_iter().flatten().filter(|entry| entry.path().is_dir())
    {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(second.archived(), [one, other]);
    site.pgbak("wal-sync").succeeds();
    assert_eq!(wal_objects(first), wal_objects(second));
}

#[test]
fn a_gap_is_a_finding_until_the_next_base_backup() {
    let site = site!(repositories(2));
    site.pgbak("base-backup").succeeds();
    let segments: Vec<String> = (0..3).map(|_| switch_and_push(&site)).collect();
    site.pgbak("wal-sync").succeeds();
    for repository in site.repositories() {
        repository.remove(&repository.wal_file(&segments[1]).unwrap());
    }
    let outcome = site.pgbak("wal-sync --json").exits(3);
    assert_eq!(codes(&outcome), ["wal-gap"]);
    assert!(outcome.json()["findings"][0]["message"].as_str().unwrap().contains(&segments[1]));
    site.pgbak("base-backup").succeeds();
    switch_and_push(&site);
    site.pgbak("wal-sync").succeeds();
}

#[test]
fn a_promotion_s_history_is_copied_before_its_segments() {
    let mut site = site!(repositories(2));
    site.cluster().sql("CREATE TABLE t AS SELECT generate_series(1, 10) AS id");
    site.pgbak("base-backup").succeeds();
    switch_and_push(&site);
    site.wait_until_archived();
    site.cluster_mut().stop();
    let directory = site.fresh("promoted");
    site.pgbak(&format!("restore --target-action promote -D {}", directory.display())).succeeds();
    let mut restored = site.restored_in(&directory);
    let (pgbak, config) = (site.path("bin/pgbak"), site.path("pgbak.toml"));
    let push = format!("{} --config {} wal-push %p", pgbak.display(), config.display());
    restored.set("archive_mode", "on");
    restored.set("archive_command", &push);
    restored.launch();
    restored.wait_until_recovered();
    restored.sql("INSERT INTO t VALUES (11)");
    restored.switch_wal();
    restored.sql("INSERT INTO t VALUES (12)");
    let segment = restored.switch_wal();
    wait_until("the new timeline to be archived", || site.repository().holds(&segment));
    assert!(segment.starts_with("00000002"), "{segment}");
    restored.stop();

    let (first, second) = two(&site);
    assert!(first.holds("00000002.history"));
    // Whoever looks at any moment finds the history there, if a segment is.
    let mut running = site.call("wal-sync").start();
    while !running.has_ended() {
        let archived = second.archived();
        let is_new = |name: &String| name.starts_with("00000002") && !name.ends_with("history");
        assert!(!archived.iter().any(is_new) || second.holds("00000002.history"), "{archived:?}");
    }
    running.finish().succeeds();
    assert_eq!(of_use(first, &first.the_backup()), of_use(second, &first.the_backup()));
    restores_from(&site, second, "12");
}

// --- from the directory that archive_command fills

/// A site whose server archives with `cp`, and whose pgbak is configured by environment variables alone.
fn site_with_directory(builder: SiteBuilder) -> Option<Site> {
    let site = builder.without_archiving().build()?;
    site.make_directory("archive");
    let settings = fs::read_to_string(site.path("data/postgresql.conf")).unwrap();
    let archive = site.path("archive");
    let command = format!("test ! -f {0}/%f && cp %p {0}/%f", archive.display());
    let settings =
        settings.replace("archive_mode = off", &format!("archive_mode = on\narchive_command = '{command}'"));
    site.write("data/postgresql.conf", settings);
    let mut site = site;
    site.cluster_mut().stop();
    site.cluster_mut().start();
    Some(site)
}

fn env<'a>(site: &'a Site, arguments: &str) -> crate::support::Call<'a> {
    let path = |name: &str| site.path(name).display().to_string();
    site.call(arguments)
        .without_env("PGBAK_CONFIG")
        .env("POSTGRES_HOST", site.cluster().sockets().to_str().unwrap())
        .env("POSTGRES_USER", "postgres")
        .env("POSTGRES_DB", "postgres")
        .env("PGPORT", &site.cluster().port().to_string())
        .env("LOCAL_BACKUP_PATH", &path("repositories/first"))
        .env("WAL_ARCHIVE_PATH", &path("archive"))
        .env("WAL_SYNC_INTERVAL", "1")
}

fn switch_and_copy(site: &Site) -> String {
    let segment = switch(site);
    let archived = format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver");
    wait_until(&format!("{segment} to be copied"), || site.cluster().sql(&archived) == "t");
    segment
}

/// A site with both: the directory, and a configuration file with these repositories.
fn config_with_directory(site: &Site) {
    let directory = site.path("archive");
    let wal =
        format!("[wal]\nsource = \"directory\"\ndirectory = \"{}\"\n\n[[repository]]", directory.display());
    site.write("pgbak.toml", site.config().replacen("[[repository]]", &wal, 1));
}

#[test]
fn what_cp_archives_is_collected_and_restores() {
    let Some(site) = site_with_directory(Site::with()) else { return };
    site.cluster().sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    // Before there is any repository.
    switch_and_copy(&site);
    env(&site, "wal-sync").run().succeeds().says("").stdout_has("from the directory");
    env(&site, "base-backup").run().succeeds();
    site.cluster().sql("INSERT INTO t SELECT generate_series(1001, 2000)");
    switch_and_copy(&site);
    switch_and_copy(&site);

    let before = fs::read_dir(site.path("archive")).unwrap().count();
    let report = env(&site, "wal-sync --json").run().succeeds().says("").json();
    assert_eq!(report["source"], "directory");
    assert_eq!(fs::read_dir(site.path("archive")).unwrap().count(), before, "nothing is deleted");
    let archived = site.repository().archived();
    for entry in fs::read_dir(site.path("archive")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(archived.contains(&name), "{name}");
        assert_eq!(site.repository().wal_content(&name), fs::read(entry.path()).unwrap(), "{name}");
    }
    restores_from(&site, site.repository(), "2000");
    env(&site, "wal-sync").run().succeeds().stdout_has("every repository is up to date");
}

#[test]
fn a_file_that_is_still_being_copied_is_left_and_then_taken() {
    let Some(site) = site_with_directory(Site::with()) else { return };
    let segments: Vec<String> = (0..3)
        .map(|_| {
            // More than a page.
            site.cluster().sql("SELECT pg_logical_emit_message(false, 'test', repeat('x', 50000))");
            switch_and_copy(&site)
        })
        .collect();
    let last = site.path("archive").join(&segments[2]);
    let whole = fs::read(&last).unwrap();
    // As `cp` has left it half-way; then with its size set beforehand, and only zeros behind what was written.
    let records_end = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let zeroed = |end: usize| {
        let mut bytes = whole.clone();
        bytes[end..].fill(0);
        bytes
    };
    let unfinished = [
        vec![],
        whole[..20].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        zeroed(0),
        zeroed(8192),
        zeroed(records_end - 9),
    ];
    for bytes in unfinished {
        fs::write(&last, &bytes).unwrap();
        let report = env(&site, "wal-sync --json").run().succeeds().says("").json();
        assert_eq!(report["waiting"][0]["name"], *segments[2], "{} bytes: {report}", bytes.len());
        assert!(!site.repository().holds(&segments[2]));
        assert!(site.repository().holds(&segments[1]));
    }
    fs::write(&last, &whole).unwrap();
    assert!(whole.ends_with(&[0; 8192]), "it was switched, and ends in zeros that belong to it");
    env(&site, "wal-sync").run().succeeds();
    assert_eq!(site.repository().wal_content(&segments[2]), whole);
}

#[test]
fn full_segments_and_switched_ones_of_a_busy_server_are_all_taken() {
    let Some(site) = site_with_directory(Site::with().initdb("--wal-segsize=1")) else { return };
    site.cluster().sql("CREATE TABLE t AS SELECT md5(id::text) FROM generate_series(1, 200000) AS id");
    for rows in [1, 10, 3000, 7000] {
        site.cluster()
            .sql(&format!("INSERT INTO t SELECT md5(id::text) FROM generate_series(1, {rows}) AS id"));
        switch_and_copy(&site);
    }
    let report = env(&site, "wal-sync --json").run().succeeds().json();
    assert_eq!(report["waiting"], serde_json::json!([]));
    let files: Vec<_> = fs::read_dir(site.path("archive")).unwrap().flatten().collect();
    assert!(files.len() > 15, "{} segments", files.len());
    assert_eq!(site.repository().archived().len(), files.len());
}

#[test]
fn files_that_are_not_what_they_say_are_told_and_do_not_stop_the_others() {
    let Some(site) = site_with_directory(Site::with().repositories(2)) else { return };
    config_with_directory(&site);
    let first = switch_and_copy(&site);
    site.pgbak("wal-sync").succeeds();
    let other = site!(of_another_system(), without_archiving());
    let mut foreign = switch(&other);
    while foreign[..] <= first[..] || site.path("archive").join(&foreign).exists() {
        foreign = switch(&other);
    }
    // Neither is in the way of a file that this server will archive before they are gone again.
    let archive = site.path("archive");
    let renamed = format!("{}000000F0", &first[..16]);
    let foreign_path = site.write(&format!("archive/{foreign}"), in_pg_wal(&other, &foreign));
    let content = fs::read(archive.join(&first)).unwrap();
    let renamed_path = site.write(&format!("archive/{renamed}"), content);
    site.write("archive/notes.tmp", "x");
    let outcome = site.pgbak("wal-sync --json").exits(3);
    let mut codes = codes(&outcome);
    codes.sort();
    assert_eq!(codes, ["file-wrong", "wal-foreign"], "{outcome}");
    fs::remove_file(&renamed_path).unwrap();
    fs::remove_file(&foreign_path).unwrap();
    let next = switch_and_copy(&site);
    site.pgbak("wal-sync").succeeds();
    let (first, second) = two(&site);
    assert!(first.holds(&next));
    assert_eq!(wal_objects(first), wal_objects(second));
}

#[test]
fn the_directory_is_collected_also_while_the_first_repository_is_away() {
    let Some(site) = site_with_directory(Site::with().repositories(2)) else { return };
    config_with_directory(&site);
    site.pgbak("base-backup").succeeds();
    switch_and_copy(&site);
    site.pgbak("wal-sync").succeeds();
    let (first, second) = two(&site);
    fs::rename(&first.path, site.path("gone")).unwrap();
    let segment = switch_and_copy(&site);
    site.pgbak("wal-sync").exits(3).stdout_has("second: 1 file from the directory");
    assert_eq!(second.wal_content(&segment), in_pg_wal(&site, &segment));
    fs::rename(site.path("gone"), &first.path).unwrap();
    site.pgbak("wal-sync").succeeds().stdout_has("first: 1 file from second");
    assert_eq!(wal_objects(first), wal_objects(second));
}

#[test]
fn what_is_older_than_the_oldest_backup_is_not_collected_again() {
    let Some(site) = site_with_directory(Site::with()) else { return };
    let old = switch_and_copy(&site);
    env(&site, "wal-sync").run().succeeds();
    env(&site, "base-backup").run().succeeds();
    switch_and_copy(&site);
    let repository = site.repository();
    // As prune will.
    repository.remove(&repository.wal_file(&old).unwrap());
    env(&site, "wal-sync").run().succeeds();
    assert!(!repository.holds(&old) && site.path("archive").join(&old).exists());
}

#[test]
fn a_directory_that_cannot_be_read_is_told() {
    let Some(site) = site_with_directory(Site::with().repositories(2)) else { return };
    config_with_directory(&site);
    switch_and_copy(&site);
    site.pgbak("wal-sync").succeeds();
    fs::rename(site.path("archive"), site.path("moved")).unwrap();
    site.pgbak("wal-sync").exits(3).stdout_has("directory-unreadable");
    env(&site, "wal-sync").run().exits(1).stderr_has("archive");
    fs::rename(site.path("moved"), site.path("archive")).unwrap();
    site.pgbak("wal-sync").succeeds();
}

// --- the run itself

#[test]
fn a_run_that_follows_ends_on_a_signal_and_keeps_others_out() {
    let Some(site) = site_with_directory(Site::with()) else { return };
    switch_and_copy(&site);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut running = env(&site, "wal-sync --follow --json").start();
        let segment = switch_and_copy(&site);
        wait_until("the next round", || site.repository().holds(&segment));
        let told = || fs::read_to_string(running.stdout()).unwrap();
        wait_until("the round to be told", || told().ends_with('\n'));
        env(&site, "wal-sync").run().exits(4).refuses(&["another wal-sync is at work"], &[]);
        assert!(!running.has_ended());
        running.signal(signal);
        let outcome = running.finish().exits(code);
        let rounds: Vec<serde_json::Value> =
            outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!((1..=2).contains(&rounds.len()), "only what did something is told\n{outcome}");
        assert!(rounds.iter().all(|round| round["repositories"][0]["files_copied"].as_u64() > Some(0)));
    }
    env(&site, "wal-sync").run().succeeds();
    let started = env(&site, "wal-sync --follow --interval 3600").start();
    let state = || fs::read_dir(site.path("home/.local/state/pgbak")).into_iter().flatten().flatten();
    wait_until("the lock to be there", || {
        state().any(|entry| entry.path().extension().is_some_and(|suffix| suffix == "lock"))
    });
    started.signal(Signal::TERM);
    let outcome = started.finish().exits(143);
    assert!(outcome.duration.as_secs() < 20, "it does not wait for the next round\n{outcome}");
}

#[test]
fn a_round_that_fails_does_not_end_a_run_that_follows() {
    let site = site!(repositories(2));
    site.pgbak("base-backup").succeeds();
    site.pgbak("wal-sync").succeeds();
    let (_, second) = two(&site);
    fs::rename(&second.path, site.path("gone")).unwrap();
    let running = site.call("wal-sync --follow --interval 1").start();
    let first_line = || fs::read_to_string(running.stdout()).unwrap();
    wait_until("the finding", || first_line().contains("repository-failed"));
    fs::rename(site.path("gone"), &second.path).unwrap();
    let segment = switch_and_push(&site);
    wait_until("the second to have it", || second.holds(&segment));
    running.signal(Signal::TERM);
    let outcome = running.finish().exits(143);
    let told = outcome.stdout.lines().filter(|line| line.contains("repository-failed")).count();
    assert_eq!(told, 1, "a finding is told once\n{outcome}");
}

#[test]
fn killed_anywhere_it_leaves_nothing_half_written_and_the_next_run_completes_it() {
    let Some(site) = site_with_directory(Site::with().repositories(2).initdb("--wal-segsize=1")) else {
        return;
    };
    config_with_directory(&site);
    site.pgbak("base-backup").succeeds();
    site.cluster().sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS id");
    let (first, second) = two(&site);
    for milliseconds in (0..60).step_by(4) {
        site.cluster().sql("INSERT INTO t SELECT generate_series(1, 20000)");
        switch_and_copy(&site);
        let running = site.call("wal-sync").start();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        running.signal(Signal::KILL);
        drop(running);
        for repository in [first, second] {
            for name in repository.archived() {
                let expected = fs::read(site.path("archive").join(&name)).unwrap();
                assert!(repository.wal_content(&name) == expected, "{name} in {}", repository.name);
            }
        }
    }
    site.pgbak("wal-sync").succeeds();
    let names: BTreeSet<String> = fs::read_dir(site.path("archive"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let archived = |repository: &Repository| repository.archived().into_iter().collect::<BTreeSet<_>>();
    assert!(
        archived(first).is_superset(
            &names
                .into_iter()
                .filter(|name| WalFileName::parse(name).is_ok()
                    && *name >= archived(first).first().unwrap().clone())
                .collect()
        )
    );
    assert_eq!(archived(first), archived(second));
    let rows = site.cluster().sql("SELECT count(*) FROM t");
    restores_from(&site, second, &rows);
}

#[test]
fn a_full_disk_is_told_and_once_freed_all_is_there() {
    let site = site!(repositories(2));
    let (first, second) = two(&site);
    let Some(disk) = site.small_disk("40M") else { return };
    site.change_config(
        &second.path.display().to_string(),
        &disk.path.join("repository").display().to_string(),
    );
    site.cluster().sql("CREATE TABLE t AS SELECT md5(random()::text) FROM generate_series(1, 200000) AS id");
    switch_and_push(&site);
    disk.fill_up_to(100 << 10);
    let outcome = site.pgbak("wal-sync --json").exits(3);
    assert_eq!(codes(&outcome), ["repository-failed"], "{outcome}");
    let report = outcome.json();
    assert!(report["repositories"][1]["hint"].as_str().unwrap().contains("Free space"), "{report}");
    assert!(report["repositories"][1]["missing"][0]["files"].as_u64() > Some(0), "{report}");
    disk.remove_ballast();
    site.pgbak("wal-sync").succeeds();
    let there = Repository::new("second", &disk.path.join("repository"), site.identity());
    assert_eq!(wal_objects(first), wal_objects(&there));
}

#[test]
fn an_interval_is_for_those_who_follow_and_is_a_number() {
    let site = site!();
    site.pgbak("wal-sync --interval 5").exits(2).stderr_has("--follow");
    let call = env(&site, "wal-sync --follow").env("WAL_SYNC_INTERVAL", "soon");
    call.run().exits(2).refuses(&["WAL_SYNC_INTERVAL", "soon"], &["60"]);
}
