//! A server that only pretends: it says what it was given, whatever it is asked. And how to come by what real ones say.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use pgbak::interrupt::Interrupt;
use pgbak::pg::{Lsn, Timeline};
use pgbak::server::{
    BackupEvent, BaseBackupOptions, CheckpointMode, ConnectionSettings, Error, ReplicationClient, WalEvent,
};

use crate::support::Cluster;

/// Of the copied data itself, which is looked at by nobody here.
const DATA_BYTES: usize = 40;

/// More than any mutation makes of what was recorded.
const EVENTS_MAX: usize = 1_000_000;

/// Listens in a directory of its own, on one thread.
pub struct Pretender {
    pub directory: tempfile::TempDir,
    says: Arc<Mutex<Vec<u8>>>,
}

impl Pretender {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let says: Arc<Mutex<Vec<u8>>> = Arc::default();
        let script = Arc::clone(&says);
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let script = script.lock().unwrap().clone();
                let _ = speak(client.unwrap(), &script);
            }
        });
        Self { directory, says }
    }

    /// What the next clients hear.
    pub fn says(&self, bytes: &[u8]) {
        *self.says.lock().unwrap() = bytes.to_vec();
    }

    pub fn settings(&self) -> ConnectionSettings {
        settings(self.directory.path(), 5432)
    }
}

fn speak(mut client: UnixStream, script: &[u8]) -> std::io::Result<()> {
    client.read_exact(&mut [0; 8])?;
    // It may have enough before it has all, and never reads on.
    client.set_write_timeout(Some(Duration::from_secs(1)))?;
    client.write_all(script)?;
    client.shutdown(Shutdown::Write)?;
    client.read_to_end(&mut Vec::new()).map(drop)
}

fn settings(directory: &Path, port: u16) -> ConnectionSettings {
    let connection = format!("host='{}' port={port} user=postgres dbname=postgres", directory.display());
    let nothing = |name: &str| (name == "PGPASSFILE").then(|| "/nonexistent".to_owned());
    ConnectionSettings::resolve(&connection, &nothing).unwrap()
}

/// Everything that pgbak asks a server before and during a base backup.
pub fn take_base_backup(settings: &ConnectionSettings) -> Result<(), Error> {
    let mut client = ReplicationClient::connect(settings, &Interrupt::default())?;
    client.identify_system()?;
    client.segment_size()?;
    let options = BaseBackupOptions {
        label: "torture".to_owned(),
        checkpoint: CheckpointMode::Fast,
        max_rate_bytes_per_second: None,
    };
    let mut backup = client.base_backup(&options)?;
    for _ in 0..EVENTS_MAX {
        if let BackupEvent::Ends(_) = backup.next()? {
            return Ok(());
        }
    }
    panic!("a backup without an end");
}

/// Everything that pgbak asks a server that it streams WAL from.
pub fn stream_wal(settings: &ConnectionSettings, start: Lsn, events: usize) -> Result<(), Error> {
    let mut client = ReplicationClient::connect(settings, &Interrupt::default())?;
    client.identify_system()?;
    let mut stream = client.start_replication(None, start, Timeline::new(1).unwrap())?;
    for _ in 0..events {
        if let Some(WalEvent::EndOfTimeline { .. }) = stream.next(Duration::from_secs(5))? {
            return Ok(());
        }
    }
    stream.stop()
}

/// Where the stream begins that [`record_wal_stream`] records.
pub const WAL_START: Lsn = Lsn(1 << 24);

pub fn record_base_backup(cluster: &Cluster) -> Vec<u8> {
    record(cluster, |settings| take_base_backup(settings).unwrap())
}

/// A stream of a few messages, as if it had begun at [`WAL_START`].
pub fn record_wal_stream(cluster: &Cluster) -> Vec<u8> {
    let segment: u64 = 1 << 20;
    let start = Lsn(cluster.lsn().0 / segment * segment);
    let heard = record(cluster, |settings| stream_wal(settings, start, 2).unwrap());
    let mut position = WAL_START.0;
    let mut script = Vec::new();
    for (tag, body) in messages(&heard) {
        let mut body = body.to_vec();
        if (tag, body.first()) == (b'd', Some(&b'w')) {
            body[1..9].copy_from_slice(&position.to_be_bytes());
            position += (body.len() - 25) as u64;
        }
        script.extend(message(tag, &body));
    }
    script
}

/// What a real server says to `client`, with its data cut short.
fn record(cluster: &Cluster, client: impl FnOnce(&ConnectionSettings)) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
    let server = cluster.sockets().join(format!(".s.PGSQL.{}", cluster.port()));
    let listening = thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = UnixStream::connect(server).unwrap();
        let (mut asked, mut asking) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let to_server = thread::spawn(move || {
            let _ = std::io::copy(&mut asked, &mut asking);
            let _ = asking.shutdown(Shutdown::Write);
        });
        let heard = tee(server, client);
        to_server.join().unwrap();
        heard
    });
    client(&settings(directory.path(), 5432));
    shortened(&listening.join().unwrap())
}

fn tee(mut server: UnixStream, mut client: UnixStream) -> Vec<u8> {
    let (mut heard, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        heard.extend_from_slice(&buffer[..count]);
        if client.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    heard
}

/// The same conversation with a little of the data.
fn shortened(heard: &[u8]) -> Vec<u8> {
    let (mut script, mut in_a_row) = (Vec::new(), 0);
    for (tag, body) in messages(heard) {
        let is_data = tag == b'd' && body.len() > DATA_BYTES;
        in_a_row = if is_data { in_a_row + 1 } else { 0 };
        if in_a_row <= 2 {
            script
                .extend(message(tag, &body[..body.len().min(if is_data { DATA_BYTES } else { usize::MAX })]));
        }
    }
    script
}

fn messages(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut messages = Vec::new();
    while let [tag, a, b, c, d, rest @ ..] = bytes {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize - 4;
        let Some((body, behind)) = rest.split_at_checked(length) else { break };
        messages.push((*tag, body));
        bytes = behind;
    }
    messages
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag], &length[..], body].concat()
}

/// The same backup as servers before 15 send it: a copy for each archive, whose data has no type.
pub fn as_version_14(script: &[u8]) -> Vec<u8> {
    let mut old = Vec::new();
    let mut in_copy = false;
    for (tag, body) in messages(script) {
        let starts_part = tag == b'd' && matches!(body.first(), Some(b'n' | b'm'));
        if in_copy && (starts_part || tag == b'c') {
            old.extend(message(b'c', b""));
            in_copy = false;
        }
        match (tag, body.first()) {
            (b'S', _) if body.starts_with(b"server_version\0") => {
                old.extend(message(b'S', b"server_version\x0014.22\0"));
            }
            (b'd', Some(b'n' | b'm')) => {
                old.extend(message(b'H', &[0, 0, 0]));
                in_copy = true;
            }
            (b'd', Some(b'd')) => old.extend(message(b'd', &body[1..])),
            (b'd', _) | (b'H' | b'c', _) => {}
            _ => old.extend(message(tag, body)),
        }
    }
    old
}
