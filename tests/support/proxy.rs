//! A network that can be made bad: a TCP proxy in threads of the test, on a loopback port of its own.
//!
//! Each direction of a connection has a reader and a writer with a long queue between them. What is read is due one
//! delay later, so a delay costs latency and no throughput. The writer holds back, spaces out and cuts.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

use super::process::wait_for;

const CHUNK_BYTES: usize = 64 << 10;

/// How much is under way in each direction: 64 MiB, the product of 3 GB/s and 20 ms.
const QUEUE_CHUNKS: usize = 1024;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As when a firewall forgets it: both sides get a reset.
    Reset,
    /// As when a process ends: both sides read the end of the stream.
    Close,
}

/// Dropping it ends every connection.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    port: u16,
    target: u16,
    state: Mutex<State>,
    /// Told of every change of `state`, and of every end of a connection.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    faults: Faults,
    connections: Vec<Weak<Connection>>,
    listening: bool,
    /// Whose connection tells the acceptor that all before it were accepted.
    last: Option<SocketAddr>,
    over: bool,
    accepted: usize,
    cuts: u64,
    uploaded_bytes: u64,
    pieces: Vec<Vec<u64>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    delay: Duration,
    /// Per second, each direction of each connection.
    bytes_max: Option<u64>,
    cut: Option<Cut>,
    /// Of all connections together.
    upload_bytes_left: Option<u64>,
    /// What stalls; `None` is both.
    stalled_way: Option<Direction>,
    stalled: bool,
    refusing: bool,
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    after_bytes: u64,
    ending: Ending,
    times_left: u64,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    is_cut: AtomicBool,
    is_stranded: AtomicBool,
    /// Which one it is, from 0.
    number: usize,
    uploaded_bytes: AtomicU64,
}

/// From the client to the server, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

impl Proxy {
    /// A faultless way to `target`, a port of this machine.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface is up");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Mutex::new(State { listening: true, ..State::default() });
        let shared = Arc::new(Shared { port, target, state, changed: Condvar::new() });
        let for_acceptor = Arc::clone(&shared);
        let acceptor = Some(thread::spawn(move || for_acceptor.accept(listener)));
        Self { port, shared, acceptor }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Each byte arrives that much later, in each direction: half the round trip's time.
    pub fn delay(&self, one_way: Duration) {
        self.set(|faults| faults.delay = one_way);
    }

    /// Lets so many bytes through per second, in each direction of each connection.
    pub fn throttle(&self, bytes_per_second: u64) {
        assert!(bytes_per_second > 0, "stall it instead");
        self.set(|faults| faults.bytes_max = Some(bytes_per_second));
    }

    /// Cuts each connection once it has uploaded that much, to the byte.
    pub fn cut_every(&self, after_bytes: u64, ending: Ending) {
        self.cut_times(after_bytes, ending, u64::MAX);
    }

    /// The same, and lets all through after that many cuts.
    pub fn cut_times(&self, after_bytes: u64, ending: Ending, times: u64) {
        self.set(|faults| faults.cut = Some(Cut { after_bytes, ending, times_left: times }));
    }

    /// Cuts every connection; new ones are let through.
    pub fn cut_now(&self, ending: Ending) {
        let connections = self.shared.connections();
        connections.iter().for_each(|connection| self.shared.cut(connection, ending));
    }

    /// Accepts and keeps connections but forwards nothing more, without a word.
    pub fn stall(&self) {
        self.set(|faults| faults.stalled = true);
    }

    /// Forgets the connections that there are, as a router that was restarted does: nothing more is forwarded on them,
    /// and nothing said. New ones are let through.
    pub fn strand(&self) {
        for connection in self.shared.connections() {
            connection.is_stranded.store(true, Ordering::Relaxed);
        }
    }

    /// The same as [`Proxy::stall`], once all connections together have uploaded that many bytes more.
    pub fn stall_after(&self, bytes: u64) {
        self.set(|faults| faults.upload_bytes_left = Some(bytes));
    }

    /// The same, in one direction alone: the other side is heard, and does not hear.
    pub fn stall_one_way_after(&self, bytes: u64, way: Direction) {
        self.set(|faults| (faults.upload_bytes_left, faults.stalled_way) = (Some(bytes), Some(way)));
    }

    /// How many bytes a connection had uploaded after each piece that came at once, for each connection in turn.
    pub fn uploaded_pieces(&self) -> Vec<Vec<u64>> {
        self.shared.lock().pieces.clone()
    }

    pub fn is_stalled(&self) -> bool {
        self.shared.lock().faults.is_stalled()
    }

    /// Nobody listens any more; connections that there are go on.
    pub fn refuse(&self) {
        self.set(|faults| faults.refusing = true);
        // The last one that gets in: with it the acceptor closes its ear.
        let last = TcpStream::connect(("127.0.0.1", self.port)).expect("the proxy listens");
        self.shared.lock().last = last.local_addr().ok();
        self.shared.changed.notify_all();
        self.shared.wait_while(|state| state.listening);
    }

    /// All faults end. What was held back arrives.
    pub fn heal(&self) {
        self.set(|faults| *faults = Faults::default());
        self.shared.wait_while(|state| !state.listening);
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.lock().cuts
    }

    /// How many bytes all connections together have uploaded.
    pub fn uploaded_bytes(&self) -> u64 {
        self.shared.lock().uploaded_bytes
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.lock().faults);
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.cut_now(Ending::Close);
        let acceptor = self.acceptor.take().expect("it is dropped once");
        let ended = acceptor.join();
        assert!(ended.is_ok() || thread::panicking(), "the proxy's acceptor panicked");
        // One that the acceptor had in its hands.
        self.cut_now(Ending::Close);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) {
        let patience = super::process::PATIENCE;
        let waiting = self.changed.wait_timeout_while(self.lock(), patience, |state| condition(state));
        let timed_out = waiting.unwrap_or_else(|poisoned| poisoned.into_inner()).1.timed_out();
        assert!(!timed_out, "waited in vain for the proxy");
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        self.lock().connections.iter().filter_map(Weak::upgrade).collect()
    }

    /// Accepts until the proxy is dropped.
    fn accept(self: &Arc<Self>, listener: TcpListener) {
        let mut listener = Some(listener);
        loop {
            let accepted = listener.as_ref().expect("it listens here").accept();
            let (over, last) = self.wait_for_orders();
            if over {
                return;
            }
            let Ok((client, address)) = accepted else { continue };
            if last != Some(address) {
                self.connect(client);
                continue;
            }
            drop((listener.take(), client));
            let mut state = self.lock();
            (state.listening, state.last) = (false, None);
            drop(state);
            self.changed.notify_all();
            match self.listen_again() {
                Some(again) => listener = Some(again),
                None => return,
            }
        }
    }

    /// Whether it is over, and who is the last one to be accepted.
    fn wait_for_orders(&self) -> (bool, Option<SocketAddr>) {
        let unsaid = |state: &mut State| state.faults.refusing && state.last.is_none() && !state.over;
        let state =
            self.changed.wait_while(self.lock(), unsaid).unwrap_or_else(|poisoned| poisoned.into_inner());
        (state.over, state.last)
    }

    /// Waits until connections are welcome again; `None` when the proxy is dropped.
    fn listen_again(&self) -> Option<TcpListener> {
        let refusing = |state: &mut State| state.faults.refusing && !state.over;
        let state = self.changed.wait_while(self.lock(), refusing);
        if state.unwrap_or_else(|poisoned| poisoned.into_inner()).over {
            return None;
        }
        let listener = wait_for("the proxy's port to be free again", || {
            TcpListener::bind(("127.0.0.1", self.port)).ok()
        });
        self.lock().listening = true;
        self.changed.notify_all();
        Some(listener)
    }

    /// Where nobody listens behind the proxy, the client's connection ends.
    fn connect(self: &Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else { return };
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("a TCP socket has it");
            // A writer that the other side keeps waiting looks up now and then.
            stream.set_write_timeout(Some(Duration::from_millis(50))).expect("not zero");
        }
        let connection = {
            let mut state = self.lock();
            state.accepted += 1;
            state.pieces.push(Vec::new());
            let connection = Arc::new(Connection {
                client,
                server,
                is_cut: false.into(),
                is_stranded: false.into(),
                number: state.pieces.len() - 1,
                uploaded_bytes: 0.into(),
            });
            state.connections.retain(|other| other.strong_count() > 0);
            state.connections.push(Arc::downgrade(&connection));
            connection
        };
        for direction in [Direction::Up, Direction::Down] {
            let (send, receive) = crossbeam_channel::bounded(QUEUE_CHUNKS);
            let (shared, there) = (Arc::clone(self), Arc::clone(&connection));
            thread::spawn(move || shared.read(&there, direction, &send));
            let (shared, there) = (Arc::clone(self), Arc::clone(&connection));
            thread::spawn(move || shared.write(&there, direction, &receive));
        }
    }

    fn read(&self, connection: &Connection, direction: Direction, queue: &crossbeam_channel::Sender<Chunk>) {
        let (mut from, _) = connection.ends(direction);
        loop {
            let mut bytes = vec![0; CHUNK_BYTES];
            let Ok(length @ 1..) = from.read(&mut bytes) else { return };
            bytes.truncate(length);
            if direction == Direction::Up {
                let pieces = &mut self.lock().pieces[connection.number];
                pieces.push(pieces.last().unwrap_or(&0) + length as u64);
            }
            let due = Instant::now() + self.lock().faults.delay;
            if connection.is_cut() || queue.send(Chunk { due, bytes }).is_err() {
                return;
            }
        }
    }

    fn write(
        &self,
        connection: &Connection,
        direction: Direction,
        queue: &crossbeam_channel::Receiver<Chunk>,
    ) {
        let (_, to) = connection.ends(direction);
        let mut free_at = Instant::now();
        for Chunk { due, bytes } in queue {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let Some(faults) = self.wait_for_turn(connection, direction, due.max(free_at)) else {
                    return;
                };
                let mut length = faults.piece(rest.len());
                if direction == Direction::Up {
                    length = self.reserve(connection, length);
                }
                let Ok(written) = write_some(to, &rest[..length]) else { return };
                if direction == Direction::Up {
                    self.note_upload(connection, written, length - written);
                }
                if let Some(bytes_max) = faults.bytes_max {
                    let takes = Duration::from_secs_f64(written as f64 / bytes_max as f64);
                    free_at = free_at.max(Instant::now()) + takes;
                }
                rest = &rest[written..];
            }
        }
        if !connection.is_cut() {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    /// Waits until it is `due` and nothing is stalled; `None` when the connection was cut meanwhile.
    fn wait_for_turn(&self, connection: &Connection, direction: Direction, due: Instant) -> Option<Faults> {
        let mut state = self.lock();
        loop {
            if connection.is_cut() {
                return None;
            }
            let early = due.saturating_duration_since(Instant::now());
            if state.faults.stalls(direction) || connection.is_stranded.load(Ordering::Relaxed) {
                state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            } else if !early.is_zero() {
                let waited = self.changed.wait_timeout(state, early);
                state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            } else {
                return Some(state.faults);
            }
        }
    }

    /// How much of `length` may be uploaded before the cut and before the stall; the latter is taken from what is left.
    fn reserve(&self, connection: &Connection, length: usize) -> usize {
        let faults = &mut self.lock().faults;
        let uploaded_bytes = connection.uploaded_bytes.load(Ordering::Relaxed);
        let before_cut = faults.cut.map_or(u64::MAX, |cut| cut.after_bytes.saturating_sub(uploaded_bytes));
        let may_go_on = faults.stalled_way == Some(Direction::Down);
        let before_stall = faults.upload_bytes_left.filter(|_| !may_go_on).unwrap_or(u64::MAX);
        let length = (length as u64).min(before_cut).min(before_stall);
        if let Some(left) = &mut faults.upload_bytes_left {
            *left = left.saturating_sub(length);
        }
        usize::try_from(length).expect("no more than before")
    }

    /// `unused_bytes` were reserved and not written.
    fn note_upload(&self, connection: &Connection, bytes: usize, unused_bytes: usize) {
        let uploaded_bytes =
            connection.uploaded_bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let mut state = self.lock();
        state.uploaded_bytes += bytes as u64;
        let goes_on = state.faults.stalled_way == Some(Direction::Down);
        if let Some(left) = &mut state.faults.upload_bytes_left
            && (*left > 0 || !goes_on)
        {
            *left += unused_bytes as u64;
        }
        let Some(cut) = &mut state.faults.cut else { return };
        if uploaded_bytes < cut.after_bytes {
            return;
        }
        let ending = cut.ending;
        cut.times_left -= 1;
        if cut.times_left == 0 {
            state.faults.cut = None;
        }
        drop(state);
        self.cut(connection, ending);
    }

    fn cut(&self, connection: &Connection, ending: Ending) {
        {
            // Under the lock, or a writer that is about to wait would miss it.
            let mut state = self.lock();
            if connection.is_cut.swap(true, Ordering::Relaxed) {
                return;
            }
            state.cuts += 1;
        }
        for stream in [&connection.client, &connection.server] {
            let how = match ending {
                Ending::Close => Shutdown::Both,
                // Nothing is said until the last of the four threads has let go of the socket.
                Ending::Reset => {
                    let _ = set_socket_linger(stream, Some(Duration::ZERO));
                    Shutdown::Read
                }
            };
            let _ = stream.shutdown(how);
        }
        self.changed.notify_all();
    }
}

impl Faults {
    fn is_stalled(self) -> bool {
        self.stalled || self.upload_bytes_left == Some(0)
    }

    fn stalls(self, way: Direction) -> bool {
        self.is_stalled() && self.stalled_way.is_none_or(|stalled| stalled == way)
    }

    /// How much may be written at once.
    fn piece(self, length: usize) -> usize {
        let Some(bytes_max) = self.bytes_max else { return length };
        let hundredth = usize::try_from(bytes_max / 100).unwrap_or(usize::MAX);
        length.min(hundredth.max(1))
    }
}

impl Connection {
    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    fn ends(&self, direction: Direction) -> (&TcpStream, &TcpStream) {
        match direction {
            Direction::Up => (&self.client, &self.server),
            Direction::Down => (&self.server, &self.client),
        }
    }
}

/// How much was written; nothing, when the other side does not read.
fn write_some(mut to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    match to.write(bytes) {
        Err(error) if [Interrupted, TimedOut, WouldBlock].contains(&error.kind()) => Ok(0),
        result => result,
    }
}
