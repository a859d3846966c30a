//! What `status` tells a person and a program.

use std::fs;

use crate::site;
use crate::support::wait_until;

#[test]
fn an_empty_repository_is_a_finding() {
    let site = site!();
    let report = site.pgbak("status --format json").exits(3).json();
    let codes: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|finding| &finding["code"]).collect();
    assert_eq!(codes, ["repository-unreadable"], "nobody knows whether its disk is mounted");
    assert!(report["findings"][0]["hint"].is_string(), "{report}");

    site.cluster().switch_wal();
    site.wait_until_archived();
    let report = site.pgbak("status --format json").exits(3).json();
    assert_eq!(report["findings"][0]["code"], "no-backup", "{report}");
    site.pgbak("status").exits(3).stdout_has("no-backup");
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
    assert_eq!(first["error"], serde_json::Value::Null);
    let listed = &first["backups"][0];
    assert_eq!(listed["name"], backup);
    assert_eq!(listed["label"], "nightly");
    for field in ["system_identifier", "start_lsn", "stop_lsn"] {
        assert_eq!(listed[field].as_str(), record[field].as_str(), "{field}");
    }
    assert_eq!(listed["stored_bytes"].as_i64(), record["stored_bytes"].as_integer());
    let mut segments = site.repository().archived();
    segments.retain(|name| name.len() == 24);
    let wal = &first["wal"][0];
    assert_eq!(wal["first_segment"], *segments.first().unwrap());
    assert_eq!(wal["last_segment"], *segments.last().unwrap());
    assert_eq!(wal["segments"], segments.len());
    assert_eq!(report["repositories"][1]["backups"][0]["name"], backup);

    let outcome = site.pgbak("status").stdout_has(&backup).stdout_has(segments.last().unwrap());
    assert!(outcome.stdout.contains("first: ") && outcome.stdout.contains("second: "), "{outcome}");
}

#[test]
fn all_is_well_is_0_and_nothing_on_stderr() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    site.pgbak("status").succeeds().says("").stdout_has("No findings");
    assert_eq!(site.pgbak("status --json").succeeds().json()["findings"], serde_json::json!([]));
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
        let report = site.pgbak("status --json").exits(3).json();
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["code"] == code);
        let message =
            found.unwrap_or_else(|| panic!("no {code} in {report}"))["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "no {words} in {message}");
        site.pgbak("status").exits(3).stdout_has(code);
    };
    first.remove(&first.wal_file(&segments[1]).unwrap());
    finds("wal-gap", &segments[1]);

    let backup = first.the_backup();
    first.alter(&first.backup(&backup).join("backup_info.toml"), |bytes| bytes.truncate(40));
    finds("backup-damaged", &backup);

    fs::rename(&second.path, site.path("gone")).unwrap();
    finds("repository-unreadable", "second");
    fs::rename(site.path("gone"), &second.path).unwrap();
}
