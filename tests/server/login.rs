//! Logging in: every method, every sslmode.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use pgbak::interrupt::Interrupt;
use pgbak::server::{Cause, ConnectionSettings, Error, Session};

use crate::certificates::{Authority, Identity};
use crate::cluster::Cluster;
use crate::{connect, refusal};

fn is_session(settings: &ConnectionSettings) -> Result<(), Error> {
    Session::connect(settings, &Interrupt::default()).map(drop)
}

/// A cluster whose certificate is for `localhost`, signed by `authority`, with `hba` before the usual lines.
fn encrypted_cluster(authority: &Authority, hba: &str) -> Option<Cluster> {
    let cluster = Cluster::start_with("", hba)?;
    let Identity { certificate, key } = authority.sign("localhost");
    let certificate = cluster.file("server.crt", &certificate);
    let key = cluster.file("server.key", &key);
    let root = cluster.file("client-root.crt", &authority.pem());
    cluster.append(
        "postgresql.conf",
        &format!(
            "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\nssl_ca_file = '{}'\n",
            certificate.display(),
            key.display(),
            root.display()
        ),
    );
    cluster.control(&["-w", "restart"]);
    Some(cluster)
}

const PASSWORD_ROLES: &str = "\
    SET password_encryption = 'scram-sha-256';\
    CREATE ROLE in_clear LOGIN REPLICATION PASSWORD 'open sesame';\
    CREATE ROLE by_scram LOGIN REPLICATION PASSWORD 'open sesame';\
    SET password_encryption = 'md5';\
    CREATE ROLE by_md5 LOGIN REPLICATION PASSWORD 'open sesame'";

const PASSWORD_HBA: &str = "\
    host all,replication in_clear 127.0.0.1/32 password\n\
    host all,replication by_md5 127.0.0.1/32 md5\n\
    host all,replication by_scram 127.0.0.1/32 scram-sha-256\n";

#[test]
fn every_method_lets_in_who_knows_the_password() {
    let Some(cluster) = encrypted_cluster(&Authority::new("authority"), PASSWORD_HBA) else { return };
    cluster.sql(PASSWORD_ROLES);
    for role in ["in_clear", "by_md5", "by_scram"] {
        for sslmode in ["disable", "require"] {
            let with =
                |more: &str| cluster.tcp(&format!("user={role} dbname=postgres sslmode={sslmode} {more}"));
            let right = with("password='open sesame'");
            connect(&right).unwrap().identify_system().unwrap();
            is_session(&right).unwrap();

            let wrong = with("password=sesame");
            for error in [refusal(&wrong), is_session(&wrong).unwrap_err()] {
                assert_eq!(error.cause(), Some(&Cause::WrongPassword), "{role} {sslmode}: {error}");
                assert!(error.hint().unwrap().contains("~/.pgpass"));
                assert!(!format!("{error} {error:?}").contains("sesame"));
            }
            let none = with("");
            for error in [refusal(&none), is_session(&none).unwrap_err()] {
                assert!(matches!(error, Error::PasswordMissing { .. }), "{role} {sslmode}: {error}");
            }
        }
    }
}

#[test]
fn channel_binding_ties_the_password_to_the_certificate() {
    let Some(cluster) = encrypted_cluster(&Authority::new("authority"), PASSWORD_HBA) else { return };
    cluster.sql(PASSWORD_ROLES);
    let with = |more: &str| {
        cluster.tcp(&format!("password='open sesame' dbname=postgres channel_binding=require {more}"))
    };
    connect(&with("user=by_scram sslmode=require")).unwrap();
    is_session(&with("user=by_scram sslmode=require")).unwrap();
    for more in [
        "user=by_scram sslmode=disable",
        "user=by_md5 sslmode=require",
        "user=in_clear sslmode=require",
        "user=postgres sslmode=require",
    ] {
        let error = refusal(&with(more));
        assert!(matches!(error, Error::ChannelBindingMissing { .. }), "{more}: {error}");
    }
    for error in
        [is_session(&with("user=by_scram sslmode=disable")), is_session(&with("user=by_md5 sslmode=require"))]
    {
        let error = error.unwrap_err();
        assert!(matches!(error, Error::ChannelBindingMissing { .. }), "{error}");
    }
}

#[test]
fn the_password_file_is_used_for_replication_and_for_sql() {
    let Some(cluster) = Cluster::start_with("", PASSWORD_HBA) else { return };
    cluster.sql(PASSWORD_ROLES);
    let settings = || cluster.tcp("user=by_scram dbname=postgres");
    let file = cluster.file(
        ".pgpass",
        format!(
            "127.0.0.1:{port}:replication:by_scram:open sesame\n127.0.0.1:*:postgres:by_scram:open sesame\n",
            port = cluster.port()
        )
        .as_bytes(),
    );
    connect(&settings()).unwrap();
    is_session(&settings()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(refusal(&settings()), Error::PasswordMissing { .. }));
}

/// Roles that may come only with TLS, or only without.
const SSLMODE_HBA: &str = "\
    hostssl all,replication tls_only 127.0.0.1/32 trust\n\
    hostnossl all,replication plain_only 127.0.0.1/32 trust\n\
    host all,replication tls_only,plain_only 127.0.0.1/32 reject\n";

const SSLMODE_ROLES: &str =
    "CREATE ROLE tls_only LOGIN REPLICATION; CREATE ROLE plain_only LOGIN REPLICATION";

#[test]
fn each_sslmode_connects_as_libpq_would() {
    let authority = Authority::new("authority");
    let Some(cluster) = encrypted_cluster(&authority, SSLMODE_HBA) else { return };
    cluster.sql(SSLMODE_ROLES);
    let root = cluster.file("root.crt", &authority.pem());
    let other = cluster.file("other.crt", &Authority::new("other").pem());

    let outcome = |role: &str, host: &str, sslmode: &str, root: Option<&std::path::Path>| {
        let root = root.map(|path| format!("sslrootcert={}", path.display())).unwrap_or_default();
        let settings = cluster.settings(&format!(
            "host={host} hostaddr=127.0.0.1 port={} user={role} dbname=postgres sslmode={sslmode} {root}",
            cluster.port()
        ));
        let word = |error: Error| match &error {
            Error::TlsHandshake { .. } => "handshake",
            Error::TlsSettings { .. } => "no roots",
            Error::Rejected { cause: Cause::NoHbaEntry { .. }, .. } => "rejected",
            Error::NoneReachable(_) => "handshake, then rejected",
            _ => panic!("{role} {host} {sslmode}: {error}"),
        };
        let replication = connect(&settings).map_or_else(word, |_| "in");
        let session = is_session(&settings).map_or_else(word, |()| "in");
        assert_eq!(replication, session, "{role} {host} {sslmode} {root}");
        replication
    };
    let (root, other) = (Some(root.as_path()), Some(other.as_path()));
    // Role, host, sslmode, root certificate.
    for (role, host, sslmode, root, expected) in [
        ("plain_only", "localhost", "disable", None, "in"),
        ("plain_only", "localhost", "allow", None, "in"),
        ("plain_only", "localhost", "prefer", None, "in"),
        ("plain_only", "localhost", "require", None, "rejected"),
        ("plain_only", "localhost", "verify-full", root, "rejected"),
        ("tls_only", "localhost", "disable", None, "rejected"),
        ("tls_only", "localhost", "allow", None, "in"),
        ("tls_only", "localhost", "prefer", None, "in"),
        ("tls_only", "localhost", "require", None, "in"),
        ("tls_only", "localhost", "verify-ca", None, "no roots"),
        ("tls_only", "localhost", "verify-full", None, "no roots"),
        // With root certificates even weak modes check them; only verify-full checks the name.
        ("tls_only", "other.example", "require", root, "in"),
        ("tls_only", "localhost", "require", other, "handshake"),
        ("tls_only", "localhost", "prefer", other, "handshake, then rejected"),
        ("plain_only", "localhost", "prefer", other, "in"),
        ("tls_only", "other.example", "verify-ca", root, "in"),
        ("tls_only", "localhost", "verify-ca", other, "handshake"),
        ("tls_only", "localhost", "verify-full", root, "in"),
        ("tls_only", "other.example", "verify-full", root, "handshake"),
        ("tls_only", "127.0.0.1", "verify-full", root, "handshake"),
    ] {
        assert_eq!(outcome(role, host, sslmode, root), expected, "{role} {host} {sslmode} {root:?}");
    }
}

#[test]
fn a_server_without_tls_is_left_or_taken_as_sslmode_says() {
    let Some(cluster) = Cluster::start() else { return };
    for sslmode in ["disable", "allow", "prefer"] {
        connect(&cluster.tcp(&format!("sslmode={sslmode}"))).unwrap();
    }
    let required = cluster.tcp("sslmode=require dbname=postgres");
    for error in [refusal(&required), is_session(&required).unwrap_err()] {
        assert!(matches!(error, Error::TlsNotOffered { .. }), "{error}");
    }
    // Over a socket there is no TLS to ask for.
    connect(&cluster.local("sslmode=require")).unwrap();
}

#[test]
fn a_client_certificate_lets_its_role_in() {
    let authority = Authority::new("authority");
    let Some(cluster) = encrypted_cluster(&authority, "hostssl all,replication keeper 127.0.0.1/32 cert\n")
    else {
        return;
    };
    cluster.sql("CREATE ROLE keeper LOGIN REPLICATION");
    let Identity { certificate, key } = authority.sign("keeper");
    let certificate = cluster.file("keeper.crt", &certificate);
    let key = cluster.file("keeper.key", &key);
    let settings = || {
        let files = format!("sslcert={} sslkey={}", certificate.display(), key.display());
        cluster.tcp(&format!("user=keeper dbname=postgres sslmode=require {files}"))
    };
    connect(&settings()).unwrap();
    is_session(&settings()).unwrap();

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = refusal(&settings());
    assert!(matches!(error, Error::TlsSettings { .. }), "{error}");
    assert!(error.hint().unwrap().contains(&format!("chmod 0600 {}", key.display())));

    let error = refusal(&cluster.tcp("user=keeper sslmode=require"));
    assert!(matches!(error.cause(), Some(Cause::IdentityRejected)), "{error}");
}

#[test]
fn the_first_host_that_answers_is_taken() {
    let Some(cluster) = Cluster::start() else { return };
    let nobody = cluster.path().join("nobody");
    let connection =
        format!("host={},127.0.0.1 port={} user=postgres dbname=postgres", nobody.display(), cluster.port());
    let settings = cluster.settings(&connection);
    let client = connect(&settings).unwrap();
    assert_eq!(client.server(), format!("server at \"127.0.0.1\", port {}", cluster.port()));
    is_session(&settings).unwrap();
    // Every connection has said goodbye and the server has noticed.
    drop(client);
    cluster.wait_for(
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender')",
    );
}
