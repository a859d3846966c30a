//! The SQL session.

use pgbak::interrupt::Interrupt;
use pgbak::server::{ArchiveMethod, Archiver, Session};

use crate::cluster::Cluster;
use crate::connect;

fn archiver(settings: &pgbak::server::ConnectionSettings) -> Archiver {
    Session::connect(settings, &Interrupt::default()).unwrap().archiver().unwrap()
}

#[test]
fn the_archiver_tells_what_it_did_and_what_it_could_not() {
    let cluster = Cluster::start_with("archive_mode = on\narchive_command = 'test ! -e ../broken'\n", "");
    let settings = cluster.local("dbname=postgres");
    cluster.sql("CREATE TABLE t (); SELECT pg_switch_wal()");
    cluster.wait_for("SELECT archived_count > 0 FROM pg_stat_archiver");
    cluster.file("broken", b"");
    cluster.sql("CREATE TABLE u (); SELECT pg_switch_wal()");
    cluster.wait_for("SELECT failed_count > 0 FROM pg_stat_archiver");

    let found = archiver(&settings);
    assert_eq!((found.mode.as_str(), found.wal_level.as_str()), ("on", "replica"));
    assert_eq!(found.method, ArchiveMethod::Command("test ! -e ../broken".to_owned()));
    let (archived, failed) = (found.last_archived.unwrap(), found.last_failed.unwrap());
    assert!(found.archived_count > 0 && found.failed_count > 0);
    assert_eq!((archived.file_name.len(), failed.file_name.len()), (24, 24));
    let epoch =
        format!("SELECT extract(epoch FROM last_failed_time)::numeric(20, 6) >= {}", failed.at.timestamp());
    assert_eq!(cluster.sql(&format!("{epoch} FROM pg_stat_archiver")), "t");

    cluster.sql("CREATE ROLE guest LOGIN");
    assert_eq!(archiver(&cluster.local("user=guest dbname=postgres")).method, found.method);
    cluster.sql("ALTER SYSTEM SET archive_command = ''");
    cluster.sql("SELECT pg_reload_conf()");
    cluster.wait_for("SELECT current_setting('archive_command') = ''");
    assert_eq!(archiver(&settings).method, ArchiveMethod::Missing);
}

#[test]
fn the_session_and_the_replication_client_agree_on_the_server() {
    let cluster = Cluster::start();
    let settings = cluster.tcp("dbname=postgres");
    let mut session = Session::connect(&settings, &Interrupt::default()).unwrap();
    let mut client = connect(&settings).unwrap();
    assert_eq!(session.server_version(), client.server_version());
    let identity = client.identify_system().unwrap();
    assert!(session.current_wal_lsn().unwrap() >= identity.flush_lsn);
    let system = cluster.sql("SELECT system_identifier FROM pg_control_system()");
    assert_eq!(identity.system_identifier.to_string(), system);
    assert_eq!(archiver(&settings).method, ArchiveMethod::Off);
}
