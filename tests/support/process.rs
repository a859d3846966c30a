//! Processes: waiting for them, and ending them, with a bound on each wait.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that should take a moment, on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `condition` holds; panics, naming `what`, when it takes too long.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Waits until `probe` finds something.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `child` ends; kills it and panics when it does not.
pub fn wait_for_exit(child: &mut Child, what: &str) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{what} did not end within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `command` to its end; panics with its output when it fails. Returns its standard output.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// Sends `signal` to a child that has not been waited for.
pub fn signal(child: &Child, signal: Signal) {
    send(i32::try_from(child.id()).expect("a process id fits"), signal);
}

pub fn send(pid: i32, signal: Signal) {
    // The process may have ended by itself, which is as good.
    let _ = kill_process(Pid::from_raw(pid).expect("not process 0"), signal);
}

/// The living children of process `parent`.
pub fn children(parent: u32) -> Vec<i32> {
    processes().filter(|&(pid, _)| parent_of(pid) == Some(parent)).map(|(pid, _)| pid).collect()
}

/// The living processes whose program lies below `directory`.
pub fn running_from(directory: &Path) -> Vec<i32> {
    let from_there = |entry: &(i32, PathBuf)| {
        // The link is for root alone where a process may not be dumped.
        let called =
            || fs::read_to_string(entry.1.join("cmdline")).ok()?.split('\0').next().map(PathBuf::from);
        let program = fs::read_link(entry.1.join("exe")).ok().or_else(called);
        program.is_some_and(|program| program.starts_with(directory))
    };
    processes().filter(from_there).map(|(pid, _)| pid).collect()
}

pub fn is_alive(pid: i32) -> bool {
    // A zombie has an empty command line; nothing is left of it but its entry.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|text| !text.is_empty())
}

fn processes() -> impl Iterator<Item = (i32, PathBuf)> {
    let entries = fs::read_dir("/proc").expect("/proc is readable").flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

/// Reads `pid (name) state ppid …`; the name may hold spaces and parentheses.
fn parent_of(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
