//! What a service tells systemd: that it is ready, that it gets on, that it ends.
//!
//! Follows `sd_notify(3)`: datagrams to the socket that `NOTIFY_SOCKET` names, a path or, behind `@`, an abstract name.
//! Without one, nothing is said. The watchdog is answered only while there is something to show for it: bytes that
//! passed, or a pause between two rounds. A run that hangs falls silent, and systemd starts another.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::meter::Meter;

/// How soon the watchdog's thread hears that the service ends.
const NAP: Duration = Duration::from_millis(100);

/// systemd, if it wants to be told.
pub struct Systemd {
    socket: Option<Arc<Socket>>,
    state: Arc<State>,
    watchdog: Option<JoinHandle<()>>,
}

struct Socket {
    datagrams: UnixDatagram,
    address: SocketAddr,
}

#[derive(Default)]
struct State {
    /// For how much longer there is nothing to do, in milliseconds.
    rest_millis: AtomicU64,
    has_ended: AtomicBool,
}

impl Systemd {
    pub fn find(environment: &dyn Fn(&str) -> Option<String>, meter: &Arc<Meter>) -> Self {
        let socket = environment("NOTIFY_SOCKET").and_then(|name| Socket::to(&name)).map(Arc::new);
        let state = Arc::new(State::default());
        let interval = environment("WATCHDOG_USEC").and_then(|micros| micros.parse().ok());
        let watchdog = socket.as_ref().zip(interval).and_then(|(socket, micros)| {
            let watch = Watch {
                socket: Arc::clone(socket),
                state: Arc::clone(&state),
                meter: Arc::clone(meter),
                // Twice in the time that it waits, as sd_watchdog_enabled(3) advises.
                interval: Duration::from_micros(micros) / 2,
            };
            thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch.run()).ok()
        });
        Self { socket, state, watchdog }
    }

    /// The service does its work from now on.
    pub fn is_ready(&self) {
        self.say("READY=1");
    }

    /// A round is done, and the next one begins after `rest`.
    pub fn rests(&self, rest: Duration, status: &str) {
        self.state.rest_millis.store(rest.as_millis() as u64, Ordering::Relaxed);
        // One line, as each line is an assignment.
        let status = status.lines().next().unwrap_or_default();
        self.say(&format!("WATCHDOG=1\nSTATUS={status}"));
    }

    fn say(&self, message: &str) {
        if let Some(socket) = &self.socket {
            socket.say(message);
        }
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.say("STOPPING=1");
        self.state.has_ended.store(true, Ordering::Relaxed);
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
    }
}

impl Socket {
    fn to(name: &str) -> Option<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok()?,
            None => SocketAddr::from_pathname(name).ok()?,
        };
        Some(Self { datagrams: UnixDatagram::unbound().ok()?, address })
    }

    fn say(&self, message: &str) {
        // Who does not listen need not be told.
        let _ = self.datagrams.send_to_addr(message.as_bytes(), &self.address);
    }
}

struct Watch {
    socket: Arc<Socket>,
    state: Arc<State>,
    meter: Arc<Meter>,
    interval: Duration,
}

impl Watch {
    fn run(self) {
        let mut seen = 0;
        let mut waited = Duration::ZERO;
        let nap = NAP.min(self.interval);
        while !self.state.has_ended.load(Ordering::Relaxed) {
            thread::sleep(nap);
            waited += nap;
            let rest = self.state.rest_millis.load(Ordering::Relaxed);
            self.state.rest_millis.store(rest.saturating_sub(nap.as_millis() as u64), Ordering::Relaxed);
            if waited < self.interval {
                continue;
            }
            waited = Duration::ZERO;
            let done = self.meter.done_bytes();
            if done != seen || rest > 0 {
                self.socket.say("WATCHDOG=1");
            }
            seen = done;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listener, and what it hears next.
    struct Listener {
        directory: tempfile::TempDir,
        socket: UnixDatagram,
    }

    impl Listener {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            Self { directory, socket }
        }

        fn heard(&self) -> String {
            let mut buffer = [0; 1000];
            let length = self.socket.recv(&mut buffer).expect("something is said");
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        }

        fn environment(&self) -> impl Fn(&str) -> Option<String> {
            let path = self.directory.path().join("notify").to_str().unwrap().to_owned();
            move |name| match name {
                "NOTIFY_SOCKET" => Some(path.clone()),
                "WATCHDOG_USEC" => Some("20000".to_owned()),
                _ => None,
            }
        }
    }

    #[test]
    fn systemd_hears_that_a_service_is_ready_and_that_it_ends() {
        let listener = Listener::new();
        let systemd = Systemd::find(&listener.environment(), &Arc::default());
        systemd.is_ready();
        assert_eq!(listener.heard(), "READY=1");
        systemd.rests(Duration::from_secs(60), "3 segments copied\nmore");
        assert_eq!(listener.heard(), "WATCHDOG=1\nSTATUS=3 segments copied");
        assert_eq!(listener.heard(), "WATCHDOG=1", "it rests");
        drop(systemd);
        while listener.heard() != "STOPPING=1" {}
    }

    #[test]
    fn the_watchdog_is_answered_only_for_progress() {
        let listener = Listener::new();
        let meter = Arc::new(Meter::default());
        let systemd = Systemd::find(&listener.environment(), &meter);
        meter.add(1);
        assert_eq!(listener.heard(), "WATCHDOG=1");
        listener.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(listener.socket.recv(&mut [0; 100]).is_err(), "nothing has passed since");
        drop(systemd);
    }

    #[test]
    fn without_systemd_nothing_is_said() {
        let systemd = Systemd::find(&|_| None, &Arc::default());
        systemd.is_ready();
        assert!(systemd.watchdog.is_none());
    }
}
