//! The command line: flags, words, rendering, exit codes.
//!
//! The only part that prints. A command is one file: its documentation, which is also its help; its arguments,
//! which turn themselves into the operation's request; its `run`; and how its report is shown. What is not a
//! command's own is in modules named for it. Clock, environment and streams come from `main` as a [`Process`].

mod base_backup;
mod copy_missing;
mod exit;
mod failure;
mod log;
mod output;
mod progress;
mod prune;
mod restore;
mod session;
mod status;
mod systemd;
mod table;
mod time;
mod units;
mod usage;
mod verify;
mod wal_fetch;
mod wal_push;
mod wal_sync;

use std::cell::Cell;
use std::ffi::OsString;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use clap::{CommandFactory, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::config::{self, Config};
use crate::interrupt::Interrupt;
use crate::ops::Context;
use exit::{Exit, Rules};
use failure::Failure;
use log::{Log, LogFormat};
use output::Output;
use session::{Session, Volume};

pub use log::Reader;

/// The outside world, as `main` found it.
pub struct Process<'a> {
    /// The first is the program's own name.
    pub arguments: Vec<OsString>,
    pub environment: &'a (dyn Fn(&str) -> Option<String> + Sync),
    pub clock: fn() -> DateTime<Utc>,
    pub interrupt: &'a Interrupt,
    /// This binary.
    pub program: PathBuf,
    /// The effective user.
    pub user_id: u32,
    pub stdout: &'a mut dyn Write,
    pub stdout_reader: Reader,
    pub stderr: Box<dyn Write + Send>,
    pub stderr_reader: Reader,
}

/// Keep a PostgreSQL cluster restorable
///
/// Each command does one job and exits; the system's timers chain them.
#[derive(Debug, Parser)]
#[command(name = "pgbak", version, max_term_width = 100, after_long_help = help())]
struct Arguments {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The configuration [default: $PGBAK_CONFIG, else /etc/pgbak/pgbak.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Say more of what is being done (twice: much more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Say nothing when all is well
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// How messages are written to the standard error
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// Those that people call come first, those that PostgreSQL calls last.
#[derive(Debug, Subcommand)]
enum Command {
    BaseBackup(base_backup::BaseBackup),
    WalSync(wal_sync::WalSync),
    Prune(prune::Prune),
    Restore(restore::Restore),
    Verify(verify::Verify),
    Status(status::Status),
    WalPush(wal_push::WalPush),
    WalFetch(wal_fetch::WalFetch),
    #[command(hide = true)]
    WalFetchAhead(wal_fetch::WalFetchAhead),
}

fn help() -> String {
    exit::help(
        "  pgbak base-backup && pgbak status",
        &[
            exit::DONE,
            exit::FAILED,
            exit::USAGE,
            ("3", "done, with findings"),
            exit::LOCKED,
            exit::INTERRUPTED,
            ("", "wal-fetch has its own: see `pgbak wal-fetch --help`"),
        ],
    )
}

impl Global {
    fn level(&self) -> LevelFilter {
        match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::ERROR,
            (false, 0) => LevelFilter::WARN,
            (false, 1) => LevelFilter::INFO,
            (false, 2) => LevelFilter::DEBUG,
            (false, _) => LevelFilter::TRACE,
        }
    }

    fn volume(&self) -> Volume {
        if self.quiet { Volume::Quiet } else { Volume::Usual }
    }
}

impl Command {
    fn rules(&self) -> Rules {
        match self {
            Self::WalFetch(_) | Self::WalFetchAhead(_) => Rules::WalFetch,
            Self::Status(command) => command.rules(),
            Self::BaseBackup(_)
            | Self::WalSync(_)
            | Self::Prune(_)
            | Self::Restore(_)
            | Self::Verify(_)
            | Self::WalPush(_) => Rules::Usual,
        }
    }

    /// The name under which a run is noted for `status`; `None` for those that PostgreSQL calls all the time.
    fn noted_as(&self) -> Option<&'static str> {
        match self {
            Self::BaseBackup(_) => Some("base-backup"),
            Self::WalSync(_) => Some("wal-sync"),
            Self::Prune(_) => Some("prune"),
            Self::Restore(_) => Some("restore"),
            Self::Verify(_) => Some("verify"),
            Self::Status(_) | Self::WalPush(_) | Self::WalFetch(_) | Self::WalFetchAhead(_) => None,
        }
    }

    fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        match self {
            Self::BaseBackup(command) => command.run(session),
            Self::WalSync(command) => command.run(session),
            Self::Prune(command) => command.run(session),
            Self::Restore(command) => command.run(session),
            Self::Verify(command) => command.run(session),
            Self::Status(command) => command.run(session),
            Self::WalPush(command) => command.run(session),
            Self::WalFetch(command) => command.run(session),
            Self::WalFetchAhead(command) => command.run(session),
        }
    }
}

/// The command line's own description, from which the manual pages and the completions are made: without what only
/// pgbak itself calls.
pub fn description() -> clap::Command {
    let mut whole = Arguments::command();
    whole.build();
    let visible =
        whole.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    let parts = clap::Command::new("pgbak").bin_name("pgbak").args(whole.get_arguments().cloned());
    let mut described = parts
        .version(env!("CARGO_PKG_VERSION"))
        .about(whole.get_about().cloned().unwrap_or_default())
        .long_about(whole.get_long_about().cloned().unwrap_or_default())
        .after_long_help(whole.get_after_long_help().cloned().unwrap_or_default())
        .subcommand_required(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .subcommands(visible.cloned());
    described.build();
    described
}

/// Does what the arguments say. Returns the exit code, whatever happens: a panic, too, ends by the command's rules.
pub fn run(process: Process<'_>) -> u8 {
    let rules = Cell::new(usage::rules(&process.arguments, None));
    let ran = panic::catch_unwind(AssertUnwindSafe(|| parse_and_run(process, &rules)));
    ran.unwrap_or_else(|_| rules.get().panicked()).code()
}

fn parse_and_run(process: Process<'_>, rules: &Cell<Rules>) -> Exit {
    match Arguments::try_parse_from(&process.arguments) {
        Ok(arguments) => {
            rules.set(arguments.command.rules());
            run_command(arguments, process)
        }
        Err(error) => {
            rules.set(usage::rules(&process.arguments, Some(&error)));
            answer_or_refuse(&error, process, rules.get())
        }
    }
}

/// Help and version are results; without any argument, help is what was missing.
fn answer_or_refuse(error: &clap::Error, process: Process<'_>, rules: Rules) -> Exit {
    let mut stderr = process.stderr;
    if usage::is_answer(error) {
        let text = match process.stdout_reader {
            Reader::Terminal => error.render().ansi().to_string(),
            Reader::Collector => error.render().to_string(),
        };
        return match Output::new(process.stdout).print(&text) {
            Ok(()) => Exit::DONE,
            Err(failure) => rules.failed(&failure),
        };
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Where the standard error cannot be written to, the exit code says it.
        let _ = write!(stderr, "{}", error.render());
        return rules.usage();
    }
    let format = usage::log_format(&process.arguments);
    let log = Log::new(format, LevelFilter::WARN, process.stderr_reader, process.clock, stderr);
    let failure = usage::failure(error, &process.arguments);
    refuse(&log, &failure);
    tell_monitoring(rules, &failure, process.stdout);
    rules.usage()
}

fn run_command(arguments: Arguments, process: Process<'_>) -> Exit {
    let Arguments { global, command } = arguments;
    let rules = command.rules();
    let level = global.level();
    let log =
        Arc::new(Log::new(global.log_format, level, process.stderr_reader, process.clock, process.stderr));
    log.listen();
    report_panics(&log);
    let run = || {
        let config = Config::load(global.config.as_deref(), process.environment)?;
        let mut session = Session {
            context: Context {
                config: &config,
                environment: process.environment,
                clock: &process.clock,
                interrupt: process.interrupt,
                meter: &Arc::default(),
                program: process.program.clone(),
                state_directory: config::state_directory(process.environment, process.user_id),
            },
            clock: process.clock,
            zone: &chrono::Local,
            log: Arc::clone(&log),
            output: Output::new(&mut *process.stdout),
            stdout_reader: process.stdout_reader,
            volume: global.volume(),
        };
        let noted = command.noted_as().and_then(|name| session.context.enter_run(name));
        let ran = command.run(&mut session);
        if let Some(entry) = noted {
            let exit = ran.as_ref().map_or_else(|failure| rules.failed(failure), |exit| *exit);
            let message = ran.as_ref().err().map(|failure| failure::one_line(failure));
            session.context.leave_run(entry, exit.code(), message.as_deref());
        }
        ran
    };
    run().unwrap_or_else(|failure| {
        refuse(&log, &failure);
        tell_monitoring(rules, &failure, process.stdout);
        rules.failed(&failure)
    })
}

/// A monitoring system reads the standard output, and nothing else.
fn tell_monitoring(rules: Rules, failure: &Failure, stdout: &mut dyn Write) {
    if rules == Rules::Plugin {
        // Where it cannot be written to, the exit code says it.
        let _ = Output::new(stdout).print(&status::unknown(&failure::one_line(failure)));
    }
}

fn refuse(log: &Log, failure: &Failure) {
    log.error(&failure::one_line(failure), failure.hint().as_deref());
}

/// A panic is a bug. It is told like any other error, with the place to look at.
fn report_panics(log: &Arc<Log>) {
    let log = Arc::clone(log);
    panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
        let words = panic.payload_as_str().unwrap_or("without words");
        log.error(
            &format!("internal error{place}: {words}"),
            Some("This is a bug in pgbak. Please report it with the command that was run."),
        );
    }));
}
