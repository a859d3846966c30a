//! The thread that owns an SSH session: takes requests from a queue, hands replies to whoever waits for them.
//!
//! libssh2 runs without blocking. A write that would block may have left half of an SSH packet behind, which only
//! the same write completes, so what is being sent stays the same until it is taken; reading meanwhile is safe and
//! necessary, because what blocks may be the channel's window, and a read may itself have to send a window of ours
//! first. Before the thread sleeps, both have said that they would block.
//!
//! Silence is measured by a timer, not by a clock. A server may work on a request for long, while its disk is busy; so
//! when a reply is late, SSH's own keep-alive asks whether the other end is still there, which a process answers that
//! does not wait for the disk. A link on which nothing arrives for [`LINK_SILENCE`] is given up, which ends a stall
//! without a reset, and a server that answers no request for [`SERVER_SILENCE`]. A session on which nobody waits is
//! asked for a sign of life now and then, which also keeps firewalls from forgetting it.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use ssh2::{BlockDirections, Channel, Session};

use super::connection::{Outgoing, ReplyTo, Shared};
use super::packet::{ID_AT, Limits, PACKET_BYTES_MAX, Reply, Request};
use super::queue::{Popped, Queue};
use super::session::Established;

const TICK: Duration = Duration::from_secs(1);
const LINK_SILENCE: Duration = Duration::from_secs(30);
const SERVER_SILENCE: Duration = Duration::from_secs(300);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// When a reply is late. (libssh2 wants whole seconds.)
const ASK_FOR_LIFE_SECONDS: u32 = 10;

/// How much is sent before what has arrived is looked at.
const WRITES_AT_ONCE: usize = 32;
const READS_AT_ONCE: usize = 64;

/// Packets at least so large are read into place, smaller ones by the dozen.
const LARGE_BYTES: usize = 16 << 10;

/// The most that a reply or a request may carry, whatever the server says.
const DATA_BYTES_MAX: u64 = 255 << 10;

/// Numbers that no caller's request gets.
const LIMITS_ID: u32 = 0;
const KEEP_ALIVE_ID: u32 = 1;
const FIRST_ID: u32 = 2;

pub struct Driver {
    session: Session,
    channel: Channel,
    socket: Arc<TcpStream>,
    queue: Arc<Queue<Outgoing>>,
    wake: Arc<OwnedFd>,
    timer: OwnedFd,
    shared: Arc<Shared>,
    outbox: VecDeque<Sending>,
    sending: Option<Sending>,
    inbox: Inbox,
    waiting: HashMap<u32, ReplyTo>,
    next_id: u32,
    /// Since anything moved on the channel.
    quiet: Duration,
    /// Since anything arrived at all, or could be sent.
    link_quiet: Duration,
    asked_for_life: bool,
    /// Nobody will send any more.
    is_closing: bool,
}

/// A packet, and how much of it was sent.
struct Sending {
    head: Vec<u8>,
    data: Option<Arc<Vec<u8>>>,
    sent: usize,
}

impl Sending {
    fn new(id: u32, mut head: Vec<u8>, data: Option<Arc<Vec<u8>>>) -> Self {
        head[ID_AT..ID_AT + 4].copy_from_slice(&id.to_be_bytes());
        Self { head, data, sent: 0 }
    }

    fn rest(&self) -> &[u8] {
        match (&self.data, self.sent.checked_sub(self.head.len())) {
            (Some(data), Some(of_data)) => &data[of_data..],
            _ => &self.head[self.sent.min(self.head.len())..],
        }
    }
}

/// A packet that is arriving.
#[derive(Default)]
struct Inbox {
    length: Vec<u8>,
    body: Vec<u8>,
    filled: usize,
}

impl Inbox {
    /// How much of a packet's body is still to come.
    fn missing(&self) -> usize {
        self.body.len() - self.filled
    }

    /// Takes what it needs of `bytes`; gives a packet when one is whole.
    fn feed(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, String> {
        while self.length.len() < 4 {
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(None) };
            self.length.push(byte);
            *bytes = rest;
            if let Ok(length) = <[u8; 4]>::try_from(&self.length[..]) {
                let length = u32::from_be_bytes(length) as usize;
                if !(5..=PACKET_BYTES_MAX).contains(&length) {
                    return Err(format!("the server sent a packet of {length} bytes"));
                }
                (self.body, self.filled) = (vec![0; length], 0);
            }
        }
        let (taken, rest) = bytes.split_at(bytes.len().min(self.missing()));
        self.body[self.filled..][..taken.len()].copy_from_slice(taken);
        *bytes = rest;
        self.filled += taken.len();
        Ok(self.take_whole())
    }

    fn take_whole(&mut self) -> Option<Vec<u8>> {
        if self.length.len() < 4 || self.missing() > 0 {
            return None;
        }
        self.length.clear();
        self.filled = 0;
        Some(std::mem::take(&mut self.body))
    }
}

/// What a turn of the loop found to do.
#[derive(PartialEq, Eq)]
enum Progress {
    Some,
    None,
}

impl Driver {
    pub fn new(
        established: Established,
        queue: Arc<Queue<Outgoing>>,
        wake: Arc<OwnedFd>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let tick = Timespec { tv_sec: TICK.as_secs() as i64, tv_nsec: 0 };
        let every_tick = Itimerspec { it_interval: tick, it_value: tick };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every_tick)?;
        let Established { session, channel, socket, .. } = established;
        session.set_keepalive(true, ASK_FOR_LIFE_SECONDS);
        Ok(Self {
            session,
            channel,
            socket,
            queue,
            wake,
            timer,
            shared,
            outbox: VecDeque::new(),
            sending: None,
            inbox: Inbox::default(),
            waiting: HashMap::new(),
            next_id: FIRST_ID,
            quiet: Duration::ZERO,
            link_quiet: Duration::ZERO,
            asked_for_life: false,
            is_closing: false,
        })
    }

    pub fn run(mut self) {
        if self.shared.extensions.has("limits@openssh.com") {
            self.outbox.push_back(Sending::new(LIMITS_ID, Request::Limits.encode(), None));
        }
        let reason = self.serve().map_or_else(|reason| reason, |()| "the connection was closed".to_owned());
        tracing::debug!("an SSH session ends: {reason}");
        let _ = self.shared.lost.set(reason);
    }

    fn serve(&mut self) -> Result<(), String> {
        let mut scratch = vec![0; 64 << 10];
        loop {
            self.collect();
            let wrote = self.write()?;
            let window_before = self.channel.write_window().remaining;
            let read = self.read(&mut scratch)?;
            if wrote == Progress::Some || read == Progress::Some {
                self.asked_for_life = false;
                self.begin_silence();
                continue;
            }
            if self.is_closing && self.sending.is_none() && self.outbox.is_empty() {
                return Ok(());
            }
            // A read without data may have brought room to write.
            if self.channel.write_window().remaining == window_before {
                self.judge_silence()?;
                self.sleep()?;
            }
        }
    }

    /// Takes requests over, as many as are about to be sent.
    fn collect(&mut self) {
        while self.outbox.len() < WRITES_AT_ONCE && !self.is_closing {
            match self.queue.pop() {
                Popped::Item(outgoing) => self.accept(outgoing),
                Popped::Nothing => return,
                Popped::End => self.is_closing = true,
            }
        }
    }

    fn accept(&mut self, outgoing: Outgoing) {
        let Outgoing { head, data, withdrawn, reply_to } = outgoing;
        if withdrawn.is_some_and(|withdrawn| withdrawn.load(Ordering::Relaxed)) {
            return;
        }
        let id = self.free_id();
        if self.waiting.is_empty() {
            // Silence counts from the first request that waits.
            self.begin_silence();
        }
        self.waiting.insert(id, reply_to);
        self.outbox.push_back(Sending::new(id, head, data));
    }

    fn free_id(&mut self) -> u32 {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or(FIRST_ID);
            if !self.waiting.contains_key(&id) {
                return id;
            }
        }
    }

    fn write(&mut self) -> Result<Progress, String> {
        let mut progress = Progress::None;
        for _ in 0..WRITES_AT_ONCE {
            if self.sending.is_none() {
                self.sending = self.outbox.pop_front();
            }
            let Some(sending) = &mut self.sending else { break };
            match self.channel.write(sending.rest()) {
                Ok(0) => break,
                Ok(written) => sending.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
            progress = Progress::Some;
            if sending.rest().is_empty() {
                self.sending = None;
            }
        }
        Ok(progress)
    }

    fn read(&mut self, scratch: &mut [u8]) -> Result<Progress, String> {
        let mut progress = Progress::None;
        for _ in 0..READS_AT_ONCE {
            let is_large = self.inbox.missing() >= LARGE_BYTES;
            let target = match is_large {
                true => &mut self.inbox.body[self.inbox.filled..],
                false => &mut *scratch,
            };
            let read = match self.channel.read(target) {
                Ok(0) if self.channel.eof() => return Err("the server ended the session".into()),
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("the connection broke: {error}")),
            };
            progress = Progress::Some;
            if is_large {
                self.inbox.filled += read;
                if let Some(packet) = self.inbox.take_whole() {
                    self.deliver(packet)?;
                }
                continue;
            }
            let mut bytes = &scratch[..read];
            while !bytes.is_empty() {
                if let Some(packet) = self.inbox.feed(&mut bytes)? {
                    self.deliver(packet)?;
                }
            }
        }
        Ok(progress)
    }

    fn deliver(&mut self, packet: Vec<u8>) -> Result<(), String> {
        let (id, reply) = Reply::parse(packet).map_err(|error| error.to_string())?;
        match self.waiting.remove(&id) {
            Some(reply_to) => reply_to.answer(reply),
            None if id == LIMITS_ID => self.learn_limits(&reply),
            None if id == KEEP_ALIVE_ID => {}
            None => return Err("the server answered what nobody had asked".into()),
        }
        Ok(())
    }

    fn learn_limits(&mut self, reply: &Reply) {
        let Reply::Extended(reply) = reply else { return };
        let Ok(limits) = Limits::parse(reply) else { return };
        let bounded = |limit: u64| limit.clamp(1 << 10, DATA_BYTES_MAX) as usize;
        for (cell, limit) in [
            (&self.shared.read_bytes_max, limits.read_bytes_max),
            (&self.shared.write_bytes_max, limits.write_bytes_max),
        ] {
            if limit > 0 {
                cell.store(bounded(limit), Ordering::Relaxed);
            }
        }
    }

    fn begin_silence(&mut self) {
        (self.quiet, self.link_quiet) = (Duration::ZERO, Duration::ZERO);
    }

    fn judge_silence(&mut self) -> Result<(), String> {
        let owes_reply = !self.waiting.is_empty() || self.asked_for_life || self.sending.is_some();
        if !owes_reply {
            if self.quiet >= KEEP_ALIVE {
                self.asked_for_life = true;
                self.begin_silence();
                let request = Request::RealPath { path: "." };
                self.outbox.push_back(Sending::new(KEEP_ALIVE_ID, request.encode(), None));
            }
            return Ok(());
        }
        for (quiet, limit) in [(self.link_quiet, LINK_SILENCE), (self.quiet, SERVER_SILENCE)] {
            if quiet >= limit {
                return Err(format!("the server has been silent for {} s", limit.as_secs()));
            }
        }
        // What is being sent must not be mixed with it.
        match !self.quiet.is_zero() && self.sending.is_none() {
            true => self.ask_for_life(),
            false => Ok(()),
        }
    }

    /// Sends SSH's keep-alive, no more often than libssh2 was told to.
    ///
    /// Of one that the socket took in part libssh2 forgets the rest, and then sends nothing else any more: so it is
    /// sent only where there is room for it, and a session in which it was cut short all the same is given up.
    fn ask_for_life(&mut self) -> Result<(), String> {
        if self.is_blocked() || !self.has_room()? {
            return Ok(());
        }
        let _ = self.session.keepalive_send();
        match self.is_blocked() {
            true => Err("a keep-alive was cut short".into()),
            false => Ok(()),
        }
    }

    /// Whether libssh2 has something left to send.
    fn is_blocked(&self) -> bool {
        matches!(self.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both)
    }

    fn has_room(&self) -> Result<bool, String> {
        let socket: &TcpStream = &self.socket;
        let mut sources = [PollFd::new(socket, PollFlags::OUT)];
        match poll(&mut sources, Some(&Timespec::default())) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(format!("poll: {error}")),
        }
    }

    /// Until there is something to read, to write or to send, or a tick has passed.
    fn sleep(&mut self) -> Result<(), String> {
        if !self.outbox.is_empty() && self.sending.is_none() {
            return Ok(());
        }
        let wants = if self.is_blocked() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let socket: &TcpStream = &self.socket;
        let mut sources = [
            PollFd::new(socket, wants),
            PollFd::new(&*self.wake, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
        ];
        match poll(&mut sources, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("poll: {error}")),
        }
        let is_there = !sources[0].revents().is_empty();
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
        if rustix::io::read(&self.timer, &mut count).is_ok() {
            // Several at once mean that this thread was held up, not the server.
            self.quiet += TICK;
            self.link_quiet += TICK;
        }
        if is_there {
            self.link_quiet = Duration::ZERO;
        }
        Ok(())
    }
}

impl Drop for Driver {
    /// However it ends, nobody may wait for it: whoever is left is answered now, or by what is dropped after this.
    fn drop(&mut self) {
        let _ = self.shared.lost.set("the thread of the connection ended".to_owned());
        self.queue.close();
        // Best effort, and not waited for. What libssh2 frees afterwards must not find anything to wait for.
        let _ = self.channel.close();
        let _ = self.session.disconnect(None, "done", None);
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in_however_they_are_cut(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 5..60), 1..8),
            cuts in prop::collection::vec(1usize..40, 1..50),
        ) {
            let stream: Vec<u8> = packets
                .iter()
                .flat_map(|packet| (packet.len() as u32).to_be_bytes().into_iter().chain(packet.iter().copied()))
                .collect();
            let (mut inbox, mut found, mut rest) = (Inbox::default(), Vec::new(), &stream[..]);
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (mut piece, behind) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = behind;
                while !piece.is_empty() {
                    found.extend(inbox.feed(&mut piece).unwrap());
                }
            }
            prop_assert_eq!(found, packets);
        }
    }

    #[test]
    fn a_packet_of_absurd_length_ends_the_connection_and_takes_no_memory() {
        for length in [0, 4, PACKET_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut inbox = Inbox::default();
            assert!(inbox.feed(&mut &length.to_be_bytes()[..]).is_err(), "{length}");
            assert!(inbox.body.is_empty());
        }
    }

    #[test]
    fn a_request_is_sent_head_first_and_then_its_data() {
        let mut sending = Sending::new(0x0102_0304, vec![9; 10], Some(Arc::new(b"data".to_vec())));
        let mut sent = Vec::new();
        while !sending.rest().is_empty() {
            sent.push(sending.rest()[0]);
            sending.sent += 1;
        }
        assert_eq!(sent, b"\x09\x09\x09\x09\x09\x01\x02\x03\x04\x09data");
        assert!(Sending { head: b"h".to_vec(), data: None, sent: 1 }.rest().is_empty());
    }
}
