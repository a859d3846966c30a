//! A socket to a server, perhaps with TLS over it: how it is made, and how waiting for it is bounded.
//!
//! Nothing waits in one piece: every system call ends after at most [`TICK`], so that an interrupt is noticed, and
//! no clock is read, because the calls that timed out are counted ([`Patience`]).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use openssl::ssl::{HandshakeError, SslStream};
use openssl::x509::X509VerifyResult;
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
pub const TICK: Duration = Duration::from_millis(500);

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
    pub fn slice(&self) -> Option<Duration> {
        match self.left {
            None => Some(TICK),
            Some(Duration::ZERO) => None,
            Some(left) => Some(left.min(TICK)),
        }
    }

    pub fn spend(&mut self, slice: Duration) {
        self.spent += slice;
        self.left = self.left.map(|left| left.saturating_sub(slice));
    }
}

/// Its receive and send timeouts are [`TICK`] until somebody sets others.
pub enum Transport {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

/// A receive or send timeout ran out.
pub fn timed_out(error: &io::Error) -> bool {
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

/// Connects, and encrypts where the route says so.
pub fn connect(
    route: &Route<'_>,
    settings: &ConnectionSettings,
    interrupt: &Interrupt,
    patience: &mut Patience,
) -> Result<Transport> {
    let server = route.to_string();
    let mut waiting = Waiting { server: &server, interrupt, patience };
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

fn unix_address(path: &Path) -> rustix::io::Result<SocketAddrUnix> {
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
                let reason = match verified == X509VerifyResult::OK {
                    true => handshake.error().to_string(),
                    false => format!("its certificate is not acceptable: {verified}"),
                };
                return Err(Error::TlsHandshake { server, reason });
            }
            Err(HandshakeError::SetupFailure(error)) => return Err(unusable(error.into())),
        }
    }
}
