//! Base backups, as events.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::FileExt;

use pgbak::interrupt::Interrupt;
use pgbak::server::{
    BackupEnd, BackupEvent, BaseBackupOptions, CheckpointMode, ConnectionSettings, Error, ReplicationClient,
};

use crate::certificates::{Authority, Identity};
use crate::cluster::Cluster;
use crate::connect;

fn options() -> BaseBackupOptions {
    BaseBackupOptions {
        label: "it's a test".to_owned(),
        checkpoint: CheckpointMode::Fast,
        max_rate_bytes_per_second: None,
    }
}

struct Received {
    /// By tablespace, in the order they came.
    archives: Vec<(Option<u32>, Vec<u8>)>,
    manifest: Vec<u8>,
    end: BackupEnd,
}

fn receive(client: &mut ReplicationClient) -> Received {
    let mut backup = client.base_backup(&options()).unwrap();
    let start = backup.start_lsn();
    let announced: Vec<_> = backup.tablespaces().iter().map(|space| space.oid).collect();
    assert!(backup.tablespaces().iter().all(|space| space.size_bytes_estimate.is_some()));
    let (mut archives, mut manifest) = (Vec::new(), None);
    let end = loop {
        match backup.next().unwrap() {
            BackupEvent::ArchiveStarts { tablespace } => archives.push((tablespace, Vec::new())),
            BackupEvent::ArchiveData(bytes) => archives.last_mut().unwrap().1.extend(bytes),
            BackupEvent::ManifestStarts => manifest = Some(Vec::new()),
            BackupEvent::ManifestData(bytes) => manifest.as_mut().unwrap().extend(bytes),
            BackupEvent::Ends(end) => break end,
        }
    };
    assert!(end.stop_lsn > start);
    assert_eq!(archives.iter().map(|(oid, _)| *oid).collect::<Vec<_>>(), announced);
    Received { archives, manifest: manifest.unwrap(), end }
}

fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    assert!(archive.len().is_multiple_of(512) && archive.ends_with(&[0; 1024]), "the archive has its end");
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    entries
        .filter(|entry| entry.header().entry_type().is_file())
        .map(|mut entry| {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), content)
        })
        .collect()
}

/// Two tablespaces with a table in each.
fn with_tablespaces(cluster: &Cluster) -> [u32; 2] {
    ["one", "two"].map(|name| {
        let path = cluster.space(name);
        cluster.sql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", path.display()));
        cluster.sql(&format!(
            "CREATE TABLE t_{name} TABLESPACE {name} AS SELECT generate_series(1, 10000) AS id"
        ));
        cluster.sql(&format!("SELECT oid FROM pg_tablespace WHERE spcname = '{name}'")).parse().unwrap()
    })
}

fn check_whole_cluster(settings: &ConnectionSettings, tablespaces: [u32; 2]) {
    let mut client = connect(settings).unwrap();
    let Received { archives, manifest, end } = receive(&mut client);
    assert_eq!(end.checksum_failure, None);
    assert_eq!(end.notices, []);

    let (oids, archives): (Vec<_>, Vec<_>) =
        archives.iter().map(|(oid, archive)| (*oid, files(archive))).unzip();
    assert_eq!(oids, [Some(tablespaces[0]), Some(tablespaces[1]), None]);
    let base = archives.last().unwrap();
    let label = String::from_utf8(base["backup_label"].clone()).unwrap();
    assert!(label.contains("LABEL: it's a test\n"), "{label}");
    let map = String::from_utf8(base["tablespace_map"].clone()).unwrap();
    assert!(tablespaces.iter().all(|oid| map.contains(&format!("{oid} /"))), "{map}");

    // Every file that the manifest names has come, with the size that it says, and no other.
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let named: BTreeSet<(String, u64)> = manifest["Files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| (file["Path"].as_str().unwrap().to_owned(), file["Size"].as_u64().unwrap()))
        .collect();
    let mut came = BTreeSet::new();
    for (oid, archive) in oids.iter().zip(&archives) {
        let prefix = oid.map_or(String::new(), |oid| format!("pg_tblspc/{oid}/"));
        came.extend(archive.iter().map(|(path, content)| (format!("{prefix}{path}"), content.len() as u64)));
    }
    came.retain(|(path, _)| path != "tablespace_map");
    let mut named = named;
    named.retain(|(path, _)| path != "tablespace_map");
    assert_eq!(came, named);

    // The connection takes the next command.
    assert_eq!(client.identify_system().unwrap().timeline, end.timeline);
    receive(&mut client);
}

#[test]
fn a_backup_has_every_file_of_every_tablespace() {
    let Some(cluster) = Cluster::start() else { return };
    let tablespaces = with_tablespaces(&cluster);
    check_whole_cluster(&cluster.local(""), tablespaces);
    check_whole_cluster(&cluster.tcp(""), tablespaces);
}

#[test]
fn a_backup_comes_whole_through_tls() {
    let authority = Authority::new("authority");
    let Some(cluster) = Cluster::start() else { return };
    let Identity { certificate, key } = authority.sign("localhost");
    let (certificate, key) = (cluster.file("server.crt", &certificate), cluster.file("server.key", &key));
    cluster.append(
        "postgresql.conf",
        &format!(
            "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
            certificate.display(),
            key.display()
        ),
    );
    cluster.control(&["-w", "restart"]);
    let tablespaces = with_tablespaces(&cluster);
    check_whole_cluster(&cluster.tcp("sslmode=require"), tablespaces);
}

#[test]
fn damaged_pages_are_a_finding_and_the_backup_is_whole() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS id");
    let path = cluster.sql("SELECT pg_relation_filepath('t')");
    cluster.sql("CHECKPOINT");
    let file = std::fs::OpenOptions::new().write(true).open(cluster.data().join(&path)).unwrap();
    file.write_all_at(b"damage", 3 * 8192 + 4000).unwrap();

    let mut client = connect(&cluster.local("")).unwrap();
    let Received { archives, end, .. } = receive(&mut client);
    assert!(files(&archives[0].1).contains_key(&path));
    assert!(end.checksum_failure.unwrap().contains("checksum"));
    assert!(end.notices.iter().any(|notice| notice.severity == "WARNING" && notice.message.contains(&path)));
    client.identify_system().unwrap();
}

#[test]
fn an_interrupt_is_noticed_while_the_server_makes_its_checkpoint() {
    let Some(cluster) = Cluster::start_with("checkpoint_completion_target = 0.9\n", "") else { return };
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000000) AS id");
    let interrupt = Interrupt::default();
    let mut client = ReplicationClient::connect(&cluster.local(""), &interrupt).unwrap();
    let watcher = {
        let interrupt = interrupt.clone();
        let sql = "SELECT count(*) = 1 FROM pg_stat_progress_basebackup WHERE phase = 'waiting for checkpoint to finish'";
        std::thread::scope(|scope| {
            let raise = scope.spawn(|| {
                cluster.wait_for(sql);
                interrupt.cell().store(15, std::sync::atomic::Ordering::Relaxed);
                std::time::Instant::now()
            });
            let spread = BaseBackupOptions { checkpoint: CheckpointMode::Spread, ..options() };
            let error = client.base_backup(&spread).err().expect("is interrupted");
            assert!(matches!(error, Error::Interrupted(interrupted) if interrupted.signal == 15), "{error}");
            raise.join().unwrap().elapsed()
        })
    };
    assert!(watcher.as_secs_f64() < 1.5, "{watcher:?}");
}

#[test]
fn a_backup_that_is_broken_off_leaves_nothing_running() {
    let Some(cluster) = Cluster::start() else { return };
    let mut client = connect(&cluster.local("")).unwrap();
    let mut backup = client.base_backup(&options()).unwrap();
    backup.next().unwrap();
    drop(backup);
    let error = client.identify_system().unwrap_err();
    assert!(error.to_string().contains("an earlier command was broken off"), "{error}");
    drop(client);
    cluster.wait_for("SELECT count(*) = 0 FROM pg_stat_progress_basebackup");
}

#[test]
fn what_the_server_refuses_is_told_and_the_client_goes_on() {
    let Some(cluster) = Cluster::start() else { return };
    let mut client = connect(&cluster.local("")).unwrap();
    let slow = BaseBackupOptions { max_rate_bytes_per_second: Some(1000), ..options() };
    let error = client.base_backup(&slow).err().expect("is refused");
    assert!(error.to_string().contains("at least 32768"), "{error}");
    let long = BaseBackupOptions { label: "x".repeat(2000), ..options() };
    assert!(client.base_backup(&long).is_err());
    receive(&mut client);
}
