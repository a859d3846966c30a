//! A long link on one machine: passes TCP on, each byte so many milliseconds later, as fast as it comes.
//!
//! Compiled by `run.sh` with plain `rustc`: `delay LISTEN_PORT TARGET_PORT MILLISECONDS_EACH_WAY`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

const CHUNK_BYTES: usize = 128 << 10;
/// More than any window of SSH is long: the link itself is never what bounds the rate.
const CHUNKS_UNDER_WAY: usize = 4096;

fn main() {
    let numbers: Vec<u16> = std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let [port, target, milliseconds] = numbers[..] else {
        panic!("delay LISTEN_PORT TARGET_PORT MILLISECONDS")
    };
    let delay = Duration::from_millis(milliseconds.into());
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    for near in listener.incoming() {
        let near = near.expect("a connection");
        let far = TcpStream::connect(("127.0.0.1", target)).expect("the target listens");
        for end in [&near, &far] {
            end.set_nodelay(true).expect("a TCP socket");
        }
        let (near_too, far_too) = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
        thread::spawn(move || pass_on(near, far, delay));
        thread::spawn(move || pass_on(far_too, near_too, delay));
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(CHUNKS_UNDER_WAY);
    let writer = thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        if sender.send((Instant::now() + delay, chunk[..length].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = writer.join();
}
