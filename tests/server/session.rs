//! The SQL session.

use pgbak::interrupt::Interrupt;
use pgbak::pg::SegmentName;
use pgbak::pg::server_state::{ArchiveMethod, Archiver, ServerState};
use pgbak::server::Session;

use crate::cluster::Cluster;
use crate::connect;

fn archiver(settings: &pgbak::server::ConnectionSettings) -> Archiver {
    Session::connect(settings, &Interrupt::default()).unwrap().archiver().unwrap()
}

#[test]
fn the_archiver_tells_what_it_did_and_what_it_could_not() {
    let Some(cluster) =
        Cluster::start_with("archive_mode = on\narchive_command = 'test ! -e ../broken'\n", "")
    else {
        return;
    };
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
    let Some(cluster) = Cluster::start() else { return };
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

#[test]
fn a_role_that_may_only_log_in_learns_all_but_when_segments_were_finished() {
    let Some(cluster) = Cluster::start_with("max_wal_senders = 7\nmax_wal_size = 2GB\n", "") else { return };
    cluster.sql("CREATE ROLE guest LOGIN; CREATE ROLE monitor LOGIN REPLICATION IN ROLE pg_monitor");
    cluster.sql("SELECT pg_create_physical_replication_slot('kept', true)");
    cluster.sql("SELECT pg_create_physical_replication_slot('unused')");
    let session = |user: &str| {
        let settings = cluster.local(&format!("user={user} dbname=postgres"));
        Session::connect(&settings, &Interrupt::default()).unwrap()
    };
    let guest: ServerState = session("guest").state().unwrap();
    assert_eq!((guest.role.as_str(), guest.may_replicate, guest.may_list_wal), ("guest", false, false));
    assert_eq!(
        guest.system_identifier.to_string(),
        cluster.sql("SELECT system_identifier FROM pg_control_system()")
    );
    assert_eq!((guest.timeline.get(), guest.is_standby, guest.full_page_writes), (1, false, true));
    assert_eq!((guest.wal_senders_max, guest.wal_senders_used), (7, 0));
    assert_eq!(guest.wal_kept_bytes, (2048 + 256) << 20);
    let slots: Vec<_> = guest
        .slots
        .iter()
        .map(|slot| (slot.name.as_str(), slot.is_active, slot.retained_bytes.is_some()))
        .collect();
    assert_eq!(slots, [("kept", false, true), ("unused", false, false)]);
    assert_eq!(guest.slots[0].wal_status.as_deref(), Some("reserved"));

    cluster.sql("CREATE TABLE t ()");
    let finished = cluster.sql("SELECT pg_walfile_name(pg_switch_wal())");
    let mut monitor = session("monitor");
    let state = monitor.state().unwrap();
    assert!(state.may_replicate && state.may_list_wal);
    assert!(state.wal_lsn.0 / state.segment_size.bytes() > guest.wal_lsn.0 / guest.segment_size.bytes());
    let found = monitor.finished_segments(&state).unwrap();
    let newest = SegmentName::parse(&finished, state.segment_size).unwrap().number;
    assert_eq!(found[0].0, newest, "and not the one in use");
    assert!((0..60_000).contains(&found[0].1.num_milliseconds()), "{found:?}");
    assert!(session("guest").finished_segments(&state).is_err());
}

#[test]
fn a_standby_tells_its_state_too() {
    let Some(primary) = Cluster::start() else { return };
    let standby = Cluster::standby_of(&primary);
    let state =
        Session::connect(&standby.local("dbname=postgres"), &Interrupt::default()).unwrap().state().unwrap();
    assert!(state.is_standby);
    assert_eq!(state.timeline.get(), 1);
    let of_primary =
        Session::connect(&primary.local("dbname=postgres"), &Interrupt::default()).unwrap().state().unwrap();
    assert_eq!(state.system_identifier, of_primary.system_identifier);
    assert_eq!(of_primary.wal_senders_used, 1);
}
