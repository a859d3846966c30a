//! What is asked of a restored cluster once its server runs: `pg_amcheck`, which looks through every table and B-tree,
//! and SQL that the operator wrote.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::programs::Programs;
use super::scratch::Scratch;
use super::server::{PORT, Server, last_words};
use crate::ops::{Context, Error};
use crate::server::{ConnectionSettings, Session};

const PAUSE: Duration = Duration::from_millis(50);
/// More SQL than anybody writes by hand.
const SQL_SIZE_MAX_BYTES: u64 = 16 << 20;
/// Found corruption, rather than anything that kept it from looking.
const AMCHECK_FOUND_CORRUPTION: i32 = 2;

/// How a check came out.
pub enum Outcome {
    Passed,
    /// What it found.
    Failed(String),
    /// Why it was not made.
    NotMade(String),
}

/// A file of SQL, read before anything else is done.
#[derive(Debug)]
pub struct Script {
    pub path: PathBuf,
    sql: String,
}

impl Script {
    pub fn read(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
        if fs::metadata(path).map_err(io)?.len() > SQL_SIZE_MAX_BYTES {
            return Err(io(io::Error::other(format!("it has more than {SQL_SIZE_MAX_BYTES} bytes"))));
        }
        Ok(Self { path: path.to_owned(), sql: fs::read_to_string(path).map_err(io)? })
    }

    /// Runs the statements, in one transaction unless they say otherwise. The first error ends it.
    pub fn run(&self, context: &Context<'_>, server: Server, session: Session) -> Result<Outcome, Error> {
        let mut server = Some(server);
        let mut session = session;
        let (sender, answer) = crossbeam_channel::bounded(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = sender.send(session.rows(&self.sql).map(drop));
            });
            loop {
                if let Ok(answered) = answer.recv_timeout(PAUSE) {
                    return Ok(match answered {
                        Ok(()) => Outcome::Passed,
                        Err(error) => Outcome::Failed(error.to_string()),
                    });
                }
                if let Err(interrupted) = context.interrupt.check() {
                    // With the server goes the answer that the thread waits for.
                    drop(server.take());
                    return Err(interrupted.into());
                }
            }
        })
    }
}

/// Runs `pg_amcheck` on every database, as `superuser`.
pub fn amcheck(
    context: &Context<'_>,
    scratch: &Scratch,
    programs: &Programs,
    account: Option<(u32, u32)>,
    superuser: &str,
    session: &mut Session,
) -> Result<Outcome, Error> {
    let Some(program) = programs.optional("pg_amcheck") else {
        return Ok(Outcome::NotMade("pg_amcheck is not installed; PostgreSQL has it from 14 on".to_owned()));
    };
    let known = session.rows("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'")?;
    if known.is_empty() {
        return Ok(Outcome::NotMade("the extension amcheck is not installed".to_owned()));
    }
    let log = scratch.run().join("amcheck");
    let io = |source| Error::Io { action: "open", path: log.clone(), source };
    fs::write(&log, "").map_err(io)?;
    super::scratch::give(&log, account)?;
    let open = || File::options().append(true).open(&log).map_err(io);
    let mut command = Command::new(&program);
    command.args(["--all", "--install-missing", "--username", superuser, "--port", &PORT.to_string()]);
    command.arg("--host").arg(scratch.sockets()).current_dir(scratch.run());
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    command.args(["--jobs", &jobs.to_string()]).env("HOME", scratch.run()).env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(open()?).stderr(open()?).process_group(0);
    if let Some((uid, gid)) = account {
        command.uid(uid).gid(gid);
    }
    let run = |source| Error::Io { action: "run", path: program.clone(), source };
    let mut child = command.spawn().map_err(run)?;
    let status = loop {
        match child.try_wait().map_err(run)? {
            Some(status) => break status,
            None => {
                if let Err(interrupted) = context.interrupt.check() {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(interrupted.into());
                }
                std::thread::sleep(PAUSE);
            }
        }
    };
    Ok(match status.code() {
        Some(0) => Outcome::Passed,
        Some(AMCHECK_FOUND_CORRUPTION) => Outcome::Failed(last_words(&log)),
        _ => Outcome::NotMade(format!("pg_amcheck could not look: {}", last_words(&log))),
    })
}

/// The settings for a session of `user` in `database` on the drill's server. Nothing of the environment counts.
pub fn connection(scratch: &Scratch, user: &str, database: &str) -> Result<ConnectionSettings, Error> {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let text = format!(
        "host={} port={PORT} user={} dbname={} sslmode=disable",
        quoted(&scratch.sockets().display().to_string()),
        quoted(user),
        quoted(database)
    );
    Ok(ConnectionSettings::resolve(&text, &|_| None)?)
}
