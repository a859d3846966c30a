//! Clocks that jump, days that are rare, and hours that come twice: with real processes and a clock that lies to them.

use std::fs;

use crate::site;
use crate::support::{Call, Outcome, Site};

/// Central Europe: the name of the zone, and the same rules in words, for machines without a database of zones.
const ZONES: &[&str] = &["Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"];

fn in_zone<'a>(site: &'a Site, zone: &str, arguments: &str) -> Call<'a> {
    site.call(arguments).env("TZ", zone)
}

fn zones() -> impl Iterator<Item = &'static str> {
    let is_known =
        |zone: &&&str| zone.contains(',') || fs::exists(format!("/usr/share/zoneinfo/{zone}")).unwrap();
    ZONES.iter().filter(is_known).copied()
}

#[test]
fn a_target_in_the_hour_that_comes_twice_is_asked_back_and_one_that_never_was_is_refused() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    for zone in zones() {
        let restore = |time: &str| {
            let directory = site.fresh("restored");
            let outcome =
                in_zone(&site, zone, &format!("restore -D {} --target-time '{time}'", directory.display()))
                    .run();
            assert!(!directory.exists(), "{outcome}");
            outcome
        };
        for time in ["2026-10-25 02:00", "2026-10-25 02:30", "2026-10-25 02:59:59.999999", "2025-10-26 02:00"]
        {
            restore(time).exits(2).refuses(&["twice", "+02:00", "+01:00"], &["offset", "+02:00", "+01:00"]);
        }
        for time in ["2026-03-29 02:00", "2026-03-29 02:30", "2026-03-29 02:59:59"] {
            restore(time).exits(2).refuses(&["never on the clock"], &["offset"]);
        }
        // On either side of these hours, and in them with an offset, it is a time like any other: before every backup.
        for (time, instant) in [
            ("2025-10-26 01:59:59", "2025-10-26 01:59:59+02:00"),
            ("2025-10-26 03:00", "2025-10-26 03:00:00+01:00"),
            ("2025-10-26 02:30+02:00", "2025-10-26 02:30:00+02:00"),
            ("2025-10-26 02:30+01:00", "2025-10-26 02:30:00+01:00"),
            ("2025-03-30 03:00", "2025-03-30 03:00:00+02:00"),
            ("2024-02-29 12:00", "2024-02-29 12:00:00+01:00"),
        ] {
            let outcome = restore(time).exits(1);
            assert!(!outcome.stderr.contains("twice"), "{outcome}");
            // However it is told, it is this instant.
            let told = [instant.to_owned(), in_utc(instant)];
            assert!(told.iter().any(|told| outcome.stderr.contains(told)), "neither of {told:?}\n{outcome}");
        }
        restore("2025-02-29 12:00").exits(2).refuses(&["2025-02-29"], &["2026-11-22"]);
    }
}

fn in_utc(instant: &str) -> String {
    let instant = chrono::DateTime::parse_from_str(instant, "%Y-%m-%d %H:%M:%S%:z").unwrap();
    instant.to_utc().format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A run whose clock starts at `start` (`2026-11-22 02:00:00`, in UTC), or is moved by it (`+3d`).
fn at(site: &Site, start: &str, arguments: &str) -> Option<Outcome> {
    let moved = if start.starts_with(['+', '-']) { start.to_owned() } else { format!("@{start}") };
    let call = site.call_under(&["faketime", "-f", &moved], arguments)?;
    // Only the calendar lies: what waits, waits as long as it should.
    Some(call.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").run())
}

#[test]
fn backups_of_one_second_and_of_a_clock_that_was_set_back_are_kept_apart_and_in_order() {
    let site = site!(initdb("--wal-segsize=1"));
    let mut expected = Vec::new();
    for (round, start) in [
        "2028-02-29 23:59:58",
        // The same second again, as another run of the same second would see it.
        "2028-02-29 23:59:58",
        "2028-03-01 00:00:05",
        // The clock was set back by a day.
        "2028-02-29 00:00:00",
    ]
    .into_iter()
    .enumerate()
    {
        site.cluster().sql(&format!("CREATE TABLE t{round} AS SELECT 1"));
        let Some(outcome) = at(&site, start, "base-backup --json") else { return };
        match outcome.code {
            // Refused before anything was written, with the name that is taken.
            1 => drop(outcome.stderr_has("base_backup_20280229_235958")),
            _ => expected.push(outcome.succeeds().json()["name"].as_str().unwrap().to_owned()),
        }
        let found = site.repository().backups();
        let mut sorted = expected.clone();
        sorted.sort();
        assert_eq!(found, sorted, "each under its own name");
    }
    assert!(expected.len() >= 3, "{expected:?}");
    assert!(expected.iter().any(|name| name.starts_with("base_backup_20280229_23")), "{expected:?}");
    site.pgbak("verify --full").succeeds();
    // Whichever counts as the newest, with the WAL it brings back everything.
    site.wait_until_archived();
    let restored = site.restore("");
    assert_eq!(restored.sql("SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]$'"), "4");
}

#[test]
fn a_clock_that_jumps_between_commands_loses_nothing() {
    let site = site!(initdb("--wal-segsize=1"), repositories(2));
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    site.pgbak("wal-sync").succeeds();
    site.pgbak("prune --keep-last 1").succeeds();
    let files = || site.repositories().iter().map(|repository| repository.files()).collect::<Vec<_>>();
    let before = files();
    for jump in ["-400d", "-2d", "-3h", "+3h", "+2d", "+400d", "+3000d"] {
        for command in [
            "verify",
            "verify --full --again-after 0s",
            "wal-sync",
            "status --format json",
            "prune --keep-last 1",
        ] {
            let Some(outcome) = at(&site, jump, command) else { return };
            let is_far = jump.ends_with("0d") || jump.ends_with("2d");
            let expected: &[i32] = match command {
                // By more than a day it does not believe the clock.
                "prune --keep-last 1" if is_far => &[1],
                "status --format json" => &[0, 3],
                _ => &[0],
            };
            assert!(expected.contains(&outcome.code), "{jump}\n{outcome}");
            assert!(
                !outcome.stderr.contains("panicked") && !outcome.stderr.contains("internal error"),
                "{outcome}"
            );
            assert_eq!(files(), before, "{jump}\n{outcome}");
        }
        let restored = site.fresh("restored");
        let Some(outcome) = at(&site, jump, &format!("restore -D {}", restored.display())) else { return };
        outcome.succeeds();
        fs::remove_dir_all(restored).unwrap();
    }
    // And back at the right time all is as it was.
    site.pgbak("verify --quick").succeeds();
    site.pgbak("base-backup").succeeds();
    site.pgbak("prune --keep-last 1").succeeds();
    assert_eq!(site.repository().backups().len(), 1);
}
