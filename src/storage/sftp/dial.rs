//! A TCP connection to the server, made without blocking, and kept from hanging on a peer that is gone.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::super::ErrorKind;
use super::failure::{Attempt, Failure};
use super::waiting::{SLICE, Waiting};

/// For one address.
const CONNECT: Duration = Duration::from_secs(10);

/// The kernel gives up on bytes that the other end has not taken for so long.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Tries every address of the host.
pub fn dial(host: &str, port: u16, waiting: &Waiting) -> Attempt<TcpStream> {
    waiting.check()?;
    let mut failure = Failure::lost(format!("{host} has no address"));
    for address in addresses(host, port)? {
        match connect(address, &mut waiting.at_most(CONNECT)) {
            Ok(socket) => return Ok(socket),
            Err(Failure::Lost { reason }) => {
                failure = Failure::lost(format!("connecting to {address}: {reason}"))
            }
            Err(other) => return Err(other),
        }
    }
    Err(failure)
}

fn addresses(host: &str, port: u16) -> Attempt<Vec<SocketAddr>> {
    match (host, port).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        // The library gives the resolver's words only.
        Err(error) if error.to_string().contains("Temporary failure") => {
            Err(Failure::lost(error.to_string()))
        }
        Err(error) => Err(Failure::Refused {
            kind: ErrorKind::Other,
            reason: error.to_string(),
            hint: Some(
                "Check the host's name in the repository's `url`; `~/.ssh/config` is not read.".into(),
            ),
        }),
    }
}

fn connect(address: SocketAddr, waiting: &mut Waiting) -> Attempt<TcpStream> {
    let lost = |error: Errno| Failure::lost(std::io::Error::from(error).to_string());
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(lost)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS | Errno::INTR) => {
            let mut sockets = [PollFd::new(&socket, PollFlags::OUT)];
            while is_quiet(&mut sockets)? {
                waiting.waited()?;
            }
            sockopt::socket_error(&socket).and_then(|outcome| outcome).map_err(lost)?;
        }
        Err(error) => return Err(lost(error)),
    }
    let keep_alive = || {
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, Duration::from_secs(15))?;
        sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(5))?;
        sockopt::set_tcp_keepcnt(&socket, 3)?;
        sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED.as_millis() as u32)
    };
    keep_alive().map_err(lost)?;
    Ok(socket.into())
}

/// Whether nothing happened for one [`SLICE`].
pub fn is_quiet(sockets: &mut [PollFd<'_>]) -> Attempt<bool> {
    let slice = Timespec { tv_sec: 0, tv_nsec: SLICE.subsec_nanos().into() };
    match poll(sockets, Some(&slice)) {
        Ok(ready) => Ok(ready == 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(Failure::lost(std::io::Error::from(error).to_string())),
    }
}
