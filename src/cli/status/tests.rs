//! One report in all its forms.

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset, Utc};

use super::text::{Ink, show};
use super::*;
use crate::ops::proofs::Depth;
use crate::ops::status::{
    ArchivingStatus, BackupStatus, EventStatus, Finding, InProgressStatus, ProofStatus, RecoverableStatus,
    RepositoryStatus, RunEndStatus, RunStatus, RunningStatus, ServerStatus, Severity, SlotStatus,
    ThresholdStatus, WalStatus,
};

const SYSTEM: &str = "7439122314155001234";

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().into()
}

fn backup(name: &str, label: &str, stopped_at: &str, age_seconds: u64) -> BackupStatus {
    BackupStatus {
        name: name.into(),
        kind: "full",
        label: label.into(),
        system_identifier: SYSTEM.into(),
        timeline: 1,
        started_at: at(stopped_at),
        stopped_at: at(stopped_at),
        start_lsn: "0/2000028".into(),
        stop_lsn: "0/2000138".into(),
        size_bytes: 12_345_678_901,
        stored_bytes: 987_654_321,
        compression_ratio: Some(12.5),
        age_seconds,
        damaged_pages: 0,
        proof: None,
    }
}

fn unreadable() -> RepositoryStatus {
    RepositoryStatus {
        name: "remote".into(),
        place: "ssh://vault/pg".into(),
        error: Some("connection refused".into()),
        recoverable: vec![],
        backups: vec![],
        in_progress: vec![],
        wal: vec![],
        wal_lag_segments: None,
        wal_lag_seconds: None,
        wal_at_risk_bytes: None,
        wal_at_risk_seconds: None,
    }
}

fn local() -> RepositoryStatus {
    let mut older =
        backup("base_backup_20261012_020000", "before the upgrade", "2026-10-12T02:01:02Z", 41 * 86_400);
    older.proof =
        Some(ProofStatus { depth: Depth::Full, proven_at: at("2026-11-19T03:00:00Z"), damage: None });
    RepositoryStatus {
        name: "local".into(),
        place: "/var/lib/postgresql/backups".into(),
        error: None,
        recoverable: vec![RecoverableStatus {
            system_identifier: SYSTEM.into(),
            timeline: 1,
            backup: older.name.clone(),
            from_at: older.stopped_at,
            from_lsn: "0/2000138".into(),
            to_at: Some(at("2026-11-22T12:03:40Z")),
            to_lsn: "0/43000000".into(),
        }],
        backups: vec![older, backup("base_backup_20261122_020000", "", "2026-11-22T02:01:02.5Z", 36_238)],
        in_progress: vec![InProgressStatus {
            name: "base_backup_20261122_120000".into(),
            host: Some("db2".into()),
            pid: Some(4711),
            started_at: Some(at("2026-11-22T12:00:00Z")),
        }],
        wal: vec![WalStatus {
            system_identifier: SYSTEM.into(),
            timeline: 1,
            first_segment: "000000010000000000000001".into(),
            last_segment: "000000010000000000000042".into(),
            segments: 66,
            stored_bytes: 210_000_000,
            last_stored_at: at("2026-11-22T12:03:40Z"),
        }],
        wal_lag_segments: Some(2),
        wal_lag_seconds: Some(50),
        wal_at_risk_bytes: None,
        wal_at_risk_seconds: None,
    }
}

fn report() -> Report {
    let end = |ended_at, exit_code, message: Option<&str>| RunEndStatus {
        started_at: at("2026-11-22T02:00:00Z"),
        ended_at: at(ended_at),
        exit_code,
        message: message.map(str::to_owned),
    };
    let event = |file_name: &str, time| Some(EventStatus { file_name: file_name.into(), at: at(time) });
    Report {
        at: at("2026-11-22T12:05:00Z"),
        state: State::Warning,
        findings: vec![
            Finding {
                code: "repository-unreadable",
                severity: Severity::Warning,
                repository: Some("remote".into()),
                message: "could not connect to vault port 22 | connection refused\u{1b}[2J".into(),
                hint: Some(
                    "Is it switched on? See what `ssh rcadmin@vault.example.org true` says on this machine."
                        .into(),
                ),
            },
            Finding {
                code: "full-page-writes-off",
                severity: Severity::Info,
                repository: None,
                message: "full_page_writes is off".into(),
                hint: None,
            },
        ],
        repositories: vec![local(), unreadable()],
        server: ServerStatus {
            error: None,
            system_identifier: Some(SYSTEM.into()),
            timeline: Some(1),
            wal_lsn: Some("0/45000060".into()),
            version: Some(150_018),
            is_standby: Some(false),
            wal_senders_max: Some(10),
            wal_senders_used: Some(2),
            archiving: Some(ArchivingStatus {
                mode: "on".into(),
                command: Some("pgbak wal-push %p".into()),
                library: None,
                wal_level: "replica".into(),
                archived_count: 66,
                last_archived: event("000000010000000000000042", "2026-11-22T12:03:40Z"),
                failed_count: 1,
                last_failed: event("000000010000000000000007", "2026-11-21T12:00:00Z"),
            }),
            slots: vec![SlotStatus {
                name: "replica".into(),
                is_active: true,
                wal_status: Some("reserved".into()),
                retained_bytes: Some(33_554_432),
            }],
        },
        runs: vec![RunStatus {
            command: "base-backup".into(),
            at_work: vec![RunningStatus { pid: 4711, started_at: at("2026-11-22T12:00:00Z") }],
            last_done: Some(end("2026-11-22T02:01:03Z", 0, None)),
            last_failed: Some(end("2026-11-20T02:01:03Z", 1, Some("no room"))),
            killed_started_at: None,
        }],
        thresholds: ThresholdStatus { backup_age_max_seconds: 93_600, wal_lag_max_seconds: 300 },
    }
}

fn well() -> Report {
    Report { state: State::Ok, findings: vec![], repositories: vec![local()], ..report() }
}

fn zone() -> FixedOffset {
    FixedOffset::east_opt(3600).unwrap()
}

#[test]
fn the_text_gives_the_answer_first_and_is_readable_in_80_columns() {
    let text = show(&text::render(&report(), &zone()), Ink::Plain);
    assert_eq!(
        text,
        "\
WARNING: 1 warning, 1 info

Can be restored
  repository  timeline  from                       until
  local       1         2026-10-12 03:01:02+01:00  2026-11-22 13:03:40+01:00
  remote                could not be read

Findings
  warning: repository-unreadable, repository remote
    could not connect to vault port 22 | connection refused\u{fffd}[2J
    hint: Is it switched on? See what `ssh rcadmin@vault.example.org true` says
    on this machine.
  info: full-page-writes-off
    full_page_writes is off

Repository local: /var/lib/postgresql/backups
  cluster 7439122314155001234
  backup                       kind  age    size  stored  ratio  proven
  base_backup_20261012_020000  full  41d  12.3GB   988MB   12.5  full, 3d ago
    \"before the upgrade\"
  base_backup_20261122_020000  full  10h  12.3GB   988MB   12.5  never
  WAL on timeline 1: 000000010000000000000001 to 000000010000000000000042
    66 segments, 210 MB, the last stored 2026-11-22 13:03:40+01:00 (1m ago)
  restorable on timeline 1: 0/2000138 to 0/43000000
  2 segments behind, the oldest finished 50s ago
  in progress: base_backup_20261122_120000 by process 4711 on db2, since
  2026-11-22 13:00:00+01:00

Repository remote: ssh://vault/pg
  could not be read

Server
  PostgreSQL 15.18, cluster 7439122314155001234, timeline 1, at 0/45000060
  archive_mode on, last archived 000000010000000000000042 1m ago
  last failed to archive 000000010000000000000007 24h ago
  slot replica: active, holds back 33.6 MB

Runs on this machine
  command      last good  last failed  now
  base-backup  10h ago    2d ago       process 4711 since 5m
"
    );
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn a_site_of_which_nothing_is_known_is_shown_too() {
    let server = ServerStatus { error: Some("refused".into()), ..ServerStatus::default() };
    let repositories = vec![unreadable()];
    let blank =
        Report { state: State::Unknown, findings: vec![], repositories, server, runs: vec![], ..report() };
    assert_eq!(
        show(&text::render(&blank, &zone()), Ink::Plain),
        "UNKNOWN: nothing could be looked at\n\nNothing can be restored\n\nRepository remote: ssh://vault/pg\n  \
         could not be read\n\nServer\n  could not be asked\n"
    );
}

#[test]
fn colour_is_only_added() {
    let page = text::render(&report(), &zone());
    let coloured = show(&page, Ink::Coloured);
    assert!(coloured.starts_with("\u{1b}[33mWARNING\u{1b}[0m: 1 warning"), "{coloured:?}");
    assert!(!coloured.contains("[2J\u{1b}") && coloured.contains("refused\u{fffd}[2J"));
    let mut plain = coloured;
    for code in ["0", "1", "31", "32", "33"] {
        plain = plain.replace(&format!("\u{1b}[{code}m"), "");
    }
    assert_eq!(plain, show(&page, Ink::Plain));
}

#[test]
fn the_field_names_of_the_json_are_as_documented() {
    let text = serde_json::to_string_pretty(&report()).unwrap();
    assert_eq!(text, include_str!("report.json").trim_end());
}

#[test]
fn what_would_be_lost_of_streamed_wal_is_said_everywhere() {
    let at_risk = |bytes, seconds| {
        let mut report = well();
        let [local, ..] = &mut report.repositories[..] else { panic!("there is a repository") };
        (local.wal_at_risk_bytes, local.wal_at_risk_seconds) = (Some(bytes), seconds);
        report
    };
    let says = |report: &Report, words: &str| {
        let page = show(&text::render(report, &zone()), Ink::Plain);
        assert!(page.contains(words), "{page}");
    };
    says(&at_risk(0, Some(0)), "has all of the server's WAL: nothing would be lost if it vanished now");
    says(
        &at_risk(18_000, Some(12)),
        "if the server vanished now, at most the last 12s would be lost (18.0 kB of WAL)",
    );
    says(&at_risk(18_000, None), "if the server vanished now, 18.0 kB of WAL would be lost");
    assert!(nagios::render(&at_risk(18_000, Some(12)), &zone()).contains("'local_wal_at_risk'=12s;;300;0"));
    let page = parse_page(&prometheus::render(&at_risk(18_000, Some(12))));
    assert_eq!(page["pgbak_wal_at_risk_seconds{repository=\"local\"}"], 12.0);
    assert_eq!(page["pgbak_wal_at_risk_bytes{repository=\"local\"}"], 18_000.0);
}

#[test]
fn a_plugin_says_one_line_with_its_performance_data() {
    assert_eq!(
        nagios::render(&well(), &zone()),
        "PGBAK OK - restorable from 2026-10-12 03:01:02+01:00 until 2026-11-22 13:03:40+01:00 | \
         'local_backup_age'=36238s;93600;;0 'local_backup_stored'=987654321B;;;0 'local_wal_lag'=50s;;300;0 \
         'local_wal_lag_segments'=2;;;0\n"
    );
    let bad = nagios::render(&report(), &zone());
    let (line, perfdata) = bad.split_once(" | ").unwrap();
    assert_eq!(
        line,
        "PGBAK WARNING - repository-unreadable (remote): could not connect to vault port 22 / connection \
         refused\u{fffd}[2J; 1 more finding"
    );
    assert!(!perfdata.contains('|') && !perfdata.contains("remote"), "{perfdata}");
    assert_eq!(unknown("a|b\nc"), "PGBAK UNKNOWN - a/b c\n");
    let codes = [State::Ok, State::Warning, State::Critical, State::Unknown]
        .map(|state| nagios::exit_of(state).code());
    assert_eq!(codes, [0, 1, 2, 3]);
}

/// The samples of a page by name and labels; refuses what Prometheus would.
fn parse_page(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut helped, mut current) = (Vec::new(), "");
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!helped.contains(&name) && help.ends_with('.'), "{line}");
            helped.push(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            current = rest.strip_suffix(" gauge").unwrap();
            assert_eq!(helped.last(), Some(&current));
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let name = key.split('{').next().unwrap();
            assert_eq!(name, current, "samples follow their type");
            assert!(name.starts_with("pgbak_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            if let Some(labels) = key.strip_prefix(name).filter(|labels| !labels.is_empty()) {
                parse_labels(labels.strip_prefix('{').unwrap().strip_suffix('}').unwrap());
            }
            assert!(samples.insert(key.to_owned(), value.parse().unwrap()).is_none(), "twice: {key}");
        }
    }
    samples
}

fn parse_labels(mut text: &str) {
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        let mut bytes = rest.bytes().enumerate();
        let end = loop {
            match bytes.next().unwrap() {
                (_, b'\\') => assert!(matches!(bytes.next(), Some((_, b'\\' | b'"' | b'n')))),
                (at, b'"') => break at,
                _ => {}
            }
        };
        text = &rest[end + 1..];
        text = text.strip_prefix(',').unwrap_or(text);
    }
}

#[test]
fn prometheus_can_read_its_page() {
    let mut odd = report();
    odd.server.slots[0].name = "a\"b\\c\nd".into();
    let samples = parse_page(&prometheus::render(&odd));
    for (sample, value) in [
        ("pgbak_status_state", 1.0),
        ("pgbak_status_timestamp_seconds", 1_795_349_100.0),
        ("pgbak_finding{code=\"repository-unreadable\",repository=\"remote\",severity=\"warning\"}", 1.0),
        ("pgbak_finding{code=\"full-page-writes-off\",repository=\"\",severity=\"info\"}", 1.0),
        ("pgbak_repository_up{repository=\"remote\"}", 0.0),
        ("pgbak_backups{repository=\"local\"}", 2.0),
        ("pgbak_newest_backup_age_seconds{repository=\"local\"}", 36_238.0),
        ("pgbak_newest_backup_timestamp_seconds{repository=\"local\"}", 1_795_312_862.5),
        ("pgbak_wal_lag_seconds{repository=\"local\"}", 50.0),
        ("pgbak_slot_retained_bytes{slot=\"a\\\"b\\\\c\\nd\"}", 33_554_432.0),
        ("pgbak_last_success_timestamp_seconds{command=\"base-backup\"}", 1_795_312_863.0),
        (
            "pgbak_recoverable_to_timestamp_seconds{repository=\"local\",system_identifier=\"7439122314155001234\",\
             timeline=\"1\",backup=\"base_backup_20261012_020000\"}",
            1_795_349_020.0,
        ),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample} in {samples:#?}");
    }
    assert!(!samples.keys().any(|key| key.starts_with("pgbak_backups{") && key.contains("remote")));
}
