//! The process: hands the clock, the environment and the standard streams to [`pgbak::cli`].
//!
//! The only place that asks for them. PostgreSQL starts this for every WAL file, so nothing is done here that a
//! command may not need.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pgbak::cli::{self, Process, Reader};
use pgbak::interrupt::Interrupt;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

fn main() -> ExitCode {
    // What pgbak writes is a database's content: for nobody else, until something says so.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Passwords are in the environment and in memory: neither for a core dump nor for another process of this user.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let interrupt = Interrupt::default();
    // A signal that cannot be caught kills, and that is safe, too.
    let _ = raise_on_signals(&interrupt);

    let arguments: Vec<_> = std::env::args_os().collect();
    let program = std::env::current_exe()
        .unwrap_or_else(|_| arguments.first().map_or_else(|| PathBuf::from("pgbak"), PathBuf::from));
    ExitCode::from(cli::run(Process {
        arguments,
        environment: &|name| std::env::var(name).ok(),
        clock: chrono::Utc::now,
        interrupt: &interrupt,
        program,
        user_id: rustix::process::geteuid().as_raw(),
        stdout: &mut io::stdout(),
        stdout_reader: reader(&io::stdout()),
        stderr: Box::new(io::stderr()),
        stderr_reader: reader(&io::stderr()),
    }))
}

/// The first SIGINT or SIGTERM asks the run to stop; a second one ends it at once.
fn raise_on_signals(interrupt: &Interrupt) -> io::Result<()> {
    let is_second = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: what is registered first sees the flag as the signal before this one left it.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&is_second))?;
        flag::register(signal, Arc::clone(&is_second))?;
        flag::register_usize(signal, interrupt.cell(), signal as usize)?;
    }
    Ok(())
}

fn reader(stream: &impl IsTerminal) -> Reader {
    if stream.is_terminal() { Reader::Terminal } else { Reader::Collector }
}
