//! What can be wrong around pgbak: each is one line that names the thing, a hint with the remedy, and the right
//! exit code; and nothing is lost or half-published.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::site;
use crate::support::{Site, wait_until};

/// Nothing was stored, and nothing half-stored.
fn assert_untouched(site: &Site) {
    assert_eq!(site.repository().directories_of_backups(), [] as [&str; 0]);
    let rest = "SELECT count(*) FROM pg_replication_slots";
    wait_until("the server to be rid of the run", || site.cluster().sql(rest) == "0");
}

/// The configuration with another connection string.
fn connect_as(site: &Site, connection: &str) {
    site.change_config(&site.cluster().connection("postgres"), connection);
}

#[test]
fn a_wrong_password() {
    let site = site!();
    site.cluster().sql("CREATE ROLE keeper LOGIN REPLICATION PASSWORD 'right'");
    site.write("data/pg_hba.conf", "local all postgres trust\nlocal all,replication keeper scram-sha-256\n");
    site.cluster().sql("SELECT pg_reload_conf()");
    let keeper = site.cluster().connection("keeper");
    connect_as(&site, &keeper);
    let refused = || site.call("base-backup").env("PGPASSWORD", "wrong").run().exits(1);
    wait_until("the server to read pg_hba.conf", || refused().stderr.contains("password"));
    let outcome = refused().refuses(&["keeper", "password authentication failed"], &["password"]);
    assert!(!outcome.stderr.contains("wrong"), "a password is not for the log\n{outcome}");
    site.pgbak("base-backup").exits(1).refuses(&["keeper", "password"], &["PGPASSWORD"]);
    assert_untouched(&site);
}

#[test]
fn an_unreachable_server() {
    let mut site = site!();
    let port = site.cluster().port();
    site.cluster_mut().stop();
    site.pgbak("base-backup").exits(1).refuses(&["could not connect", &port.to_string()], &["running"]);
    connect_as(&site, &format!("host=127.0.0.1 port={port} user=postgres"));
    site.pgbak("base-backup").exits(1).refuses(&["127.0.0.1", "connection refused"], &["running"]);
    site.change_config("127.0.0.1", "no-such-host.invalid");
    site.pgbak("base-backup").exits(1).refuses(&["no-such-host.invalid"], &[]);
    site.cluster_mut().start();
    assert_untouched(&site);
}

#[test]
fn a_role_without_replication() {
    let site = site!();
    site.cluster().sql("CREATE ROLE visitor LOGIN");
    connect_as(&site, &site.cluster().connection("visitor"));
    site.pgbak("base-backup").exits(1).refuses(&["replication role"], &["ALTER ROLE visitor REPLICATION"]);
    assert_untouched(&site);
}

#[test]
fn a_role_that_pg_hba_does_not_let_in() {
    let site = site!();
    site.cluster().sql("CREATE ROLE keeper LOGIN REPLICATION");
    site.write("data/pg_hba.conf", "local all postgres trust\nlocal all keeper trust\n");
    site.cluster().sql("SELECT pg_reload_conf()");
    connect_as(&site, &site.cluster().connection("keeper"));
    let refused = || site.pgbak("base-backup");
    wait_until("the server to read pg_hba.conf", || refused().stderr.contains("pg_hba.conf"));
    refused().exits(1).refuses(&["pg_hba.conf", "keeper"], &["replication"]);
}

#[test]
fn wal_level_minimal() {
    let site = site!(without_archiving(), settings("wal_level = minimal\nmax_wal_senders = 0"));
    site.pgbak("base-backup").exits(1).refuses(&["max_wal_senders"], &["wal_level = 'replica'", "restart"]);
    assert_untouched(&site);
}

#[test]
fn no_free_walsender() {
    let site = site!(settings("max_wal_senders = 1"));
    site.pgbak("base-backup").exits(1).refuses(&["max_wal_senders"], &["max_wal_senders"]);
    assert_untouched(&site);
}

#[test]
fn a_full_disk_during_a_backup() {
    let site = site!();
    let Some(disk) = site.small_disk("64M") else { return };
    site.cluster().sql("CREATE TABLE t AS SELECT gen_random_uuid() AS id FROM generate_series(1, 100000)");
    let own = site.repository().path.clone();
    site.change_config(&own.display().to_string(), &disk.path.join("repository").display().to_string());
    disk.fill_up_to(4 << 20);
    site.pgbak("base-backup").exits(1).refuses(&["no space left on device"], &["Free space"]);
    let stored = || fs::read_dir(disk.path.join("repository/base-backups")).into_iter().flatten().count();
    assert_eq!(stored(), 0, "nothing was left of it");

    disk.remove_ballast();
    site.pgbak("base-backup").succeeds();
    assert_eq!(stored(), 1);
}

#[test]
fn a_full_disk_while_archiving() {
    let site = site!(without_archiving());
    let Some(disk) = site.small_disk("8M") else { return };
    let own = site.repository().path.clone();
    let repository = disk.path.join("repository");
    site.change_config(&own.display().to_string(), &repository.display().to_string());
    site.cluster().sql("CREATE TABLE t AS SELECT gen_random_uuid() AS id FROM generate_series(1, 100000)");
    let segment = site.cluster().data.join("pg_wal").join(site.cluster().switch_wal());
    disk.fill_up_to(256 << 10);
    let push = || site.pgbak(&format!("wal-push {}", segment.display()));
    push().exits(1).refuses(&["no space left on device"], &["Free space"]);
    let files = || walkdir::WalkDir::new(repository.join("wal-archive")).into_iter().flatten();
    assert_eq!(files().filter(|entry| entry.file_type().is_file()).count(), 0, "nothing half-published");

    disk.remove_ballast();
    push().succeeds();
    assert_eq!(files().filter(|entry| entry.file_type().is_file()).count(), 1);
}

#[test]
fn a_repository_that_is_not_writable() {
    let site = site!();
    let path = site.repository().path.clone();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
    let place = path.display().to_string();
    site.pgbak("base-backup").exits(1).refuses(&["ermission denied"], &[&place, "writable"]);
    let segment = site.cluster().data.join("pg_wal").join(site.cluster().switch_wal());
    let push = format!("wal-push {}", segment.display());
    site.pgbak(&push).exits(1).refuses(&["ermission denied"], &[&place, "writable"]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    assert_untouched(&site);
    site.pgbak(&push).succeeds();
}

#[test]
fn a_repository_whose_disk_is_not_mounted() {
    let site = site!();
    let path = site.repository().path.clone();
    site.change_config(&path.display().to_string(), &site.path("not/mounted").display().to_string());
    site.pgbak("base-backup").exits(1).refuses(&["not/mounted"], &[]);
    assert!(!site.path("not").exists(), "nothing is made up");
}

#[test]
fn an_unknown_key_in_the_configuration() {
    let site = site!();
    let line = site.config().lines().count() + 3;
    site.add_to_config("\n[backup]\ncompresion = \"zstd\"\n");
    for command in ["base-backup", "status", "restore -D /nowhere", "wal-push x"] {
        site.pgbak(command)
            .exits(2)
            .refuses(&["pgbak.toml", &format!("line {line}"), "compresion"], &["compression"]);
    }
}

#[test]
fn wrong_usage_and_missing_configuration() {
    let site = site!();
    site.pgbak("base-backup --repository third").exits(2).refuses(&["third"], &["first"]);
    site.pgbak("base-backup --compression brotli").exits(2).stderr_has("brotli");
    site.pgbak("restore -D x --target-time yesterday").exits(2).refuses(&["yesterday"], &["2026-11-22"]);
    site.pgbak("restore -D x --target-lsn 0/1 --target-xid 5").exits(2).stderr_has("--target-xid");
    site.pgbak("back-up").exits(2).stderr_has("back-up");
    let missing = site.path("missing.toml").display().to_string();
    site.call("base-backup")
        .env("PGBAK_CONFIG", &missing)
        .run()
        .exits(2)
        .refuses(&[&missing], &["PGBAK_CONFIG"]);
    let unreadable = site.write("unreadable.toml", "");
    fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o000)).unwrap();
    let unreadable = unreadable.display().to_string();
    site.call("base-backup")
        .env("PGBAK_CONFIG", &unreadable)
        .run()
        .exits(2)
        .refuses(&[&unreadable], &["may read"]);
}

#[test]
fn a_repository_of_another_cluster() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let other = site!(of_another_system(), without_archiving());
    let (own, foreign) = (site.cluster().system_identifier(), other.cluster().system_identifier());
    // The other cluster's WAL, by way of this site's configuration.
    let segment = other.cluster().data.join("pg_wal").join(other.cluster().switch_wal());
    site.pgbak(&format!("wal-push {}", segment.display()))
        .exits(1)
        .refuses(&[&own, &foreign], &["of its own"]);
    assert!(!site.repository().path.join("wal-archive").join(foreign).exists());
}
