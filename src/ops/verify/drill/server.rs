//! The server that a drill starts: from its own configuration, on its own socket, for as long as pgbak lives.
//!
//! * It reads nothing of the cluster's own configuration, which may name files, libraries and amounts of memory that
//!   are not here. What recovery insists on is taken from `pg_control`.
//! * It archives nothing, listens to nobody but a socket in a closed directory, and loads no libraries by itself.
//! * It takes no connections before recovery has ended, so that the first that succeeds says so.
//! * A shell stands behind it that holds a pipe from pgbak. When pgbak dies, by whatever signal, the pipe ends, and the
//!   shell stops the server at once.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::programs::Programs;
use super::scratch::{Scratch, give};
use crate::ops::restore::Setting;
use crate::ops::{Context, Error};
use crate::pg::control_file::ControlFile;
use crate::pg::settings_file;
use crate::server::{self, Cause, ConnectionSettings, Session};

/// In a directory of its own any port is free.
pub const PORT: u16 = 5432;
const PAUSE: Duration = Duration::from_millis(50);
/// How long a server may take to stop at once.
const PAUSES_TO_STOP_MAX: u32 = 600;
/// Of what the server said, the last so many bytes are told.
const LOG_TOLD_BYTES: i64 = 2000;
/// Of `postmaster.pid`, counted from 0; `LOCK_FILE_LINE_PM_STATUS` in PostgreSQL `src/include/utils/pidfile.h`.
const STATUS_LINE: usize = 7;

/// `$0` is the server, and what follows its arguments. The process that waits for the end of the pipe is no child of
/// the server's, which would wonder about it.
const UNTIL_THE_PIPE_ENDS: &str = r#"
exec 3<&0
((read -r _ <&3 || kill -QUIT $$) >/dev/null 2>&1 &)
exec "$0" "$@" </dev/null 3<&-
"#;

/// Dropping it stops the server, at once.
pub struct Server {
    child: Child,
    /// Its end is the server's.
    lifeline: Option<ChildStdin>,
    log: PathBuf,
    pid_file: PathBuf,
}

/// Why there is no connection.
pub enum NotStarted {
    /// The run shall end, or cannot go on.
    Failed(Error),
    /// The server ended by itself; the last that it said.
    Ended(String),
    /// It lives, and refuses; what it says.
    Refused(String),
}

impl From<Error> for NotStarted {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Server {
    /// Starts a server on what was restored into `scratch`; `recovery` is what the restore wrote for it.
    pub fn start(
        scratch: &Scratch,
        programs: &Programs,
        account: Option<(u32, u32)>,
        control: &ControlFile,
        recovery: &[Setting],
    ) -> Result<Self, Error> {
        let run = scratch.run();
        let write = |path: &Path, content: &[u8]| -> Result<(), Error> {
            fs::write(path, content).map_err(|source| Error::Io {
                action: "write",
                path: path.into(),
                source,
            })?;
            give(path, account)
        };
        write(&run.join("postgresql.conf"), &configuration(scratch, control)?)?;
        write(&run.join("pg_hba.conf"), b"local all all trust\n")?;
        write(&run.join("pg_ident.conf"), b"")?;
        // The settings of the old life would count for more than the configuration.
        write(&scratch.data().join("postgresql.auto.conf"), &lines(recovery)?)?;
        let log = run.join("log");
        write(&log, b"")?;
        let open = || File::options().append(true).open(&log);
        let io = |source| Error::Io { action: "open", path: log.clone(), source };
        let (stdout, stderr) = (open().map_err(io)?, open().map_err(io)?);

        let postgres = programs.path("postgres");
        let mut command = Command::new("sh");
        command.args(["-c", UNTIL_THE_PIPE_ENDS]).arg(&postgres).arg("-D").arg(scratch.data());
        command.arg(format!("--config_file={}", run.join("postgresql.conf").display()));
        command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr).current_dir(&run);
        command.env("PGBAK_STATE_DIRECTORY", scratch.state()).env("HOME", &run).env("LC_MESSAGES", "C");
        for variable in ["PGDATA", "PGPORT", "PGHOST", "PGOPTIONS", "LC_ALL", "NOTIFY_SOCKET"] {
            command.env_remove(variable);
        }
        // A signal from the terminal is for pgbak, which stops the server in its time.
        command.process_group(0);
        if let Some((uid, gid)) = account {
            command.uid(uid).gid(gid);
        }
        tracing::info!("starting {} on {}", postgres.display(), scratch.data().display());
        let mut child =
            command.spawn().map_err(|source| Error::Io { action: "run", path: postgres, source })?;
        let lifeline = child.stdin.take();
        Ok(Self { child, lifeline, log, pid_file: scratch.data().join("postmaster.pid") })
    }

    /// Waits until recovery has ended and `settings` get a session.
    pub fn wait(
        &mut self,
        context: &Context<'_>,
        settings: &ConnectionSettings,
    ) -> Result<Session, NotStarted> {
        loop {
            context.interrupt.check().map_err(Error::from)?;
            if let Some(status) = self.has_ended()? {
                return Err(NotStarted::Ended(format!("{}: {}", in_words(status), self.last_words())));
            }
            if !self.is_ready() {
                std::thread::sleep(PAUSE);
                continue;
            }
            match Session::connect(settings, context.interrupt) {
                Ok(session) => return Ok(session),
                Err(error) if is_starting(&error) => std::thread::sleep(PAUSE),
                Err(server::Error::Interrupted(interrupted)) => {
                    return Err(NotStarted::Failed(interrupted.into()));
                }
                Err(error) => return Err(NotStarted::Refused(error.to_string())),
            }
        }
    }

    /// Whether it says that it takes connections: asked in its own file, as `pg_ctl` does, since each attempt to
    /// connect before would leave a line in its log.
    fn is_ready(&self) -> bool {
        let text = fs::read_to_string(&self.pid_file).unwrap_or_default();
        text.lines().nth(STATUS_LINE).is_some_and(|status| status.trim() == "ready")
    }

    fn has_ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(|source| Error::Io {
            action: "wait for",
            path: self.log.clone(),
            source,
        })
    }

    /// The end of what the server said, on one line.
    pub fn last_words(&self) -> String {
        last_words(&self.log)
    }

    /// Nothing of it has to last.
    fn stop(&mut self) {
        for signal in [Signal::QUIT, Signal::KILL] {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            if let (Some(pid), Ok(None)) = (pid, self.child.try_wait()) {
                let _ = kill_process(pid, signal);
            }
            for _ in 0..PAUSES_TO_STOP_MAX {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A line sends the one away that waits for the end of the pipe: the number may soon be another process's.
        if let Some(mut lifeline) = self.lifeline.take() {
            let _ = lifeline.write_all(b"\n");
        }
        self.stop();
    }
}

/// The end of a log, without blank lines, on one line.
pub fn last_words(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let size_bytes = i64::try_from(file.metadata()?.len()).unwrap_or(i64::MAX);
        file.seek(SeekFrom::End(-size_bytes.min(LOG_TOLD_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TOLD_BYTES as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "it said nothing".to_owned() } else { lines.join("; ") }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

fn is_starting(error: &server::Error) -> bool {
    matches!(error, server::Error::Unreachable { .. } | server::Error::Disconnected { .. })
        || matches!(error.cause(), Some(Cause::StartingUp | Cause::ShuttingDown))
}

fn configuration(scratch: &Scratch, control: &ControlFile) -> Result<Vec<u8>, Error> {
    let limits = control.limits;
    let run = scratch.run();
    let path = |path: PathBuf| path.display().to_string();
    let number = |number: u32| number.to_string();
    let settings = [
        ("data_directory", path(scratch.data())),
        ("hba_file", path(run.join("pg_hba.conf"))),
        ("ident_file", path(run.join("pg_ident.conf"))),
        ("listen_addresses", String::new()),
        ("unix_socket_directories", path(scratch.sockets())),
        ("unix_socket_permissions", "0700".to_owned()),
        ("port", PORT.to_string()),
        ("archive_mode", "off".to_owned()),
        ("hot_standby", "off".to_owned()),
        ("shared_preload_libraries", String::new()),
        // In the scratch directory, with which it goes.
        ("dynamic_shared_memory_type", "mmap".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
        ("autovacuum", "off".to_owned()),
        ("max_connections", number(limits.max_connections)),
        ("max_worker_processes", number(limits.max_worker_processes)),
        ("max_wal_senders", number(limits.max_wal_senders)),
        ("max_prepared_transactions", number(limits.max_prepared_transactions)),
        ("max_locks_per_transaction", number(limits.max_locks_per_transaction)),
    ];
    let settings = settings.map(|(name, value)| Setting { name: name.to_owned(), value });
    lines(&settings)
}

/// As `postgresql.conf` has them.
fn lines(settings: &[Setting]) -> Result<Vec<u8>, Error> {
    let pairs: Vec<_> =
        settings.iter().map(|setting| (setting.name.clone(), setting.value.clone())).collect();
    settings_file::append(b"", &pairs).map_err(|error| Error::Usage {
        reason: error.to_string(),
        hint: "Name a directory with a plainer path with `--drill-directory DIR`.".to_owned(),
    })
}
