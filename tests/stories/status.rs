//! What `status` tells a person, a program and a monitoring system.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Cluster, Outcome, Site, wait_until};
use crate::{pair, site};

/// Code, severity and repository of each finding.
fn findings(report: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = report["findings"].as_array().unwrap().iter();
    found
        .map(|finding| (text(&finding["code"]), text(&finding["severity"]), text(&finding["repository"])))
        .collect()
}

fn status(site: &Site) -> Outcome {
    site.pgbak("status --json")
}

/// The findings that are there now, as `code severity repository`.
fn found(site: &Site) -> Vec<String> {
    found_in(&status(site))
}

fn found_in(outcome: &Outcome) -> Vec<String> {
    findings(&outcome.json())
        .into_iter()
        .map(|(code, severity, repository)| format!("{code} {severity} {repository}").trim_end().to_owned())
        .collect()
}

#[track_caller]
fn finds(site: &Site, finding: &str) {
    let found = found(site);
    assert!(found.iter().any(|found| found == finding), "no \"{finding}\" in {found:?}");
    assert!(status(site).exits(3).stdout.contains("\"hint\": \""));
}

#[track_caller]
fn finds_nothing(site: &Site) {
    assert_eq!(found(site), [""; 0]);
    site.pgbak("status -q").succeeds().says("").stdout_is("");
}

fn wait_until_found(site: &Site, finding: &str) {
    wait_until(finding, || found(site).iter().any(|found| found == finding));
}

fn set(cluster: &Cluster, setting: &str, value: &str) {
    cluster.sql(&format!("ALTER SYSTEM SET {setting} = '{value}'"));
    cluster.sql("SELECT pg_reload_conf()");
    wait_until(setting, || cluster.sql(&format!("SELECT current_setting('{setting}')")) == value);
}

#[test]
fn an_empty_repository_is_a_finding() {
    let site = site!();
    assert_eq!(
        found(&site),
        ["repository-unreadable critical first"],
        "nobody knows whether its disk is mounted"
    );
    site.cluster().switch_wal();
    site.wait_until_archived();
    assert_eq!(found(&site), ["no-backup critical first"]);
    site.pgbak("status").exits(3).stdout_has("no-backup").stdout_has("Nothing can be restored");
}

#[test]
fn backups_and_wal_are_listed_as_they_are() {
    let site = site!(repositories(2));
    site.pgbak("base-backup --label nightly").succeeds();
    for _ in 0..3 {
        site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
        site.wait_until_archived();
    }
    let backup = site.repository().the_backup();
    let record = site.repository().record(&backup);
    let report = site.pgbak("status --format json").json();
    let first = &report["repositories"][0];
    assert_eq!(first["name"], "first");
    assert_eq!(first["error"], Value::Null);
    let listed = &first["backups"][0];
    assert_eq!(
        (&listed["name"], &listed["label"], &listed["kind"]),
        (&json!(backup), &json!("nightly"), &json!("full"))
    );
    for field in ["system_identifier", "start_lsn", "stop_lsn"] {
        assert_eq!(listed[field].as_str(), record[field].as_str(), "{field}");
    }
    assert_eq!(listed["stored_bytes"].as_i64(), record["stored_bytes"].as_integer());
    assert_eq!(listed["proof"], Value::Null);
    let mut segments = site.repository().archived();
    segments.retain(|name| name.len() == 24);
    let wal = &first["wal"][0];
    assert_eq!(wal["first_segment"], *segments.first().unwrap());
    assert_eq!(wal["last_segment"], *segments.last().unwrap());
    assert_eq!(wal["segments"], segments.len());
    let interval = &first["recoverable"][0];
    assert_eq!((&interval["backup"], &interval["from_lsn"]), (&json!(backup), &listed["stop_lsn"]));
    assert_eq!(first["wal_lag_segments"], 0);
    assert_eq!(report["repositories"][1]["backups"][0]["name"], backup);
    assert_eq!(report["server"]["system_identifier"], site.cluster().system_identifier());
    assert_eq!(report["server"]["archiving"]["mode"], "on");
    assert_eq!(report["runs"][0]["command"], "base-backup");

    let outcome = site.pgbak("status").stdout_has(&backup).stdout_has(segments.last().unwrap());
    assert!(outcome.stdout.contains("first: ") && outcome.stdout.contains("second: "), "{outcome}");
}

/// Replaces what differs from run to run, by the names of the fields.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let of_this_run = ["_bytes", "_ratio", "_seconds", "_count", "pid", "version"];
                match value {
                    Value::Number(_) if of_this_run.iter().any(|suffix| name.ends_with(suffix)) => {
                        *value = json!("<number>");
                    }
                    _ => normalise(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(normalise),
        _ => {}
    }
}

#[test]
fn the_json_of_a_real_site_has_these_fields() {
    let site = site!(config("[status]\nbackup_age_max = \"26h\"\nwal_lag_max = \"5m\"\n"));
    site.pgbak("base-backup --label nightly").succeeds();
    site.wait_until_archived();
    let outcome = status(&site).succeeds();
    let mut report = outcome.json();
    normalise(&mut report);
    let text = outcome.normaliser.normalise(&serde_json::to_string_pretty(&report).unwrap());
    assert_eq!(text, include_str!("status.json").trim_end());
}

#[test]
fn a_site_that_is_well_is_quiet_in_every_form() {
    let site = site!(repositories(2));
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    site.pgbak("wal-sync").succeeds();
    finds_nothing(&site);
    let text =
        site.pgbak("status").succeeds().says("").stdout_has("OK: nothing is wrong\n\nCan be restored\n");
    let wide = text.stdout.lines().find(|line| line.chars().count() > 80 && !line.contains("/"));
    assert_eq!(wide, None, "{text}");
    assert!(!text.stdout.contains('\u{1b}'), "no colour in a pipe");
    let line =
        site.pgbak("status --format nagios").succeeds().says("").stdout_has("PGBAK OK - restorable from 20");
    assert_eq!(line.stdout.lines().count(), 1, "{line}");
    assert!(line.stdout.contains("'second_wal_lag_segments'=0;;;0"), "{line}");
    let page = site.pgbak("status --format prometheus").succeeds().says("");
    for sample in [
        "pgbak_status_state 0",
        "pgbak_repository_up{repository=\"second\"} 1",
        "pgbak_server_up 1",
        "pgbak_wal_lag_segments{repository=\"second\"} 0",
        "pgbak_backups{repository=\"first\"} 1",
    ] {
        assert!(page.stdout.lines().any(|line| line == sample), "{sample}\n{page}");
    }
    assert!(
        page.stdout.contains("\npgbak_last_success_timestamp_seconds{command=\"base-backup\"} "),
        "{page}"
    );
    site.pgbak("status -q --format json").succeeds().stdout_has("\"state\": \"ok\"");
}

#[test]
fn without_the_server_the_rest_is_told() {
    let mut site = site!();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    site.cluster_mut().stop();
    assert_eq!(found(&site), ["server-unreachable warning"]);
    let report = status(&site).json();
    assert_eq!(report["repositories"][0]["recoverable"].as_array().unwrap().len(), 1);
    assert!(report["server"]["error"].as_str().unwrap().contains("could not connect"), "{report}");
    site.pgbak("status -q")
        .exits(3)
        .says("")
        .stdout_has("WARNING: 1 warning\n")
        .stdout_has("could not be asked");
    site.pgbak("status --format nagios").exits(1).stdout_has("PGBAK WARNING - server-unreachable: could not");
    site.pgbak("status --format prometheus").exits(0).stdout_has("pgbak_server_up 0\n");

    fs::rename(&site.repository().path, site.path("gone")).unwrap();
    let line = site.pgbak("status --format nagios").exits(3);
    assert!(line.stdout.starts_with("PGBAK UNKNOWN - repository-unreadable (first): "), "{line}");
    fs::rename(site.path("gone"), &site.repository().path).unwrap();
}

#[test]
fn a_repository_that_is_away_does_not_hide_the_other() {
    let site = site!(repositories(2));
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let [_, second] = site.repositories() else { panic!("two repositories") };
    fs::rename(&second.path, site.path("gone")).unwrap();
    assert_eq!(found(&site), ["repository-unreadable warning second"]);
    site.pgbak("status").exits(3).stdout_has("\n  second                could not be read\n");
    site.pgbak("status --format prometheus")
        .exits(0)
        .stdout_has("pgbak_repository_up{repository=\"second\"} 0\n");
    fs::rename(&site.repository().path, site.path("gone-too")).unwrap();
    assert_eq!(
        found(&site),
        ["repository-unreadable critical first", "repository-unreadable critical second"]
    );
    site.pgbak("status --format nagios").exits(2).stdout_has("PGBAK CRITICAL - ");
    fs::rename(site.path("gone"), &second.path).unwrap();
    fs::rename(site.path("gone-too"), &site.repository().path).unwrap();
    finds_nothing(&site);
}

#[test]
fn a_remote_that_is_down_does_not_hold_up_the_rest_for_long() {
    let mut pair = pair!(Chrooted);
    pair.site.pgbak("base-backup").succeeds();
    pair.archive_a_segment();
    pair.site.pgbak("wal-sync").succeeds();
    finds_nothing(&pair.site);
    pair.sshd.stop();
    let outcome = status(&pair.site).exits(3);
    assert_eq!(findings(&outcome.json())[0].0, "repository-unreadable");
    assert!(outcome.duration.as_secs() < 30, "{outcome}");
    assert_eq!(outcome.json()["repositories"][0]["recoverable"].as_array().unwrap().len(), 1);
    pair.sshd.start_again();
    finds_nothing(&pair.site);
}

#[test]
fn wal_that_does_not_arrive_is_told_with_its_cause_until_it_does() {
    let site = site!(config("[status]\nwal_lag_max = \"1s\"\n"));
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    finds_nothing(&site);
    let command = site.cluster().sql("SELECT current_setting('archive_command')");
    set(site.cluster(), "archive_command", "false");
    finds(&site, "archive-command-other warning");
    site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
    let segment = site.cluster().switch_wal();
    wait_until_found(&site, "archiver-failing critical");
    finds(&site, "wal-behind critical");
    let report = status(&site).json();
    assert_eq!(report["repositories"][0]["wal_lag_segments"], 1);
    assert!(report["repositories"][0]["wal_lag_seconds"].as_u64().unwrap() >= 1);
    site.pgbak("status").stdout_has(&format!("could not archive {segment}"));

    set(site.cluster(), "archive_command", &command);
    wait_until("the segment to be archived", || site.repository().holds(&segment));
    wait_until("the server to know", || found(&site).is_empty());
    finds_nothing(&site);
}

#[test]
fn a_repository_that_lacks_what_another_has_is_told_until_it_is_synced() {
    let site = site!(repositories(2), config("[status]\nwal_lag_max = \"1s\"\n"));
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    wait_until_found(&site, "wal-not-synced warning second");
    assert_eq!(found(&site).len(), 1);
    let mut site = site;
    site.cluster_mut().stop();
    wait_until_found(&site, "wal-not-synced warning second");
    site.pgbak("wal-sync").succeeds();
    assert_eq!(found(&site), ["server-unreachable warning"]);
    let report = status(&site).json();
    let until = |repository: usize| &report["repositories"][repository]["recoverable"][0]["to_at"];
    assert_eq!(until(0), until(1), "what came late is not newer for that");
}

#[test]
fn what_would_stop_archiving_and_backups_is_told_before_it_does() {
    let site = site!(without_archiving());
    site.pgbak("base-backup").succeeds();
    assert_eq!(found(&site), ["archive-mode-off critical"]);
    let cluster = site.cluster();
    cluster.sql("CREATE ROLE guest LOGIN");
    cluster.sql("CREATE ROLE watcher LOGIN REPLICATION IN ROLE pg_monitor");
    site.change_config("user=postgres", "user=guest");
    let codes = ["archive-mode-off critical", "no-replication-role critical", "server-restricted info"];
    assert_eq!(found(&site), codes);
    site.pgbak("status").stdout_has("ALTER ROLE guest REPLICATION;");
    site.change_config("user=guest", "user=watcher");
    assert_eq!(found(&site), ["archive-mode-off critical"], "a role needs no more than these two");

    site.write("data/pg_hba.conf", "local all all trust\nlocal replication all reject\n");
    cluster.sql("SELECT pg_reload_conf()");
    wait_until_found(&site, "no-replication-connection critical");
    site.write("data/pg_hba.conf", "local all all trust\nlocal replication all trust\n");
    cluster.sql("SELECT pg_reload_conf()");
    wait_until("the server to let it in again", || found(&site).len() == 1);

    site.change_config("[[repository]]", "[wal]\nsource = \"stream\"\nslot = \"pgbak\"\n\n[[repository]]");
    finds(&site, "slot-missing critical");
    cluster.sql("SELECT pg_create_physical_replication_slot('pgbak', true)");
    assert_eq!(found(&site), ["slot-inactive warning"]);
}

#[test]
fn a_server_without_room_or_wal_to_restore_from_is_told() {
    let site = site!(without_archiving(), settings("wal_level = minimal\nmax_wal_senders = 0\n"));
    let report = status(&site).exits(3).json();
    let codes: Vec<_> = findings(&report).into_iter().map(|(code, ..)| code).collect();
    assert_eq!(
        codes,
        ["repository-unreadable", "wal-level-minimal", "archive-mode-off", "no-walsender-free"]
    );

    let site = site!(settings("max_wal_senders = 1\n"));
    site.cluster().switch_wal();
    site.wait_until_archived();
    finds(&site, "no-walsender-free critical");
}

#[test]
fn another_cluster_at_the_same_address_is_noticed() {
    let site = site!();
    let other = site!(of_another_system());
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let (own, others) = (site.cluster().connection("postgres"), other.cluster().connection("postgres"));
    site.change_config(&own, &others);
    // That one's archive_command is right, for its own configuration.
    assert_eq!(found(&site), ["system-identifier-changed critical"]);
    site.change_config(&others, &own);
    finds_nothing(&site);
}

#[test]
fn a_backup_that_is_too_old_is_told() {
    let site = site!(repositories(2), config("[status]\nbackup_age_max = \"1s\"\n"));
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    site.pgbak("wal-sync").succeeds();
    wait_until_found(&site, "backup-too-old critical first");
    finds(&site, "backup-too-old critical second");
    site.pgbak("status --format nagios").exits(2).stdout_has("PGBAK CRITICAL - backup-too-old (first): ");
    site.change_config("\"1s\"", "\"1h\"");
    finds_nothing(&site);
}

#[test]
fn a_gap_an_unreadable_record_and_an_unreadable_repository_are_findings() {
    let site = site!(repositories(2));
    site.pgbak("base-backup").succeeds();
    let segments = [(); 3].map(|()| {
        site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
        let segment = site.cluster().switch_wal();
        wait_until("the segment to be archived", || site.repository().holds(&segment));
        segment
    });
    let [first, second] = site.repositories() else { panic!("two repositories") };
    let finds = |code: &str, words: &str| {
        let report = status(&site).exits(3).json();
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["code"] == code);
        let message =
            found.unwrap_or_else(|| panic!("no {code} in {report}"))["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "no {words} in {message}");
        site.pgbak("status").exits(3).stdout_has(code);
    };
    first.remove(&first.wal_file(&segments[1]).unwrap());
    finds("wal-gap", &segments[1]);
    let interval = &status(&site).json()["repositories"][0]["recoverable"];
    assert_eq!(interval.as_array().unwrap().len(), 1, "{interval}");
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let intervals = &status(&site).json()["repositories"][0]["recoverable"];
    assert_eq!(intervals.as_array().unwrap().len(), 2, "one before the gap, one behind it: {intervals}");
    assert_eq!(found(&site), ["wal-gap info first"], "the new backup does without it");
    site.pgbak("status -q").succeeds().stdout_is("");

    let backup = first.backups().pop().unwrap();
    first.alter(&first.backup(&backup).join("backup_info.toml"), |bytes| bytes.truncate(40));
    finds("backup-damaged", &backup);

    fs::rename(&second.path, site.path("gone")).unwrap();
    finds("repository-unreadable", "second");
    fs::rename(site.path("gone"), &second.path).unwrap();
}

#[test]
fn runs_are_shown_at_work_and_their_failures_until_one_succeeds() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    finds_nothing(&site);

    // A failure, and the good run that ends it.
    let data = site.path("data");
    let path = site.repository().path.clone();
    fs::rename(&path, site.path("gone")).unwrap();
    fs::write(&path, "").unwrap();
    site.pgbak("base-backup").exits(1);
    fs::remove_file(&path).unwrap();
    fs::rename(site.path("gone"), &path).unwrap();
    assert_eq!(found(&site), ["backup-failed warning"], "{}", data.display());
    site.pgbak("status").exits(3).stdout_has("the last base-backup failed");
    site.pgbak("base-backup").succeeds();
    finds_nothing(&site);

    // One at work, and killed.
    let running = site.call("base-backup --max-rate 1MB").start();
    let pid = running.process_id();
    wait_until("the run to be seen in the repository", || {
        let report = status(&site).json();
        let in_progress = &report["repositories"][0]["in_progress"];
        in_progress[0]["pid"].as_u64().is_some_and(|found| found == u64::from(pid))
    });
    let report = status(&site).succeeds().json();
    assert_eq!(report["runs"][0]["at_work"][0]["pid"], pid);
    site.pgbak("status")
        .succeeds()
        .stdout_has("in progress: base_backup_")
        .stdout_has(&format!("process {pid} since"));
    site.pgbak("status --format prometheus").stdout_has("pgbak_runs_at_work{command=\"base-backup\"} 1\n");
    running.signal(Signal::KILL);
    running.finish().exits(128 + 9);
    assert_eq!(found(&site), ["run-killed warning"]);
    assert_eq!(status(&site).json()["repositories"][0]["in_progress"], json!([]), "the dead hold nothing");
    site.pgbak("base-backup").succeeds();
    finds_nothing(&site);
}

/// The directory in which pgbak remembers what it did with the site's configuration.
fn state_of(site: &Site) -> PathBuf {
    let state = fs::read_dir(site.path("home/.local/state/pgbak")).unwrap();
    let mut directories = state.map(|entry| entry.unwrap().path()).filter(|path| path.join("runs").is_dir());
    directories.next().expect("a run was noted")
}

fn modified_at(path: &Path) -> DateTime<Utc> {
    fs::metadata(path).unwrap().modified().unwrap().into()
}

#[test]
fn what_verify_found_is_told_as_long_as_it_is_true() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let repository = site.repository();
    let backup = repository.the_backup();
    let segment = repository.archived().into_iter().rfind(|name| name.len() == 24).unwrap();
    let record = repository.backup(&backup).join("backup_info.toml");
    let stored = repository.wal_file(&segment).unwrap();
    let remember = |damage: Option<&str>| {
        let line = |key: &str, of: &Path| {
            json!({
                "key": key, "size_bytes": 1, "modified_at": modified_at(of), "depth": "read",
                "proven_at": Utc::now(), "damage": damage,
            })
        };
        let of_backup = line(&format!("base-backups/{backup}"), &record);
        let of_wal = line(stored.strip_prefix(&repository.path).unwrap().to_str().unwrap(), &stored);
        let text = format!("{}\n{of_backup}\n{of_wal}\n", json!(repository.path));
        fs::write(state_of(&site).join("proofs-first.jsonl"), text).unwrap();
    };
    remember(Some("a frame is torn"));
    assert_eq!(found(&site), ["backup-damage-found critical first", "wal-damage-found critical first"]);
    site.pgbak("status").exits(3).stdout_has("DAMAGED").stdout_has("a frame is torn");

    // Replaced by whole copies, which are to be proven anew.
    for path in [&record, &stored] {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
    }
    finds_nothing(&site);
    remember(None);
    finds_nothing(&site);
    site.pgbak("status").succeeds().stdout_has("  read, 0s ago\n");
}

#[test]
fn a_server_that_never_answers_does_not_hold_up_the_rest_for_long() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    // It accepts connections, and is silent.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let connection = site.cluster().connection("postgres");
    site.change_config(&connection, &format!("host=127.0.0.1 port={port} user=postgres"));
    let outcome = status(&site).exits(3);
    assert_eq!(found_in(&outcome), ["server-unreachable warning"]);
    assert!(outcome.duration.as_secs() < 30, "{outcome}");
}

/// The recoverable intervals of the first repository: timeline, from, to.
fn intervals(site: &Site) -> Vec<(u64, String, String)> {
    let report = status(site).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let shown = report["repositories"][0]["recoverable"].as_array().unwrap();
    let shown = shown.iter().map(|interval| {
        (interval["timeline"].as_u64().unwrap(), text(&interval["from_lsn"]), text(&interval["to_lsn"]))
    });
    shown.collect()
}

fn dry(site: &Site, lsn: &str, timeline: u64) -> Outcome {
    let directory = site.fresh("planned");
    let target = format!("--target-lsn {lsn} --target-timeline {timeline}");
    site.pgbak(&format!("restore --dry-run -D {} {target}", directory.display()))
}

fn one_before(lsn: &str) -> String {
    let lsn: pgbak::pg::Lsn = lsn.parse().unwrap();
    pgbak::pg::Lsn(lsn.0 - 1).to_string()
}

#[test]
fn what_is_shown_as_restorable_is_and_nothing_else() {
    let mut site = site!();
    site.cluster().sql("CREATE TABLE t AS SELECT 1 AS id");
    site.pgbak("base-backup").succeeds();
    site.cluster().sql("INSERT INTO t VALUES (2)");
    site.cluster().sql("INSERT INTO t VALUES (3)");
    let last = site.cluster().lsn();
    site.cluster().sql("INSERT INTO t VALUES (4)");
    site.wait_until_archived();
    let [(1, from, to)] = &intervals(&site)[..] else { panic!("{:?}", intervals(&site)) };

    dry(&site, &one_before(from), 1).exits(1);
    dry(&site, from, 1).succeeds();
    dry(&site, &one_before(to), 1).succeeds();
    dry(&site, to, 1).exits(1);
    let rows = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";
    assert_eq!(site.restore(&format!("--target-lsn {from} --target-action promote")).sql(rows), "1");
    assert_eq!(site.restore(&format!("--target-lsn {last} --target-action promote")).sql(rows), "1 2 3");

    // A promotion: the old timeline stays restorable to its end, the new one from the same backup on.
    site.cluster_mut().stop();
    let old = intervals(&site);
    let directory = site.fresh("promoted");
    site.pgbak(&format!("restore -D {} --target-lsn {last} --target-action promote", directory.display()))
        .succeeds();
    let mut second = site.restored_in(&directory);
    second.set("archive_mode", "on");
    second.start();
    second.wait_until_recovered();
    second.sql("INSERT INTO t VALUES (5)");
    let newest = second.lsn();
    second.sql("INSERT INTO t VALUES (6)");
    let segment = second.switch_wal();
    wait_until("the new timeline to be archived", || site.repository().holds(&segment));
    second.stop();
    let shown = intervals(&site);
    assert_eq!(shown[0], old[0]);
    let (2, of_new, to) = &shown[1] else { panic!("{shown:?}") };
    assert_eq!((shown.len(), of_new), (2, from));
    dry(&site, &one_before(to), 2).succeeds();
    dry(&site, to, 2).exits(1);
    dry(&site, &one_before(&old[0].2), 1).succeeds();
    let restored =
        site.restore(&format!("--target-lsn {newest} --target-timeline 2 --target-action promote"));
    assert_eq!(restored.sql(rows), "1 2 3 5");
}

/// Words, with one and the same for each that another day, another place or another number would change.
fn shape(text: &str) -> String {
    let changes = |word: &str| word.contains(|c: char| c.is_ascii_digit() || c == '/');
    let words = text.split_whitespace().map(|word| if changes(word) { "#" } else { word });
    let is_unit = |word: &&str| ["s", "min", "kB", "MB"].contains(&word.trim_end_matches(','));
    let mut words: Vec<&str> = words.filter(|word| !is_unit(word)).collect();
    words.dedup_by(|next, word| *next == "#" && *word == "#");
    words.join(" ")
}

/// The README's block, from one "…" to the next.
#[test]
fn the_readme_shows_what_status_prints() {
    let readme = fs::read_to_string("README.md").unwrap();
    let (_, block) = readme.split_once("```\n$ pgbak status\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();

    let site = site!(repositories(2), config("[status]\nwal_lag_max = \"1s\"\n"));
    site.pgbak("base-backup").succeeds();
    site.pgbak("wal-sync").succeeds();
    site.cluster().switch_wal();
    site.wait_until_archived();
    wait_until_found(&site, "wal-not-synced warning second");
    let printed = site.pgbak("status").exits(3).stdout.clone();
    let printed = shape(&printed);
    let block = block.replace("local", "first").replace("remote", "second");
    for shown in block.split("\n…\n").map(shape) {
        assert!(printed.contains(&shown), "the README shows\n{shown}\nand status prints\n{printed}");
    }
}
