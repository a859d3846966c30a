//! The proxy does to a connection what it says, and nothing else.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::process::PATIENCE;
use crate::support::{Ending, Proxy, wait_until};

/// A server that sends back what it receives, to its end.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    port
}

/// One that keeps what it receives until the connection ends.
fn collector() -> (u16, crossbeam_channel::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, receive) = crossbeam_channel::unbounded();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            if send.send(bytes).is_err() {
                return;
            }
        }
    });
    (port, receive)
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Every position is told from its neighbours.
fn sample(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Sends `bytes` through an echo, and returns what comes back.
fn sent_and_returned(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let stream = connect(proxy);
    let mut returned = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        (&stream).read_to_end(&mut returned).unwrap();
    });
    returned
}

#[test]
fn bytes_come_through_in_order_whatever_their_pace() {
    let proxy = Proxy::to(echo());
    let large = sample(5 << 20);
    assert!(sent_and_returned(&proxy, &large) == large);
    proxy.delay(Duration::from_millis(5));
    assert!(sent_and_returned(&proxy, &large) == large);
    proxy.heal();
    proxy.throttle(2 << 20);
    let small = sample(100_000);
    assert!(sent_and_returned(&proxy, &small) == small);
    assert_eq!((proxy.accepted(), proxy.cuts()), (3, 0));
}

#[test]
fn a_cut_comes_after_exactly_so_many_uploaded_bytes() {
    let (port, received) = collector();
    let proxy = Proxy::to(port);
    let bytes = sample(300_000);
    for (after_bytes, ending) in [(1, Ending::Close), (100_001, Ending::Close), (200_000, Ending::Reset)] {
        proxy.cut_every(after_bytes, ending);
        for _ in 0..2 {
            let mut stream = connect(&proxy);
            let _ = stream.write_all(&bytes);
            let rest = stream.read(&mut [0]);
            match ending {
                Ending::Close => assert!(!matches!(rest, Ok(1..)), "{rest:?}"),
                Ending::Reset => assert_eq!(rest.unwrap_err().kind(), io::ErrorKind::ConnectionReset),
            }
            let received = received.recv().unwrap();
            match ending {
                Ending::Close => assert!(received == bytes[..after_bytes as usize], "{after_bytes}"),
                // A reset takes with it what was not read yet.
                Ending::Reset => {
                    assert!(bytes[..after_bytes as usize].starts_with(&received), "{after_bytes}")
                }
            }
        }
    }
    assert_eq!(proxy.cuts(), 6);
    proxy.cut_times(10, Ending::Close, 1);
    for length in [10, 300_000] {
        let _ = connect(&proxy).write_all(&bytes);
        assert_eq!(received.recv().unwrap().len(), length);
    }
}

#[test]
fn a_stall_keeps_everything_until_it_heals() {
    let proxy = Proxy::to(echo());
    let mut before = connect(&proxy);
    before.write_all(b"a").unwrap();
    before.read_exact(&mut [0]).unwrap();
    proxy.stall();
    let mut during = connect(&proxy);
    for stream in [&mut before, &mut during] {
        stream.write_all(b"b").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let silence = stream.read(&mut [0]).unwrap_err();
        assert_eq!(silence.kind(), io::ErrorKind::WouldBlock, "no reset and no end: {silence}");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    proxy.heal();
    for stream in [&mut before, &mut during] {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"b");
    }
}

#[test]
fn a_stranded_connection_is_silent_for_ever_and_a_new_one_is_not() {
    let proxy = Proxy::to(echo());
    let mut before = connect(&proxy);
    before.write_all(b"a").unwrap();
    before.read_exact(&mut [0]).unwrap();
    proxy.strand();
    assert_eq!(sent_and_returned(&proxy, b"new"), b"new");
    proxy.heal();
    before.write_all(b"b").unwrap();
    before.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(before.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_stall_comes_after_exactly_so_many_uploaded_bytes() {
    let (port, received) = collector();
    let proxy = Proxy::to(port);
    proxy.stall_after(100_001);
    let mut stream = connect(&proxy);
    stream.write_all(&sample(150_000)).unwrap();
    wait_until("the stall", || proxy.is_stalled() && proxy.uploaded_bytes() >= 100_001);
    proxy.cut_now(Ending::Close);
    assert!(received.recv().unwrap() == sample(150_000)[..100_001]);
}

#[test]
fn who_is_refused_knows_at_once_and_is_welcome_when_it_heals() {
    let proxy = Proxy::to(echo());
    let mut before = connect(&proxy);
    proxy.refuse();
    let refused = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    before.write_all(b"x").unwrap();
    before.read_exact(&mut [0]).unwrap();
    proxy.cut_now(Ending::Reset);
    assert_eq!(before.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    proxy.heal();
    assert_eq!(sent_and_returned(&proxy, b"again"), b"again");
}
