//! Servers that only pretend to be PostgreSQL: what they send never hangs, crashes or fills the memory.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use pgbak::interrupt::Interrupt;
use pgbak::server::{ConnectionSettings, Error, ReplicationClient};

/// Why connecting fails to a server that reads the startup message, sends `bytes` and then does `afterwards`.
fn refused_by(bytes: &[u8], afterwards: fn(&mut UnixStream)) -> Error {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
    let connection = format!("host={} user=u password=p connect_timeout=2", directory.path().display());
    let settings = ConnectionSettings::resolve(&connection, &|_| None).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut client, _) = listener.accept().unwrap();
            let mut startup = [0; 8];
            client.read_exact(&mut startup).unwrap();
            // The client may have enough before it has all.
            let _ = client.write_all(bytes);
            afterwards(&mut client);
        });
        ReplicationClient::connect(&settings, &Interrupt::default()).err().expect("must be refused")
    })
}

fn hang_up(_: &mut UnixStream) {}

/// Says nothing more until the client leaves.
fn stay_silent(client: &mut UnixStream) {
    let _ = client.read_to_end(&mut Vec::new());
}

const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0";

#[test]
fn impossible_lengths_are_refused_at_once() {
    for bytes in
        [&b"R\xFF\xFF\xFF\xFF"[..], b"R\x7F\xFF\xFF\xFF", b"E\0\0\0\0", b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    {
        let error = refused_by(bytes, stay_silent);
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
}

#[test]
fn a_message_that_is_cut_off_is_a_lost_connection() {
    for bytes in [&b""[..], b"R", b"R\0\0\0\x08\0\0", WELCOME] {
        let error = refused_by(bytes, hang_up);
        assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    }
}

#[test]
fn silence_ends_with_the_connect_timeout() {
    let begun = Instant::now();
    let error = refused_by(b"", stay_silent);
    assert!(matches!(error, Error::Timeout { seconds: 2, .. }), "{error}");
    assert!((1.5..4.0).contains(&begun.elapsed().as_secs_f64()));
}

#[test]
fn old_servers_and_other_methods_are_refused_by_name() {
    let old = [WELCOME, b"S\0\0\0\x19server_version\x0012.22\0"].concat();
    let error = refused_by(&old, stay_silent).to_string();
    assert!(error.ends_with("runs PostgreSQL 12.22; pgbak supports 13 to 18"), "{error}");
    let error = refused_by(b"R\0\0\0\x08\0\0\0\x07", stay_silent).to_string();
    assert!(error.ends_with("asks for GSSAPI authentication, which pgbak cannot do"), "{error}");
}

#[test]
fn what_comes_out_of_turn_is_refused() {
    let ready = b"Z\0\0\0\x05I";
    for bytes in [
        &ready[..],
        b"R\0\0\0\x04",
        b"R\0\0\0\x0C\0\0\0\x0Cv=AA",
        b"d\0\0\0\x05x",
        &[WELCOME, WELCOME].concat(),
        &[WELCOME, ready].concat(),
        b"E\0\0\0\x07Sxx",
        b"S\0\0\0\x06ab",
    ] {
        let error = refused_by(bytes, stay_silent);
        assert!(matches!(error, Error::Protocol { .. }), "{bytes:?}: {error}");
    }
    let flood = b"N\0\0\0\x05\0".repeat(20_000);
    let error = refused_by(&flood, stay_silent);
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}
