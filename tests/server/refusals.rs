//! What a server says no to, and what pgbak makes of it.

use pgbak::interrupt::Interrupt;
use pgbak::server::{Cause, Error, Session};

use crate::cluster::Cluster;
use crate::{connect, refusal};

#[test]
fn a_role_without_replication_is_told_which_command_helps() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.sql("CREATE ROLE \"Keeper\" LOGIN");
    let error = refusal(&cluster.local("user=Keeper"));
    assert_eq!(error.cause(), Some(&Cause::NotReplicationRole { role: "Keeper".to_owned() }), "{error}");
    assert!(error.hint().unwrap().contains("`ALTER ROLE \"Keeper\" REPLICATION;`"));
}

#[test]
fn a_missing_hba_line_is_spelled_out() {
    let Some(cluster) = Cluster::start_with(
        "",
        "local replication keeper reject\nhost replication keeper 127.0.0.1/32 reject\n",
    ) else {
        return;
    };
    cluster.sql("CREATE ROLE keeper LOGIN REPLICATION");
    let hint = refusal(&cluster.local("user=keeper")).hint().unwrap();
    assert!(hint.contains("`local replication keeper scram-sha-256`") && hint.contains("peer"), "{hint}");
    assert!(hint.contains("`SHOW hba_file;`"), "{hint}");
    let hint = refusal(&cluster.tcp("user=keeper")).hint().unwrap();
    assert!(hint.contains("`host replication keeper 127.0.0.1/32 scram-sha-256`"), "{hint}");
}

#[test]
fn a_role_that_is_not_the_systems_user_is_told_who_may_be_it() {
    let Some(cluster) = Cluster::start_with("", "local all keeper peer\n") else { return };
    cluster.sql("CREATE ROLE keeper LOGIN REPLICATION");
    let settings = cluster.local("user=keeper");
    assert_eq!(settings.database, "postgres", "a role for backups has no database of its own name");
    let error = Session::connect(&settings, &Interrupt::default()).err().unwrap();
    assert_eq!(error.cause(), Some(&Cause::PeerRejected { role: "keeper".to_owned() }), "{error}");
    assert!(error.hint().unwrap().contains("`sudo -u keeper pgbak status`"));
}

#[test]
fn a_database_that_is_not_there_is_told_with_the_key_that_names_it() {
    let Some(cluster) = Cluster::start() else { return };
    let error = Session::connect(&cluster.local("dbname=shop"), &Interrupt::default()).err().unwrap();
    assert_eq!(error.cause(), Some(&Cause::DatabaseMissing), "{error}");
    assert!(error.hint().unwrap().contains("dbname=postgres"));
}

#[test]
fn a_server_without_wal_senders_is_told_how_to_get_them() {
    let Some(cluster) = Cluster::start_with("wal_level = minimal\nmax_wal_senders = 0\n", "") else { return };
    let error = refusal(&cluster.local(""));
    assert_eq!(error.cause(), Some(&Cause::ReplicationOff), "{error}");
    assert!(error.hint().unwrap().contains("ALTER SYSTEM SET wal_level = 'replica';"));
}

#[test]
fn used_up_senders_and_slots_are_told_apart() {
    let Some(cluster) = Cluster::start_with("max_wal_senders = 1\nmax_replication_slots = 1\n", "") else {
        return;
    };
    let mut first = connect(&cluster.local("")).unwrap();
    let error = refusal(&cluster.local(""));
    assert_eq!(error.cause(), Some(&Cause::NoFreeWalSender), "{error}");
    assert!(error.hint().unwrap().contains("max_wal_senders"));

    first.create_temporary_slot("one").unwrap();
    let error = first.create_temporary_slot("two").unwrap_err();
    assert_eq!(error.cause(), Some(&Cause::NoFreeSlot), "{error}");
    assert!(error.hint().unwrap().contains("max_replication_slots"));
    first.identify_system().unwrap();
}

#[test]
fn nobody_there_is_told_with_the_place() {
    let Some(cluster) = Cluster::start() else { return };
    let (local, tcp) = (cluster.local(""), cluster.tcp("sslmode=disable"));
    let [socket, address] = [
        format!("server on socket \"{}/.s.PGSQL.{}\"", cluster.path().display(), cluster.port()),
        format!("server at \"127.0.0.1\", port {}", cluster.port()),
    ];
    cluster.control(&["-w", "stop"]);
    assert_eq!(
        refusal(&local).to_string(),
        format!("could not connect to {socket}: no such file or directory")
    );
    assert_eq!(refusal(&tcp).to_string(), format!("could not connect to {address}: connection refused"));
    assert!(matches!(refusal(&tcp), Error::Unreachable { .. }));
    assert!(refusal(&tcp).hint().unwrap().contains("Is the server running"));
    let nowhere = cluster.settings("host=nowhere.invalid user=u");
    assert!(
        refusal(&nowhere)
            .to_string()
            .starts_with("could not connect to server at \"nowhere.invalid\", port 5432: ")
    );
}

#[test]
fn only_servers_of_the_wanted_kind_will_do() {
    let Some(primary) = Cluster::start() else { return };
    let standby = Cluster::standby_of(&primary);
    let both = |attributes: &str| {
        let (a, b) = (standby.path().display(), primary.path().display());
        let ports = format!("{},{}", standby.port(), primary.port());
        let settings = format!("host={a},{b} port={ports} user=postgres target_session_attrs={attributes}");
        connect(&primary.settings(&settings)).unwrap().server().to_owned()
    };
    let (first, second) = (both("any"), both("primary"));
    assert!(first.contains(standby.path().to_str().unwrap()));
    assert!(second.contains(primary.path().to_str().unwrap()));
    assert_eq!(both("standby"), first);
    assert_eq!(both("prefer-standby"), first);
    assert_eq!(both("read-only"), first);
    assert_eq!(both("read-write"), second);
    let error = refusal(&primary.local("target_session_attrs=standby"));
    assert!(
        error.to_string().ends_with("does not run as a standby, as target_session_attrs wants"),
        "{error}"
    );
    assert_eq!(connect(&primary.local("target_session_attrs=prefer-standby")).unwrap().server(), second);
}
