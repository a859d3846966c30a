//! Messages from and to a server: one buffer over one socket.
//!
//! A message is handed out as a piece of the buffer: it is neither copied nor allocated, and is gone with the next
//! [`Stream::receive`]. The buffer grows only for a message that does not fit, up to [`MESSAGE_MAX_BYTES`].

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};

use super::dial::Route;
use super::error::{Error, Result};
use super::settings::ConnectionSettings;
use super::socket::{self, Patience, TICK, Transport, timed_out};
use super::tls;
use crate::interrupt::Interrupt;

/// How long sending may stall; what we send is small.
const SEND_PATIENCE: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 256 << 10;
/// Below this much room at the buffer's end, what is left is moved to its front before reading on.
const ROOM_MIN_BYTES: usize = 64 << 10;
/// PostgreSQL's largest here is 128 KiB; a timeline's history or an error may be longer.
const MESSAGE_MAX_BYTES: usize = 8 << 20;
const HEADER_BYTES: usize = 5;
/// A message of this size comes in several pieces: the server sends 8 KiB at a time.
const LARGE_BYTES: usize = 16 << 10;
/// How long the pieces are left to gather: about as long as the server takes to fill a Unix socket's buffer.
const GATHERING: Duration = Duration::from_micros(100);

/// A message: its tag, and where [`Stream::body`] finds the rest until the next one is received.
#[derive(Debug, Clone)]
pub struct Message {
    pub tag: u8,
    body: Range<usize>,
}

pub struct Stream {
    transport: Transport,
    server: String,
    interrupt: Interrupt,
    read_timeout: Duration,
    /// `buffer[start..end]` is received and not yet handed out.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Stream {
    /// Connects, and encrypts where the route says so.
    pub fn connect(
        route: &Route<'_>,
        settings: &ConnectionSettings,
        interrupt: &Interrupt,
        patience: &mut Patience,
    ) -> Result<Self> {
        Ok(Self {
            transport: socket::connect(route, settings, interrupt, patience)?,
            server: route.to_string(),
            interrupt: interrupt.clone(),
            read_timeout: TICK,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
        })
    }

    pub fn heed(&mut self, interrupt: &Interrupt) {
        self.interrupt = interrupt.clone();
    }

    /// The server, in libpq's words.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The TLS connection's channel binding, if it has one.
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        match &self.transport {
            Transport::Tls(stream) => tls::server_end_point(stream.ssl()),
            Transport::Unix(_) | Transport::Tcp(_) => None,
        }
    }

    /// The next message, or `None` when patience ran out before all of it came.
    pub fn receive(&mut self, patience: &mut Patience) -> Result<Option<Message>> {
        loop {
            let needed_bytes = match frame(&self.buffer[self.start..self.end]) {
                Frame::Whole { tag, length } => {
                    let body = self.start + HEADER_BYTES..self.start + length;
                    self.start += length;
                    return Ok(Some(Message { tag, body }));
                }
                Frame::Part { needed_bytes } => needed_bytes,
                Frame::Impossible { length } => {
                    let found = format!("a message of {length} bytes");
                    return Err(Error::Protocol { server: self.server.clone(), found });
                }
            };
            if !self.read_more(needed_bytes, patience)? {
                return Ok(None);
            }
        }
    }

    /// What is in `message`, which must be the last that was received.
    pub fn body(&self, message: &Message) -> &[u8] {
        &self.buffer[message.body.clone()]
    }

    /// Reads once, making room for a message of `needed_bytes`; `false` when patience ran out.
    fn read_more(&mut self, needed_bytes: usize, patience: &mut Patience) -> Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.start + needed_bytes > self.buffer.len() || self.buffer.len() - self.end < ROOM_MIN_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if needed_bytes > self.buffer.len() {
                self.buffer.resize(needed_bytes, 0);
            }
        }
        loop {
            let Some(slice) = patience.slice() else { return Ok(false) };
            self.set_read_timeout(slice)?;
            match self.transport.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(self.disconnected("it said nothing more")),
                Ok(count) => {
                    self.end += count;
                    self.let_gather(needed_bytes);
                    return Ok(true);
                }
                Err(error) if timed_out(&error) => {
                    self.interrupt.check()?;
                    patience.spend(slice);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.interrupt.check()?,
                Err(error) => return Err(self.disconnected(&error.to_string())),
            }
        }
    }

    /// Lets the rest of a large message, and what follows it, come together instead of waking us piece by piece:
    /// that costs both sides a third of their CPU time.
    fn let_gather(&self, needed_bytes: usize) {
        if needed_bytes >= LARGE_BYTES && self.end - self.start < needed_bytes {
            std::thread::sleep(GATHERING);
        }
    }

    /// Sends all of `bytes`.
    ///
    /// A connection that the server has closed is no error here: what the server said last is more telling, and the
    /// next read finds it.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let mut patience = Patience::new(Some(SEND_PATIENCE));
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.transport.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if timed_out(&error) => {
                    self.interrupt.check()?;
                    patience.spend(TICK);
                    if patience.slice().is_none() {
                        return Err(self.silent("sending", patience.spent()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.interrupt.check()?,
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    pub fn silent(&self, doing: &'static str, waited: Duration) -> Error {
        Error::Timeout { server: self.server.clone(), doing, seconds: waited.as_secs() }
    }

    fn disconnected(&self, reason: &str) -> Error {
        Error::Disconnected { server: self.server.clone(), reason: reason.to_owned() }
    }

    fn set_read_timeout(&mut self, timeout: Duration) -> Result<()> {
        if timeout != self.read_timeout {
            sockopt::set_socket_timeout(self.transport.as_fd(), Timeout::Recv, Some(timeout))
                .map_err(|error| self.disconnected(&error.to_string()))?;
            self.read_timeout = timeout;
        }
        Ok(())
    }
}

/// What the front of the received bytes is.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    /// `length` counts the tag and the length itself.
    Whole {
        tag: u8,
        length: usize,
    },
    Part {
        needed_bytes: usize,
    },
    Impossible {
        length: u32,
    },
}

fn frame(bytes: &[u8]) -> Frame {
    let [tag, a, b, c, d, ..] = *bytes else { return Frame::Part { needed_bytes: HEADER_BYTES } };
    let counted = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(counted) {
        Ok(counted @ 4..=MESSAGE_MAX_BYTES) => match counted + 1 {
            length if length <= bytes.len() => Frame::Whole { tag, length },
            needed_bytes => Frame::Part { needed_bytes },
        },
        _ => Frame::Impossible { length: counted },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::UnixStream;

    fn stream_from(socket: UnixStream) -> Stream {
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(TICK)).unwrap();
        Stream {
            transport: Transport::Unix(socket),
            server: "server".to_owned(),
            interrupt: Interrupt::default(),
            read_timeout: TICK,
            buffer: vec![0; 64],
            start: 0,
            end: 0,
        }
    }

    fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_before_anything_is_allocated() {
        assert_eq!(frame(b"d\0\0\0\x03"), Frame::Impossible { length: 3 });
        assert_eq!(frame(b"d\xFF\xFF\xFF\xFF"), Frame::Impossible { length: u32::MAX });
        let largest = (MESSAGE_MAX_BYTES as u32).to_be_bytes();
        let front = [b"d", &largest[..]].concat();
        assert_eq!(frame(&front), Frame::Part { needed_bytes: MESSAGE_MAX_BYTES + 1 });
        assert_eq!(frame(b"Z\0\0\0\x05"), Frame::Part { needed_bytes: 6 });
        assert_eq!(frame(b"Z\0\0\0\x05I"), Frame::Whole { tag: b'Z', length: 6 });
    }

    #[test]
    fn an_interrupt_ends_a_wait() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut stream = stream_from(ours);
        stream.interrupt.cell().store(2, std::sync::atomic::Ordering::Relaxed);
        let error = stream.receive(&mut Patience::new(None)).unwrap_err();
        assert!(matches!(error, Error::Interrupted(_)), "{error}");
    }

    #[test]
    fn patience_runs_out_and_a_message_may_be_waited_for_again() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = stream_from(ours);
        let whole = framed(b'd', b"payload");
        theirs.write_all(&whole[..7]).unwrap();
        let mut patience = Patience::new(Some(Duration::from_millis(20)));
        assert!(stream.receive(&mut patience).unwrap().is_none());
        assert_eq!(patience.spent(), Duration::from_millis(20));
        theirs.write_all(&whole[7..]).unwrap();
        let message = stream.receive(&mut Patience::new(None)).unwrap().unwrap();
        assert_eq!((message.tag, stream.body(&message)), (b'd', &b"payload"[..]));
        drop(theirs);
        let error = stream.receive(&mut Patience::new(None)).unwrap_err();
        assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            pieces in prop::collection::vec(1..200usize, 1..20),
        ) {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let bytes: Vec<u8> = bodies.iter().flat_map(|body| framed(b'd', body)).collect();
            let writer = std::thread::spawn(move || {
                let mut rest = &bytes[..];
                for piece in pieces.into_iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (now, later) = rest.split_at(piece.min(rest.len()));
                    theirs.write_all(now).unwrap();
                    rest = later;
                }
            });
            let mut stream = stream_from(ours);
            for body in &bodies {
                let message = stream.receive(&mut Patience::new(None)).unwrap().unwrap();
                prop_assert_eq!(stream.body(&message), &body[..]);
            }
            writer.join().unwrap();
        }
    }
}
