//! What an SSH server may refuse, and what pgbak says then. The local copy is taken all the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::pair;
use crate::support::{KeyType, Outcome, Pair, SmallDisk, Workload, process};

/// Error and hint of the remote repository.
fn complaint(outcome: &Outcome) -> (String, String) {
    let remote = &outcome.json()["repositories"][1];
    assert_eq!(remote["repository"], "remote", "{outcome}");
    let text =
        |field: &str| remote[field].as_str().unwrap_or_else(|| panic!("no {field}\n{outcome}")).to_owned();
    (text("error"), text("hint"))
}

/// Takes a backup that the remote refuses; returns what it says.
fn refused_backup(pair: &Pair) -> (String, String) {
    let outcome = pair.site.pgbak("base-backup --json").exits(3);
    pair.assert_report_is_true(&outcome);
    complaint(&outcome)
}

/// Runs the command between backquotes in a hint that begins with `program`, as the one who reads it would.
fn run_hint(pair: &Pair, hint: &str, program: &str) {
    let command = hint.split('`').find(|part| part.starts_with(program));
    let command = command.unwrap_or_else(|| panic!("no `{program}` in \"{hint}\""));
    let mut shell = pair.site.identity().command("sh", "KILL");
    process::run(shell.args(["-c", command]).current_dir("/").env("HOME", pair.site.path("home")));
}

#[test]
fn a_changed_host_key_is_refused_until_the_hints_were_followed() {
    let mut pair = pair!(Chrooted);
    let workload = Workload::start(pair.site.cluster());
    workload.wait_for_more(50);
    pair.sshd.stop();
    pair.sshd.change_host_keys();
    pair.sshd.start_again();
    let port = pair.proxy.port();

    let (error, hint) = refused_backup(&pair);
    assert!(error.contains("host key") && error.contains("127.0.0.1"), "{error}");
    assert!(hint.contains("ssh-keygen -R") && hint.contains(&format!("[127.0.0.1]:{port}")), "{hint}");
    let segment = pair.archive_a_segment();
    pair.site.pgbak("wal-sync").exits(3).stdout_has("ssh-keygen -R");
    assert!(!pair.remote().holds(&segment));
    run_hint(&pair, &hint, "ssh-keygen -R");

    let (error, hint) = refused_backup(&pair);
    assert!(error.contains("host key"), "{error}");
    assert!(hint.contains("ssh-keyscan") && hint.contains(&port.to_string()), "{hint}");
    run_hint(&pair, &hint, "ssh-keyscan");
    assert_eq!(pair.remote().files(), [] as [&Path; 0], "no byte went to a stranger");

    let account = workload.finish(pair.site.cluster());
    pair.archive_a_segment();
    pair.repair();
    pair.assert_both_restore(&account);
}

#[test]
fn a_key_that_is_refused_costs_the_remote_copy_and_names_the_key() {
    let mut pair = pair!(Shell);
    let workload = Workload::start(pair.site.cluster());
    workload.wait_for_more(50);
    pair.sshd.refuse_keys();
    let (error, hint) = refused_backup(&pair);
    let said = format!("{error} {hint}");
    assert!(said.contains(&pair.sshd.key().display().to_string()), "{said}");
    assert!(said.contains("ssh-copy-id"), "{said}");
    pair.site.pgbak("wal-sync").exits(3).stdout_has("remote");
    let account = workload.finish(pair.site.cluster());
    pair.archive_a_segment();

    // Another key, of another kind and locked.
    let key = pair.sshd.new_key(KeyType::Rsa, "open sesame");
    pair.sshd.authorize(&key);
    pair.site.change_config(pair.sshd.key().to_str().unwrap(), key.to_str().unwrap());
    let copy = || pair.site.call("base-backup --copy-missing");
    copy().run().exits(3).stdout_has("PGBAK_SSH_PASSPHRASE");
    copy().env("PGBAK_SSH_PASSPHRASE", "open sesame").run().succeeds();
    pair.site.change_config(key.to_str().unwrap(), pair.sshd.key().to_str().unwrap());
    pair.sshd.authorize(&pair.sshd.key());
    pair.repair();
    pair.assert_both_restore(&account);
}

#[test]
fn a_remote_directory_that_is_read_only_or_missing_is_told_apart() {
    let mut pair = pair!(Chrooted);
    let workload = Workload::start(pair.site.cluster());
    workload.wait_for_more(50);
    let directory = pair.remote().path.clone();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o500)).unwrap();
    let (error, _) = refused_backup(&pair);
    assert!(error.to_lowercase().contains("permission denied"), "{error}");
    pair.site.pgbak("wal-sync").exits(3).stdout_has("remote");
    assert_eq!(pair.remote().files(), [] as [&Path; 0]);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();

    let mount_point = pair.sshd.local_path();
    let away = mount_point.with_extension("unmounted");
    fs::rename(&mount_point, &away).unwrap();
    let (_, hint) = refused_backup(&pair);
    assert!(hint.contains("missing"), "{hint}");
    pair.site.pgbak("wal-sync").exits(3).stdout_has("remote");
    assert!(!mount_point.exists(), "a disk that is not mounted is not made up for");
    fs::rename(&away, &mount_point).unwrap();

    let account = workload.finish(pair.site.cluster());
    pair.archive_a_segment();
    assert_eq!(pair.local().backups().len(), 2);
    pair.repair();
    pair.assert_both_restore(&account);
}

#[test]
fn a_remote_disk_that_is_full_is_told_and_filled_up_again() {
    let mut pair = pair!(Shell);
    let Some(disk) = SmallDisk::mount(&pair.remote().path, "64M", pair.site.identity()) else { return };
    let workload = Workload::start(pair.site.cluster());
    workload.wait_for_more(50);
    for free_bytes in [1 << 20, 0] {
        disk.fill_up_to(free_bytes);
        let (error, hint) = refused_backup(&pair);
        let said = format!("{error} {hint}").to_lowercase();
        assert!(said.contains("space"), "{said}");
        disk.remove_ballast();
    }
    let account = workload.finish(pair.site.cluster());
    disk.fill_up_to(100_000);
    for _ in 0..3 {
        pair.archive_a_segment();
    }
    pair.site.pgbak("wal-sync").exits(3).stdout_has("remote");
    pair.assert_nothing_is_half();
    disk.remove_ballast();
    pair.repair();
    pair.assert_both_restore(&account);
    pair.remote().prove_all(&pair.site.make_directory("proof-of-the-small-disk"));
    // The disk goes before the site does.
    pair.remote().forget();
}

#[test]
fn clocks_that_are_hours_apart_change_nothing() {
    let mut pair = pair!(Shell);
    let touch = |pair: &Pair, when: &str| {
        let mut find = pair.site.identity().command("find", "KILL");
        find.arg(&pair.remote().path).args(["-exec", "touch", "--no-dereference", "--date", when, "{}", "+"]);
        process::run(find.current_dir("/"));
    };
    let workload = Workload::start(pair.site.cluster());
    workload.wait_for_more(50);
    for when in ["5 hours ago", "5 hours", "2 days ago", "2 days"] {
        let running =
            pair.stop_in_the_middle("base-backup --json", 500_000).expect("it uploads more than that");
        touch(&pair, when);
        // Another run, which may clean up behind the dead, but not behind the living.
        let elsewhere = pair.site.fresh("state");
        let other = pair.site.call("base-backup --repository first");
        other.env("PGBAK_STATE_DIRECTORY", elsewhere.to_str().unwrap()).run().succeeds();
        pair.proxy.heal();
        let outcome = running.finish().exits(0);
        pair.assert_report_is_true(&outcome);
        pair.archive_a_segment();
        touch(&pair, when);
        pair.site.pgbak("wal-sync").succeeds();
        pair.assert_both_have_the_wal();
    }
    let account = workload.finish(pair.site.cluster());
    pair.archive_a_segment();
    pair.repair();
    pair.assert_both_restore(&account);
}
