//! `strace`: what a program asked of the kernel, and what the kernel is made to answer.
//!
//! It counts the calls of each thread on its own. So a point is a call's name and a number, and the first thread that
//! comes to it is the one that meets it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use crate::support::{Identity, Outcome, Site, skip};

/// The calls that change something outside the process, as far as pgbak and sftp-server make them.
pub const CHANGES: &str = "write,pwrite64,fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,unlink,unlinkat,\
     mkdir,mkdirat,rmdir,openat,ftruncate";
/// The same, and what is needed beside to know which file a number means.
pub const FILES: &str = "write,pwrite64,fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,unlink,unlinkat,\
     mkdir,mkdirat,rmdir,openat,open,close,fcntl,dup,dup2,dup3";
/// The calls that change an object, and what is told to others.
const FILES_AND_MESSAGES: &str = "write,fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,\
     unlink,unlinkat,mkdir,mkdirat,rmdir,openat,open,close,fcntl,dup,dup2,dup3,sendto";

/// One call that has returned.
#[derive(Debug, Clone)]
pub struct Call {
    pub thread: u32,
    pub name: String,
    pub arguments: String,
    /// Negative when it failed.
    pub result: i64,
}

/// The `nth` call of this name in a thread, from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub call: String,
    pub nth: u32,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.call, self.nth)
    }
}

/// Whether this user may trace; if not, the test is noted as skipped.
pub fn is_permitted(identity: &Identity) -> bool {
    let tried = identity.command("strace", "KILL").args(["-qq", "-e", "trace=none", "true"]).output();
    let permitted = tried.is_ok_and(|output| output.status.success());
    if !permitted {
        skip("strace is not installed, or tracing is not permitted here");
    }
    permitted
}

/// Whether this user may also see what pgbak hands to the kernel, which it keeps from its own user.
pub fn may_record(identity: &Identity) -> bool {
    if !Identity::own().is_root() {
        skip("only root may record what pgbak does to its files");
        return false;
    }
    is_permitted(identity)
}

/// Runs pgbak under strace, of which was said that it is there.
pub fn run(site: &Site, tool: &[String], arguments: &str) -> Outcome {
    site.call_under(tool, arguments).expect("strace was looked for").run()
}

/// Runs pgbak undisturbed, and tells which of these calls it made.
pub fn run_recorded(site: &Site, calls: &str, arguments: &str) -> (Outcome, Vec<Call>) {
    let log = site.fresh("home/trace");
    let outcome = run(site, &recording(&log, calls), arguments);
    (outcome, read(&log))
}

/// Writes all calls of these names to `log`; strings in hexadecimal, none longer than 4 KiB.
pub fn recording(log: &Path, calls: &str) -> Vec<String> {
    let mut words = strace(log);
    words.extend(["-xx", "-s", "4096", "-e"].map(str::to_owned));
    words.push(format!("trace={calls}"));
    words
}

/// Writes the calls that change files, whole, and the messages to others; but none that writes somewhere into a file.
pub fn recording_messages(log: &Path) -> Vec<String> {
    let mut words = recording(log, FILES_AND_MESSAGES);
    words.extend(["-s", "1048576"].map(str::to_owned));
    words
}

/// Kills the process that comes to `point`, instead of letting it make that call. The log tells whether one did.
pub fn killing(log: &Path, point: &Point) -> Vec<String> {
    let mut words = injecting(log, point, "signal=KILL");
    words.retain(|word| word != "-qq");
    words
}

/// Whether a process was killed, the one that was started or another one that it started.
pub fn has_killed(log: &Path) -> bool {
    fs::read_to_string(log).is_ok_and(|text| text.contains("+++ killed by SIGKILL"))
}

/// Both at once.
pub fn recording_and_killing(log: &Path, calls: &str, Point { call, nth }: &Point) -> Vec<String> {
    let mut words = recording(log, calls);
    words.extend(["-e".to_owned(), format!("inject={call}:signal=KILL:when={nth}")]);
    words
}

/// Lets the call at `point` fail.
pub fn failing(log: &Path, point: &Point, error: &str) -> Vec<String> {
    injecting(log, point, &format!("error={error}"))
}

fn injecting(log: &Path, Point { call, nth }: &Point, what: &str) -> Vec<String> {
    let mut words = strace(log);
    words.extend(["-e".to_owned(), format!("trace={call}")]);
    words.extend(["-e".to_owned(), format!("inject={call}:{what}:when={nth}")]);
    words
}

fn strace(log: &Path) -> Vec<String> {
    let log = log.to_str().expect("a test's paths are UTF-8");
    ["strace", "-f", "-qq", "-A", "-o", log].map(str::to_owned).to_vec()
}

/// Calls whose effect others may see before they have returned: a number that is free, a directory to use, a message.
const EARLY: [&str; 3] = ["close(", "mkdir(", "sendto("];

/// The calls of a log, in the order in which they took effect, as far as that can be told.
pub fn read(log: &Path) -> Vec<Call> {
    let text = fs::read_to_string(log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
    // What was begun, and where it will stand.
    let mut begun: BTreeMap<u32, (String, Option<usize>)> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let (thread, rest) = line.split_once(' ').expect("each line begins with a thread");
        let (thread, rest) = (thread.parse().expect("a number"), rest.trim_start());
        if let Some(half) = rest.strip_suffix("<unfinished ...>") {
            let is_early = EARLY.iter().any(|name| half.starts_with(name));
            begun.insert(thread, (half.to_owned(), is_early.then_some(calls.len())));
            calls.extend(is_early.then_some(None));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, behind) = resumed.split_once(" resumed>").expect("a call that is resumed");
            let (half, place) = begun.remove(&thread).expect("it was begun before");
            let call = parse(thread, &(half + behind));
            match place {
                Some(place) => calls[place] = call,
                None => calls.push(call),
            }
        } else {
            calls.push(parse(thread, rest));
        }
    }
    calls.into_iter().flatten().collect()
}

/// Reads `name(arguments) = result …`; `None` for signals and ends, and for a call that never returned.
fn parse(thread: u32, line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let result = result.split_whitespace().next()?.parse().ok()?;
    let arguments = arguments.trim_end().strip_suffix(')')?.to_owned();
    Some(Call { thread, name: name.to_owned(), arguments, result })
}

impl Call {
    /// Whether it changed something.
    fn is_change(&self) -> bool {
        match self.name.as_str() {
            "openat" => self.result >= 0 && self.arguments.contains("O_CREAT"),
            _ => self.result >= 0,
        }
    }

    /// The strings among the arguments.
    pub fn strings(&self) -> Vec<Vec<u8>> {
        self.arguments.split('"').skip(1).step_by(2).map(unhex).collect()
    }

    /// The arguments that are no strings.
    pub fn words(&self) -> Vec<&str> {
        self.arguments.split(", ").map(str::trim).collect()
    }
}

/// Reads `\x2f\x64`.
fn unhex(text: &str) -> Vec<u8> {
    let digits = text.split("\\x").skip(1);
    digits.map(|digits| u8::from_str_radix(digits, 16).expect("strace -xx prints hexadecimal")).collect()
}

/// The points of a run, as far as they count.
pub fn points(calls: &[Call], counts: impl Fn(&Call) -> bool) -> Vec<Point> {
    let mut made: BTreeMap<(u32, &str), u32> = BTreeMap::new();
    let mut points = Vec::new();
    for call in calls {
        let nth = made.entry((call.thread, &call.name)).or_default();
        *nth += 1;
        if counts(call) {
            points.push(Point { call: call.name.clone(), nth: *nth });
        }
    }
    points.sort();
    points.dedup();
    points
}

/// The calls of a run that changed something.
pub fn changes(calls: &[Call]) -> Vec<Point> {
    points(calls, Call::is_change)
}
