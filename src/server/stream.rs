//! The bytes between us and a server: a socket, perhaps with TLS over it, and one buffer of messages.
//!
//! Nothing waits in one piece: every system call ends after at most [`TICK`], so that an interrupt is noticed, and
//! no clock is read, because the calls that timed out are counted ([`Patience`]).
//!
//! A message is handed out as a piece of the buffer: it is neither copied nor allocated, and is gone with the next
//! [`Stream::receive`]. The buffer grows only for a message that does not fit, up to [`MESSAGE_MAX_BYTES`].

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use openssl::ssl::{HandshakeError, SslStream};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::dial::{Address, Encryption, Route};
use super::error::{Error, Result};
use super::messages;
use super::settings::ConnectionSettings;
use super::tls;
use crate::interrupt::Interrupt;

/// The longest wait in the operating system.
const TICK: Duration = Duration::from_millis(500);
/// How long sending may stall; what we send is small.
const SEND_PATIENCE: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 256 << 10;
/// Below this much room at the buffer's end, what is left is moved to its front before reading on.
const ROOM_MIN_BYTES: usize = 64 << 10;
/// PostgreSQL's largest here is 128 KiB; a timeline's history or an error may be longer.
const MESSAGE_MAX_BYTES: usize = 8 << 20;
const HEADER_BYTES: usize = 5;

/// How much longer to wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// `None` waits for ever.
    left: Option<Duration>,
    spent: Duration,
}

impl Patience {
    pub fn new(limit: Option<Duration>) -> Self {
        Self { left: limit, spent: Duration::ZERO }
    }

    pub fn spent(&self) -> Duration {
        self.spent
    }

    /// How long the next system call may take; `None` when no patience is left.
    fn slice(&self) -> Option<Duration> {
        match self.left {
            None => Some(TICK),
            Some(Duration::ZERO) => None,
            Some(left) => Some(left.min(TICK)),
        }
    }

    fn spend(&mut self, slice: Duration) {
        self.spent += slice;
        self.left = self.left.map(|left| left.saturating_sub(slice));
    }
}

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

enum Transport {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

impl Stream {
    /// Connects, and encrypts where the route says so.
    pub fn connect(
        route: &Route<'_>,
        settings: &ConnectionSettings,
        interrupt: &Interrupt,
        patience: &mut Patience,
    ) -> Result<Self> {
        let server = route.to_string();
        let waiting = Waiting { server: &server, interrupt, patience };
        let transport = connect(route, settings, waiting)?;
        Ok(Self {
            transport,
            server,
            interrupt: interrupt.clone(),
            read_timeout: TICK,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
        })
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

/// A receive or send timeout ran out.
fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
            Self::Tls(stream) => stream.get_ref().as_fd(),
        }
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            Self::Tcp(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(bytes),
            Self::Tcp(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What every wait while connecting looks at.
struct Waiting<'a> {
    server: &'a str,
    interrupt: &'a Interrupt,
    patience: &'a mut Patience,
}

impl Waiting<'_> {
    /// Takes note that a system call ran out of its time.
    fn waited(&mut self, doing: &'static str) -> Result<()> {
        self.interrupt.check()?;
        self.patience.spend(TICK);
        match self.patience.slice() {
            Some(_) => Ok(()),
            None => {
                let seconds = self.patience.spent().as_secs();
                Err(Error::Timeout { server: self.server.to_owned(), doing, seconds })
            }
        }
    }

    fn unreachable(&self, source: io::Error) -> Error {
        Error::Unreachable { server: self.server.to_owned(), source }
    }
}

fn connect(route: &Route<'_>, settings: &ConnectionSettings, mut waiting: Waiting<'_>) -> Result<Transport> {
    let family = match &route.address {
        Address::Socket(_) => AddressFamily::UNIX,
        Address::Tcp(address) if address.is_ipv4() => AddressFamily::INET,
        Address::Tcp(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| prepare(socket, route, settings))
        .map_err(|error| waiting.unreachable(error.into()))?;
    loop {
        let attempt = match &route.address {
            Address::Socket(path) => {
                unix_address(path).and_then(|address| rustix::net::connect(&socket, &address))
            }
            Address::Tcp(address) => rustix::net::connect(&socket, address),
        };
        match attempt {
            Ok(()) | Err(Errno::ISCONN) => break,
            // The send timeout also ends a connect() that waits; calling it again waits on.
            Err(Errno::INPROGRESS | Errno::ALREADY | Errno::AGAIN) => waiting.waited("connecting")?,
            Err(Errno::INTR) => waiting.interrupt.check()?,
            Err(error) => return Err(waiting.unreachable(error.into())),
        }
    }
    match (&route.address, route.encryption) {
        (Address::Socket(_), _) => Ok(Transport::Unix(socket.into())),
        (Address::Tcp(_), Encryption::Plain) => Ok(Transport::Tcp(socket.into())),
        (Address::Tcp(_), Encryption::Tls) => encrypt(socket.into(), route, settings, waiting),
    }
}

fn unix_address(path: &std::path::Path) -> rustix::io::Result<SocketAddrUnix> {
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        None => SocketAddrUnix::new(path),
    }
}

/// Timeouts and keepalives. The receive buffer is left alone: Linux lets TCP's grow further than it lets us ask for,
/// and a Unix socket has only the sender's.
fn prepare(socket: OwnedFd, route: &Route<'_>, settings: &ConnectionSettings) -> rustix::io::Result<OwnedFd> {
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(TICK))?;
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(TICK))?;
    if let Address::Tcp(_) = route.address {
        sockopt::set_tcp_nodelay(&socket, true)?;
        if let Some(keepalive) = settings.keepalive {
            sockopt::set_socket_keepalive(&socket, true)?;
            sockopt::set_tcp_keepidle(&socket, keepalive.idle)?;
            sockopt::set_tcp_keepintvl(&socket, keepalive.interval)?;
            sockopt::set_tcp_keepcnt(&socket, keepalive.count)?;
        }
        if let Some(timeout) = settings.tcp_user_timeout {
            sockopt::set_tcp_user_timeout(&socket, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))?;
        }
    }
    Ok(socket)
}

/// Asks for TLS and shakes hands.
///
/// The server's answer is read as exactly one byte: were more read, somebody in between could smuggle in plain
/// bytes that would later be taken for encrypted ones.
fn encrypt(
    mut socket: TcpStream,
    route: &Route<'_>,
    settings: &ConnectionSettings,
    mut waiting: Waiting<'_>,
) -> Result<Transport> {
    let unusable = |source| Error::TlsSettings { server: route.to_string(), source };
    let connector = tls::connector(&settings.tls).map_err(unusable)?;
    let mut configuration = connector.configure().map_err(|error| unusable(error.into()))?;
    tls::configure(&mut configuration, &settings.tls);

    socket.write_all(&messages::SSL_REQUEST).map_err(|error| waiting.unreachable(error))?;
    let mut answer = [0];
    loop {
        match socket.read(&mut answer) {
            Ok(0) => return Err(waiting.unreachable(io::ErrorKind::ConnectionReset.into())),
            Ok(_) => break,
            Err(error) if timed_out(&error) => waiting.waited("asking for TLS")?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => waiting.interrupt.check()?,
            Err(error) => return Err(waiting.unreachable(error)),
        }
    }
    let server = route.to_string();
    match answer[0] {
        b'S' => {}
        b'N' => return Err(Error::TlsNotOffered { server }),
        byte => {
            return Err(Error::Protocol {
                server,
                found: format!("byte {byte:#04x} in answer to the wish for TLS"),
            });
        }
    }
    let mut attempt = configuration.connect(&route.certificate_name(), socket);
    loop {
        match attempt {
            Ok(stream) => return Ok(Transport::Tls(Box::new(stream))),
            Err(HandshakeError::WouldBlock(handshake)) => {
                waiting.waited("shaking hands for TLS")?;
                attempt = handshake.handshake();
            }
            Err(HandshakeError::Failure(handshake)) => {
                let verified = handshake.ssl().verify_result();
                let reason = match verified == openssl::x509::X509VerifyResult::OK {
                    true => handshake.error().to_string(),
                    false => format!("its certificate is not acceptable: {verified}"),
                };
                return Err(Error::TlsHandshake { server, reason });
            }
            Err(HandshakeError::SetupFailure(error)) => return Err(unusable(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
