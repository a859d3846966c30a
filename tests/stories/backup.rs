//! Taking base backups: what is stored, what is left behind, and what a run says when something is wrong.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::site;
use crate::support::{Repository, Running, Site, Workload, process, wait_until};

const CODECS: [(&str, &str); 4] =
    [("zstd:3", "base.tar.zst"), ("gzip:1", "base.tar.gz"), ("lz4", "base.tar.lz4"), ("none", "base.tar")];

/// A backup slow enough to be caught in the middle.
const SLOWLY: &str = "base-backup --max-rate 1MB";

/// Waits until the server sends data and some of it has been written.
fn wait_until_under_way(site: &Site, running: &mut Running) {
    let sending = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE backup_streamed > 1000000";
    wait_until("the backup to be under way", || {
        assert!(!running.has_ended(), "it ended: {}", running.stderr_so_far());
        site.cluster().sql(sending) == "1"
    });
}

/// Waits until the server has noticed that its client is gone.
fn wait_until_the_server_is_rid_of_it(site: &Site) {
    let rest =
        "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_replication)";
    wait_until("the server to end the backup", || site.cluster().sql(rest) == "0");
}

/// Starts what was restored by hand and asks it something.
fn ask_restored_by_hand(site: &Site, repository: &Repository, backup: &str, sql: &str) -> String {
    let directory = site.fresh("by-hand");
    repository.restore_by_hand(backup, &directory);
    Repository::remap_tablespaces(&directory);
    let mut restored = site.restored_in(&directory);
    restored.start();
    restored.sql(sql)
}

#[test]
fn every_codec_can_be_restored_by_hand_with_its_tablespaces() {
    let site = site!(tablespaces(2));
    site.cluster().sql(
        "CREATE TABLE here AS SELECT id, md5(id::text) AS text FROM generate_series(1, 20000) AS id;
         CREATE TABLE there TABLESPACE space1 AS SELECT * FROM here;
         CREATE TABLE elsewhere TABLESPACE space2 AS SELECT * FROM here;",
    );
    let sum = "SELECT sum(hashtext(h.text || t.text || e.text)::bigint)
        FROM here h JOIN there t USING (id) JOIN elsewhere e USING (id)";
    let expected = site.cluster().sql(sum);
    for (compression, file) in CODECS {
        let report = site.pgbak(&format!("base-backup --compression {compression} --json")).succeeds().json();
        let name = report["name"].as_str().unwrap();
        assert!(site.repository().backup(name).join(file).exists(), "{compression} is stored in {file}");
        assert_eq!(ask_restored_by_hand(&site, site.repository(), name, sum), expected, "{compression}");
    }
    assert_eq!(site.repository().backups().len(), CODECS.len(), "each run made a backup of its own");
}

#[test]
fn a_backup_under_load_restores_by_hand_to_when_it_ended() {
    let site = site!();
    let workload = Workload::start(site.cluster());
    workload.wait_for_more(200);
    site.pgbak("base-backup").succeeds();
    workload.wait_for_more(200);
    let account = workload.finish(site.cluster());

    let backup = site.repository().the_backup();
    let stop_lsn = site.repository().record(&backup)["stop_lsn"].as_str().unwrap().parse().unwrap();
    let directory = site.fresh("by-hand");
    site.repository().restore_by_hand(&backup, &directory);
    let mut restored = site.restored_in(&directory);
    restored.start();
    // Its own WAL may go on behind the stop: without `recovery.signal` PostgreSQL replays all there is.
    account.assert_holds_at_least(&restored, account.history.before_lsn(stop_lsn));
}

#[test]
fn the_record_and_the_report_tell_the_same() {
    let site = site!();
    let report = site.pgbak("base-backup --label 'before the upgrade' --json").succeeds().json();
    let record = site.repository().record(report["name"].as_str().unwrap());
    assert_eq!(record["label"].as_str(), Some("before the upgrade"));
    assert_eq!(record["kind"].as_str(), Some("full"));
    for field in ["name", "label", "system_identifier", "start_lsn", "stop_lsn"] {
        assert_eq!(record[field].as_str(), report[field].as_str(), "{field}");
    }
    for field in ["timeline", "server_version", "size_bytes", "stored_bytes"] {
        assert_eq!(record[field].as_integer(), report[field].as_i64(), "{field}");
    }
    assert_eq!(record["system_identifier"].as_str(), Some(&*site.cluster().system_identifier()));
    assert!(site.repository().path.join("RESTORE.md").exists(), "the way back is told beside the backups");
}

#[test]
fn a_zstd_archive_is_frames_of_at_most_4_mib_and_ends_with_their_seek_table() {
    let site = site!();
    site.cluster().sql("CREATE TABLE t AS SELECT md5(id::text) FROM generate_series(1, 200000) AS id");
    site.pgbak("base-backup").succeeds();
    let archive = site.repository().backup(&site.repository().the_backup()).join("base.tar.zst");
    let bytes = fs::read(&archive).unwrap();
    let frames = seek_table(&bytes);
    assert!(frames.len() > 2, "{frames:?}");

    let mut start = 0;
    for (compressed_size, size) in frames {
        assert!(size <= 4 << 20, "a frame of {size} bytes");
        let frame = &bytes[start..start + compressed_size];
        let mut content = Vec::new();
        zstd::stream::Decoder::new(frame).unwrap().single_frame().read_to_end(&mut content).unwrap();
        assert_eq!(content.len(), size, "the frame at {start} stands alone");
        start += compressed_size;
    }
    // Between the frames and the table, in a frame that decoders pass over: the SHA-256 of what is before it.
    let trailer = &bytes[start..bytes.len() - seek_table_size(&bytes)];
    let digest = Sha256::digest(&bytes[..start]);
    assert_eq!(trailer, [&b"\x5D\x2A\x4D\x18\x28\0\0\0pgbak256"[..], &digest].concat());
}

/// Reads the seek table at the end of `archive`: compressed and plain size of each frame. Follows `contrib/seekable_format/
/// zstd_seekable_compression_format.md` of zstd.
fn seek_table(archive: &[u8]) -> Vec<(usize, usize)> {
    let size = seek_table_size(archive);
    let table = &archive[archive.len() - size..];
    assert_eq!(table[..4], 0x184D_2A5E_u32.to_le_bytes(), "a skippable frame");
    let number = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(number(4), size - 8, "the skippable frame ends with the file");
    let entry_size = if table[size - 5] & 0x80 == 0 { 8 } else { 12 };
    let entries = (8..size - 9).step_by(entry_size);
    entries.map(|at| (number(at), number(at + 4))).collect()
}

fn seek_table_size(archive: &[u8]) -> usize {
    let footer = &archive[archive.len() - 9..];
    assert_eq!(footer[5..], 0x8F92_EAB1_u32.to_le_bytes(), "the archive ends with a seek table");
    let entry_size = if footer[4] & 0x80 == 0 { 8 } else { 12 };
    let frames = u32::from_le_bytes(footer[..4].try_into().unwrap()) as usize;
    8 + frames * entry_size + 9
}

#[test]
fn a_repository_that_fails_does_not_cost_the_other_its_backup() {
    let site = site!(repositories(2));
    let [first, second] = site.repositories() else { panic!("two repositories") };
    fs::set_permissions(&second.path, fs::Permissions::from_mode(0o500)).unwrap();

    let report = site.pgbak("base-backup --json").exits(3).json();
    assert_eq!(first.backups(), [report["name"].as_str().unwrap()]);
    assert_eq!(second.files(), [] as [&Path; 0]);
    assert_eq!(report["repositories"][0]["error"], serde_json::Value::Null);
    let error = report["repositories"][1]["error"].as_str().unwrap();
    assert!(error.to_lowercase().contains("permission denied"), "{error}");
    assert!(report["repositories"][1]["hint"].is_string(), "{report}");

    fs::set_permissions(&second.path, fs::Permissions::from_mode(0o700)).unwrap();
    site.pgbak("base-backup --repository second").succeeds();
    assert_eq!((first.backups().len(), second.backups().len()), (1, 1));
}

#[test]
fn a_repository_that_was_away_gets_the_backups_that_it_lacks() {
    let site = site!(repositories(2), tablespaces(1));
    let [first, second] = site.repositories() else { panic!("a site with two repositories") };
    site.cluster().sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    site.pgbak("base-backup").succeeds();
    let away = site.path("away");
    fs::rename(&second.path, &away).unwrap();
    site.write("repositories/second", "not a directory");
    site.cluster().sql("INSERT INTO t SELECT generate_series(1001, 2000)");
    site.pgbak("base-backup").exits(3);
    site.pgbak("base-backup --repository first").succeeds();
    site.pgbak("base-backup --copy-missing").exits(3).stdout_has("second: FAILED");

    fs::remove_file(&second.path).unwrap();
    fs::rename(&away, &second.path).unwrap();
    let report = site.pgbak("base-backup --copy-missing --json").succeeds().json();
    assert_eq!(report["copied"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(first.backups(), second.backups());
    for backup in first.backups() {
        for file in fs::read_dir(first.backup(&backup)).unwrap().flatten() {
            let copy = second.backup(&backup).join(file.file_name());
            assert!(fs::read(file.path()).unwrap() == fs::read(&copy).unwrap(), "{}", copy.display());
        }
    }
    let newest = first.backups().pop().unwrap();
    let restored = ask_restored_by_hand(&site, second, &newest, "SELECT count(*) FROM t");
    assert_eq!(restored, "2000");
    site.pgbak("base-backup --copy-missing").succeeds().stdout_has("every repository has every backup");
}

#[test]
fn an_interrupted_backup_leaves_nothing_behind() {
    let site = site!();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut running = site.call(SLOWLY).start();
        wait_until_under_way(&site, &mut running);
        running.signal(signal);
        running.finish().exits(code);
        assert_eq!(site.repository().directories_of_backups(), [] as [&str; 0]);
        wait_until_the_server_is_rid_of_it(&site);
    }
    site.pgbak("base-backup").succeeds();
    site.repository().the_backup();
}

#[test]
fn what_a_killed_backup_leaves_the_next_one_cleans_up() {
    let site = site!();
    let mut running = site.call(SLOWLY).start();
    wait_until_under_way(&site, &mut running);
    running.signal(Signal::KILL);
    running.finish().exits(128 + 9);
    assert_eq!(site.repository().backups(), [] as [&str; 0], "half a backup does not exist");
    let left = site.repository().directories_of_backups();
    assert_eq!(left.len(), 1, "a killed run cannot clean up: {left:?}");

    wait_until_the_server_is_rid_of_it(&site);
    site.pgbak("base-backup").succeeds();
    let backup = site.repository().the_backup();
    assert_eq!(site.repository().directories_of_backups(), [&*backup]);
    let stray = |entry: &walkdir::DirEntry| entry.file_name().to_string_lossy().contains("lease");
    let below = WalkDir::new(site.repository().backup(&backup)).into_iter().flatten();
    assert_eq!(below.filter(stray).count(), 0, "the lease goes with the run");
}

#[test]
fn a_second_backup_at_the_same_time_is_turned_away() {
    let site = site!();
    let mut running = site.call(SLOWLY).start();
    wait_until_under_way(&site, &mut running);
    site.pgbak("base-backup").exits(4).refuses(&["another base-backup is at work"], &[]);
    assert!(!running.has_ended(), "the first one goes on");
    running.signal(Signal::INT);
    running.finish().exits(130);
}

#[test]
fn damaged_pages_are_told_and_the_backup_is_kept() {
    let mut site = site!();
    site.cluster()
        .sql("CREATE TABLE t AS SELECT md5(id::text) FROM generate_series(1, 5000) AS id; CHECKPOINT");
    let file = site.cluster().sql("SELECT pg_relation_filepath('t')");
    site.cluster_mut().stop();
    let path = site.cluster().data.join(&file);
    let mut bytes = fs::read(&path).unwrap();
    // In the page's header, after its LSN and checksum: the page is not new, and its checksum is wrong.
    bytes[3 * 8192 + 100] ^= 0xFF;
    fs::write(&path, bytes).unwrap();
    site.cluster_mut().start();

    let outcome = site.pgbak("base-backup").exits(3).stdout_has("DAMAGED").stdout_has(&file);
    assert!(!outcome.stdout.contains("FAILED"), "{outcome}");
    let backup = site.repository().the_backup();
    let record = site.repository().record(&backup);
    assert!(record.values().any(|value| value.to_string().contains(&file)), "the record tells it: {record}");
    site.pgbak("status").exits(3).stdout_has(&backup);
}

#[test]
fn what_is_stored_is_for_its_owner_alone() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    site.wait_until_archived();
    let places = [site.repository().path.clone(), site.path("home")];
    for entry in places.iter().flat_map(WalkDir::new) {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
        let by_the_test =
            ["stdout", "stderr"].iter().any(|name| entry.path().to_string_lossy().contains(name));
        let expected = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        assert!(by_the_test || mode == expected, "{mode:o} {}", entry.path().display());
    }
}

#[test]
fn no_copy_of_the_backup_is_made_outside_the_repository() {
    let site = site!();
    let mut running = site.call("base-backup --max-rate 20MB").start();
    wait_until_under_way(&site, &mut running);
    let pid = running.process_id();
    let mut looked = 0;
    while !running.has_ended() {
        for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let (Ok(target), Ok(metadata)) =
                (fs::read_link(descriptor.path()), fs::metadata(descriptor.path()))
            else {
                continue;
            };
            let elsewhere = !target.starts_with(&site.repository().path);
            assert!(
                !(elsewhere && metadata.is_file() && metadata.len() > 64 << 10),
                "{} has {} bytes",
                target.display(),
                metadata.len()
            );
            looked += 1;
        }
    }
    running.finish().succeeds();
    assert!(looked > 0, "it was looked at while it ran");
}

#[test]
fn two_backups_in_the_same_second_are_two() {
    let site = site!();
    let names = [(); 2].map(|()| {
        let report = site.pgbak("base-backup --json").succeeds().json();
        report["name"].as_str().unwrap().to_owned()
    });
    assert_ne!(names[0], names[1]);
    assert_eq!(site.repository().backups(), names);
}

#[test]
fn tls_and_a_password_from_the_password_file_are_enough_for_a_role_with_replication() {
    let mut site = site!(settings("listen_addresses = '127.0.0.1'"));
    make_certificate(&site);
    site.cluster().sql("CREATE ROLE keeper LOGIN REPLICATION PASSWORD 'open sesame'");
    site.write(
        "data/pg_hba.conf",
        "local all postgres trust\nhostssl all,replication keeper 127.0.0.1/32 scram-sha-256\n",
    );
    site.cluster().sql("ALTER SYSTEM SET ssl = on");
    site.cluster_mut().stop();
    site.cluster_mut().start();

    let port = site.cluster().port();
    site.change_config(
        &site.cluster().connection("postgres"),
        &format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user=keeper sslmode=verify-full dbname=postgres"
        ),
    );
    let password_file = site.write("passwords", format!("localhost:{port}:*:keeper:open sesame\n"));
    fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600)).unwrap();
    let root = site.path("data/server.crt");
    let call = || {
        let call = site.call("base-backup").env("PGPASSFILE", password_file.to_str().unwrap());
        call.env("PGSSLROOTCERT", root.to_str().unwrap())
    };
    call().run().succeeds();
    site.change_config("host=localhost", "host=elsewhere.example");
    site.write("passwords", "*:*:*:keeper:open sesame\n");
    call().run().exits(1).stderr_has("certificate").stderr_has("hostname mismatch");
}

/// A key and a certificate for `localhost`, signed by itself.
fn make_certificate(site: &Site) {
    let data = &site.cluster().data;
    let mut openssl = site.identity().command("openssl", "KILL");
    openssl.args(["req", "-new", "-x509", "-days", "2", "-nodes", "-newkey", "rsa:2048"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    openssl.arg("-keyout").arg(data.join("server.key")).arg("-out").arg(data.join("server.crt"));
    process::run(openssl.current_dir(data));
    process::run(Command::new("chmod").arg("0600").arg(data.join("server.key")));
}

#[test]
fn a_standby_can_be_backed_up_in_the_primary_s_stead() {
    let mut site = site!();
    site.cluster().sql("CREATE TABLE t AS SELECT 7 AS seven");
    site.pgbak("base-backup").succeeds();
    let standby = site.restore_streaming_standby();
    site.change_config(&site.cluster().connection("postgres"), &standby.connection("postgres"));
    site.pgbak("base-backup").succeeds();
    let backup = site.repository().backups().pop().unwrap();
    assert_eq!(ask_restored_by_hand(&site, site.repository(), &backup, "SELECT seven FROM t"), "7");
    drop(standby);
    site.cluster_mut().stop();
}
