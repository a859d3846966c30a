//! WAL, streamed.

use std::fs;
use std::time::Duration;

use pgbak::pg::{Lsn, SegmentName, SegmentSize, Timeline};
use pgbak::server::{Cause, Error, ReplicationClient, WalEvent, WalStream};

use crate::cluster::Cluster;
use crate::connect;

const MOMENT: Duration = Duration::from_millis(200);

/// The bytes from `start` to `end`; the stream stands at `end` or behind it.
fn receive(stream: &mut WalStream<'_>, start: Lsn, end: Lsn) -> Vec<u8> {
    let mut received = Vec::new();
    for _ in 0..10_000 {
        if received.len() as u64 >= end - start {
            received.truncate((end - start) as usize);
            return received;
        }
        if let Some(event) = stream.next(MOMENT).unwrap() {
            let WalEvent::Data { start: at, bytes } = event else { panic!("{event:?}") };
            assert_eq!(at, start + received.len() as u64);
            received.extend(bytes);
        }
    }
    panic!("the WAL does not come");
}

fn lsn(cluster: &Cluster, sql: &str) -> Lsn {
    cluster.sql(sql).parse().unwrap()
}

#[test]
fn streamed_wal_is_what_the_server_has_written() {
    let Some(cluster) = Cluster::start() else { return };
    let size = SegmentSize::DEFAULT;
    for settings in [cluster.local(""), cluster.tcp("")] {
        let mut client = connect(&settings).unwrap();
        assert_eq!(client.segment_size().unwrap(), size);
        client.create_temporary_slot("pgbak_test").unwrap();
        let identity = client.identify_system().unwrap();
        let segment = SegmentName::holding(identity.flush_lsn, identity.timeline, size);

        let mut stream =
            client.start_replication(Some("pgbak_test"), segment.start(size), identity.timeline).unwrap();
        cluster.sql("CREATE TABLE IF NOT EXISTS t (id int); INSERT INTO t SELECT generate_series(1, 100000)");
        lsn(&cluster, "SELECT pg_switch_wal()");
        let received = receive(&mut stream, segment.start(size), segment.end(size));
        let file = cluster.data().join("pg_wal").join(segment.file_name(size).to_string());
        assert!(received == fs::read(file).unwrap());

        let end = segment.end(size);
        stream.report(end, end, end).unwrap();
        let flushed =
            format!("SELECT flush_lsn = '{end}' FROM pg_stat_replication WHERE application_name = 'pgbak'");
        cluster.wait_for(&flushed);
        cluster.wait_for(&format!("SELECT restart_lsn = '{end}' FROM pg_replication_slots"));
        stream.stop().unwrap();

        client.identify_system().unwrap();
        drop(client);
        cluster.wait_for("SELECT count(*) = 0 FROM pg_replication_slots");
    }
}

#[test]
fn a_silent_stream_returns_in_time_and_is_kept_alive() {
    let Some(cluster) = Cluster::start_with("wal_sender_timeout = 1s\n", "") else { return };
    let mut client = connect(&cluster.local("")).unwrap();
    let identity = client.identify_system().unwrap();
    let mut stream = client.start_replication(None, identity.flush_lsn, identity.timeline).unwrap();
    // Three times as long as the server suffers a client that does not answer.
    for _ in 0..15 {
        while stream.next(MOMENT).unwrap().is_some() {}
    }
    cluster.sql("CREATE TABLE t ()");
    let end = lsn(&cluster, "SELECT pg_current_wal_flush_lsn()");
    receive(&mut stream, identity.flush_lsn, end);
    stream.stop().unwrap();
}

#[test]
fn a_timelines_end_names_the_next() {
    let Some(primary) = Cluster::start() else { return };
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    let cluster = Cluster::standby_of(&primary);
    cluster.control(&["-w", "promote"]);
    cluster.sql("CREATE TABLE u ()");

    let mut client = connect(&cluster.local("")).unwrap();
    let second = client.identify_system().unwrap().timeline;
    assert_eq!(second.get(), 2);
    let history = String::from_utf8(client.timeline_history(second).unwrap()).unwrap();
    let switched: Lsn = history.split_whitespace().nth(1).unwrap().parse().unwrap();

    let size = SegmentSize::DEFAULT;
    let start = SegmentName::holding(switched, Timeline::FIRST, size).start(size);
    let ended = WalEvent::EndOfTimeline { next: second, switch_lsn: switched };
    let mut stream = client.start_replication(None, start, Timeline::FIRST).unwrap();
    receive(&mut stream, start, switched);
    assert_eq!(stream.next(Duration::from_secs(10)).unwrap(), Some(ended));
    stream.stop().unwrap();

    // From the very switch point on there is nothing of the old timeline left to stream.
    let mut stream = client.start_replication(None, switched, Timeline::FIRST).unwrap();
    assert_eq!(stream.next(MOMENT).unwrap(), Some(ended));
    let mut stream = client.start_replication(None, start, second).unwrap();
    receive(&mut stream, start, switched);
    stream.stop().unwrap();

    // The old timeline has no history.
    let error = client.timeline_history(Timeline::FIRST).unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
}

#[test]
fn a_shutdown_ends_the_stream_with_an_error() {
    let Some(cluster) = Cluster::start() else { return };
    let mut client = connect(&cluster.local("")).unwrap();
    let identity = client.identify_system().unwrap();
    let mut stream = client.start_replication(None, identity.flush_lsn, identity.timeline).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.control(&["-w", "-m", "fast", "stop"]));
        let mut position = identity.flush_lsn;
        let error = loop {
            match stream.next(MOMENT) {
                Ok(Some(WalEvent::Data { start, bytes })) => position = start + bytes.len() as u64,
                Ok(Some(event)) => panic!("{event:?}"),
                // The server waits until its last WAL is safe.
                Ok(None) => stream.report(position, position, position).unwrap(),
                Err(error) => break error,
            }
        };
        let told = matches!(error, Error::Disconnected { .. }) || error.cause() == Some(&Cause::ShuttingDown);
        assert!(told, "{error}");
    });
}

#[test]
fn slots_and_wal_that_are_not_there_are_named() {
    let Some(cluster) = Cluster::start() else { return };
    let mut client: ReplicationClient = connect(&cluster.local("")).unwrap();
    let identity = client.identify_system().unwrap();
    let error =
        client.start_replication(Some("missing"), identity.flush_lsn, identity.timeline).err().unwrap();
    assert_eq!(error.cause(), Some(&Cause::SlotMissing), "{error}");
    // Every initdb begins in the segment after the first.
    let mut stream = client.start_replication(None, Lsn(0), identity.timeline).unwrap();
    let error = stream.next(Duration::from_secs(10)).unwrap_err();
    assert_eq!(error.cause(), Some(&Cause::WalRemoved), "{error}");
}
