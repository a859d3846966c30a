//! The set-up of the container, without a configuration file: PostgreSQL copies its WAL into a directory that pgbak
//! collects from, and environment variables say the rest.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::site;
use crate::support::{Call, Identity, Repository, Site, SshAccount, Sshd, Workload, wait_until};
use pgbak::pg::SegmentSize;

/// pgbak as the container calls it.
fn call<'a>(site: &'a Site, variables: &[(String, String)], arguments: &str) -> Call<'a> {
    let call = site.call(arguments).without_env("PGBAK_CONFIG");
    variables.iter().fold(call, |call, (name, value)| call.env(name, value))
}

fn segments_in(directory: &Path) -> Vec<String> {
    let names =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.len() == 24).collect();
    names.sort();
    names
}

#[test]
fn variables_alone_bring_backups_and_wal_to_both_places_and_back() {
    if Path::new("/etc/pgbak/pgbak.toml").exists() {
        crate::support::skip("this machine has a configuration of its own");
        return;
    }
    let [_, _, low, high] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 22, low, high.max(1));
    let identity = Identity::ordinary();
    let server = Sshd::with(&identity, SshAccount::Shell).on_port_22_of(address);
    let Some(sshd) = server.start() else { return };
    let mut site = site!(initdb("--wal-segsize=1"), without_archiving());
    let archive = site.make_directory("archive");
    let command = format!("test ! -f {0}/%f && cp %p {0}/%f", archive.display());
    let settings = fs::read_to_string(site.path("data/postgresql.conf")).unwrap();
    site.write(
        "data/postgresql.conf",
        settings + &format!("archive_mode = on\narchive_command = '{command}'\n"),
    );
    site.cluster_mut().stop();
    site.cluster_mut().start();
    site.make_directory("home/.ssh");
    site.write("home/.ssh/known_hosts", fs::read(sshd.known_hosts()).unwrap());
    let remote = sshd.make_repository("backups");
    let local = Repository::new("local", &site.make_directory("local"), &identity);
    let set = |name: &str, value: &dyn std::fmt::Display| (name.to_owned(), value.to_string());
    let variables = [
        set("POSTGRES_HOST", &site.cluster().sockets().display()),
        set("PGPORT", &site.cluster().port()),
        set("POSTGRES_USER", &"postgres"),
        set("POSTGRES_DB", &"postgres"),
        set("POSTGRES_PASSWORD", &"unused"),
        set("BACKUP_RETENTION_DAYS", &10),
        set("BACKUP_SCHEDULE", &"0 2 * * *"),
        set("WAL_SYNC_INTERVAL", &60),
        set("LOCAL_BACKUP_PATH", &local.path.display()),
        set("WAL_ARCHIVE_PATH", &archive.display()),
        set("REMOTE_BACKUP_HOST", &address),
        set("REMOTE_BACKUP_USER", &sshd.user()),
        set("REMOTE_BACKUP_PATH", &sshd.root_path().join("backups").display()),
        set("REMOTE_SSH_KEY_PATH", &sshd.key().display()),
    ];

    let workload = Workload::start(site.cluster());
    workload.wait_for_more(50);
    call(&site, &variables, "base-backup").run().succeeds();
    workload.wait_for_more(200);
    let account = workload.finish(site.cluster());
    let last = site.cluster().switch_wal();
    wait_until("the WAL to be copied", || archive.join(&last).exists());
    call(&site, &variables, "wal-sync").run().succeeds();
    let first = local.first_segment(&local.the_backup(), SegmentSize::from_bytes(1 << 20).unwrap());
    for repository in [&local, &remote] {
        assert_eq!(repository.backups().len(), 1, "{}", repository.name);
        let mut since = segments_in(&archive).into_iter().filter(|segment| *segment >= first);
        assert!(since.all(|segment| repository.holds(&segment)), "{}", repository.name);
        assert_eq!(repository.wal_content(&last), fs::read(archive.join(&last)).unwrap());
    }

    half_a_file_waits(&site, &variables, &archive, [&local, &remote]);

    for name in ["local", "remote"] {
        let directory = site.fresh("restored");
        let arguments = format!("restore -D {} --repository {name}", directory.display());
        call(&site, &variables, &arguments).run().succeeds();
        let mut restored = site.restored_in(&directory);
        variables.iter().for_each(|(name, value)| restored.env(name, value));
        restored.env("HOME", site.path("home").to_str().unwrap());
        restored.launch();
        restored.wait_until_recovered();
        account.assert_holds_exactly(&restored, &account.history.commits);
    }
    call(&site, &variables, "status").run().stdout_has("remote");
    let proof = site.make_directory("proof-of-the-container");
    [&local, &remote].iter().for_each(|repository| repository.prove_all(&proof));
    sshd.refuse_keys();
    let outcome = call(&site, &variables, "base-backup").run().exits(3);
    assert!(outcome.stderr.contains("remote") || outcome.stdout.contains("remote"), "{outcome}");
    assert_eq!((local.backups().len(), remote.backups().len()), (2, 1));
}

/// A file that `cp` is still at work on is left for the next run.
fn half_a_file_waits(site: &Site, variables: &[(String, String)], archive: &Path, both: [&Repository; 2]) {
    site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', repeat('x', 600000))");
    let segment = site.cluster().switch_wal();
    wait_until("the WAL to be copied", || archive.join(&segment).exists());
    let whole = || fs::read(site.cluster().data.join("pg_wal").join(&segment)).unwrap();
    wait_until("the copy to be whole", || fs::read(archive.join(&segment)).unwrap() == whole());
    let whole = whole();
    let mut without_end = whole.clone();
    without_end[300_000..].fill(0);
    for half in [&[][..], &whole[..300_000], &without_end] {
        site.write(&format!("archive/{segment}"), half);
        let outcome = call(site, variables, "wal-sync").run();
        assert!([0, 3].contains(&outcome.code), "{outcome}");
        assert!(
            !both.iter().any(|repository| repository.holds(&segment)),
            "half a file was stored\n{outcome}"
        );
    }
    site.write(&format!("archive/{segment}"), &whole);
    call(site, variables, "wal-sync").run().succeeds();
    for repository in both {
        assert!(repository.wal_content(&segment) == whole, "{}", repository.name);
    }
}
