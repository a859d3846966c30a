//! A PostgreSQL cluster that runs from a directory of the site, on a private socket.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use postgres::types::PgLsn;
use postgres::{Client, NoTls, SimpleQueryMessage};
use rustix::process::Signal;

use super::history::{self, Commit};
use super::process::{self, wait_for, wait_for_exit, wait_until};
use super::{Identity, Installation};
use pgbak::pg::Lsn;

/// Dropping it stops the server at once.
pub struct Cluster {
    pub data: PathBuf,
    sockets: PathBuf,
    port: u16,
    log: PathBuf,
    identity: Identity,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Cluster {
    /// A cluster in `data`, not started. `settings` are `name=value`, as on the command line.
    pub fn new(data: &Path, sockets: &Path, log: &Path, identity: &Identity, settings: &[&str]) -> Self {
        Self {
            data: data.to_owned(),
            sockets: sockets.to_owned(),
            port: free_port(),
            log: log.to_owned(),
            identity: identity.clone(),
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            environment: Vec::new(),
            child: None,
        }
    }

    /// Gives a variable to the server and to the commands that it runs, from the next start on.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Gives a setting on the command line of the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push(format!("{name}={value}"));
    }

    /// Starts the server, without waiting for anything.
    pub fn launch(&mut self) {
        let installation = Installation::find().expect("a cluster is made only where PostgreSQL is");
        let mut command = self.identity.command(installation.program("postgres"), "QUIT");
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.sockets).arg("-p").arg(self.port.to_string());
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        let log = File::options().create(true).append(true).open(&self.log).expect("the log is writable");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &self.sockets).env("LC_ALL", "C").current_dir(&self.sockets);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
        self.child = Some(command.spawn().expect("setpriv is installed (util-linux)"));
    }

    /// Starts the server and waits until it answers.
    pub fn start(&mut self) {
        self.launch();
        self.wait_until_it_answers();
    }

    /// Stops the server as `pg_ctl stop -m fast` does, which archives what is left.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Kills every process of the server at once, as a power failure would.
    pub fn crash(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        let mut family = process::children(child.id());
        process::signal(&child, Signal::KILL);
        family.iter().for_each(|&pid| process::send(pid, Signal::KILL));
        wait_for_exit(&mut child, "a killed server");
        wait_until("the server's processes to be gone", || {
            family.retain(|&pid| process::is_alive(pid));
            family.is_empty()
        });
    }

    /// Stops the server's processes where they are, without ending them.
    pub fn freeze(&self) {
        self.signal_children(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal_children(Signal::CONT);
    }

    fn signal_children(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        process::children(child.id()).into_iter().for_each(|pid| process::send(pid, signal));
    }

    /// Waits until the server has ended by itself; returns whether it succeeded.
    pub fn wait_until_it_ends(&mut self) -> bool {
        let mut child = self.child.take().expect("the server runs");
        wait_for_exit(&mut child, "the server").success()
    }

    pub fn wait_until_it_answers(&mut self) {
        wait_for("the server to answer", || {
            self.assert_alive();
            self.connect().ok()
        });
    }

    /// Waits until recovery has reached its target: paused there, or ended with a promotion. As long as it gets on, it
    /// may have much WAL to replay.
    pub fn wait_until_recovered(&mut self) {
        let mut replayed = None;
        while let Some(further) = self.recovery_after(replayed) {
            replayed = Some(further);
        }
    }

    /// How far recovery has got once that is further than `replayed`; `None` when it has reached its target.
    fn recovery_after(&mut self, replayed: Option<PgLsn>) -> Option<PgLsn> {
        wait_for("recovery to go on, or to reach its target", || {
            self.assert_alive();
            let state =
                "SELECT NOT pg_is_in_recovery() OR pg_is_wal_replay_paused(), pg_last_wal_replay_lsn()";
            // A server that ends meanwhile closes the connection; the next round says so.
            let row = self.connect().ok()?.query_one(state, &[]).ok()?;
            let further: Option<PgLsn> = row.get(1);
            match row.get(0) {
                true => Some(None),
                false => (further > replayed).then_some(further),
            }
        })
    }

    /// What `psql -At` would print: rows on lines, columns apart by `|`.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    pub fn try_sql(&self, sql: &str) -> Result<String, postgres::Error> {
        let messages = self.connect()?.simple_query(sql)?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let columns = (0..row.len()).map(|i| row.get(i).unwrap_or_default());
                Some(columns.collect::<Vec<_>>().join("|"))
            }
            _ => None,
        });
        Ok(rows.collect::<Vec<_>>().join("\n"))
    }

    pub fn connect(&self) -> Result<Client, postgres::Error> {
        // A statement that waits for a lock for ever would hide what went wrong.
        let bound = format!("{} options='-c statement_timeout=60s'", self.connection("postgres"));
        Client::connect(&bound, NoTls)
    }

    /// A libpq connection string for `user`.
    pub fn connection(&self, user: &str) -> String {
        format!("host='{}' port={} user={user} dbname=postgres", self.sockets.display(), self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// The server's clock, as PostgreSQL writes it: `2026-11-22 02:00:00.123456+00`.
    pub fn now(&self) -> String {
        self.sql("SELECT clock_timestamp()")
    }

    /// Where the next record goes.
    pub fn lsn(&self) -> Lsn {
        self.sql("SELECT pg_current_wal_insert_lsn()").parse().expect("the server says an LSN")
    }

    /// Ends the segment in use, so that it can be archived; returns its name.
    pub fn switch_wal(&self) -> String {
        self.sql("SELECT pg_walfile_name(pg_switch_wal())")
    }

    pub fn system_identifier(&self) -> String {
        self.sql("SELECT system_identifier FROM pg_control_system()")
    }

    /// Where a restore point was made.
    pub fn restore_point(&self, name: &str) -> Lsn {
        history::read_restore_point(&self.identity, &self.data, name, self.lsn())
    }

    /// Every commit from `start` on, in WAL order, as `pg_waldump` reads it from `pg_wal`.
    pub fn commits_since(&self, start: Lsn) -> Vec<Commit> {
        history::read_commits(&self.identity, &self.data, start, self.lsn())
    }

    /// A client program of the same installation, pointed at this cluster.
    pub fn client(&self, program: &str) -> Command {
        let installation = Installation::find().expect("a cluster is made only where PostgreSQL is");
        let mut command = self.identity.command(installation.program(program), "KILL");
        command.current_dir(&self.sockets).env("PGHOST", &self.sockets).env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }

    /// All that the server has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn assert_alive(&mut self) {
        let status = self.child.as_mut().expect("the server was started").try_wait();
        let status = status.expect("a child can be waited for");
        assert!(status.is_none(), "the server ended, {}", status.expect("just seen"));
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        process::signal(&child, signal);
        wait_for_exit(&mut child, "the server that was told to stop");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of the server in {}\n{}", self.data.display(), self.log());
        }
        self.end(Signal::QUIT);
    }
}

/// A port that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface is up");
    listener.local_addr().expect("it is bound").port()
}
