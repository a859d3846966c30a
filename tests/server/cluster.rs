//! A throw-away PostgreSQL cluster on a private socket and a loopback port.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;

use pgbak::server::ConnectionSettings;
use tempfile::TempDir;

use crate::installation::Installation;

/// Stopped and removed when dropped.
pub struct Cluster {
    directory: TempDir,
    port: u16,
    /// Keeps it for the clusters to come.
    _template: Option<Arc<TempDir>>,
}

const BASIC_SETTINGS: &str = "\
    fsync = off\n\
    autovacuum = off\n\
    listen_addresses = '127.0.0.1'\n\
    log_min_messages = log\n\
    wal_keep_size = 256MB\n";

impl Cluster {
    /// A running cluster with page checksums, where everybody is trusted. `None`, with the test noted as skipped, where
    /// there is no PostgreSQL.
    pub fn start() -> Option<Self> {
        Self::start_with("", "")
    }

    /// A running cluster with these lines at the end of postgresql.conf, and these before the usual ones (everybody
    /// trusted) in pg_hba.conf.
    pub fn start_with(settings: &str, hba: &str) -> Option<Self> {
        Installation::find_or_skip()?;
        let mut cluster = Self::empty();
        let template = template();
        let from = template.path().join("data");
        cluster.run("cp", &["-a", from.to_str().unwrap(), cluster.data().to_str().unwrap()]);
        cluster._template = Some(template);
        let settings = format!("{}{BASIC_SETTINGS}{settings}", cluster.place_settings());
        cluster.append("postgresql.conf", &settings);
        let usual = fs::read_to_string(cluster.data().join("pg_hba.conf")).unwrap();
        fs::write(cluster.data().join("pg_hba.conf"), format!("{hba}\n{usual}")).unwrap();
        cluster.control(&["-w", "start"]);
        Some(cluster)
    }

    /// A standby of `primary`, streaming from it.
    pub fn standby_of(primary: &Self) -> Self {
        let cluster = Self::empty();
        let data = cluster.data();
        let source = format!("host={} port={} user=postgres", primary.path().display(), primary.port);
        cluster
            .run(&bin("pg_basebackup"), &["-D", data.to_str().unwrap(), "-R", "-c", "fast", "-d", &source]);
        cluster.append("postgresql.conf", &cluster.place_settings());
        cluster.control(&["-w", "start"]);
        cluster
    }

    fn empty() -> Self {
        let directory = tempfile::Builder::new().prefix("pgbak-server-test-").tempdir().unwrap();
        if let Some(uid) = postgres_uid() {
            chown(directory.path(), Some(uid), None).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { directory, port, _template: None }
    }

    fn place_settings(&self) -> String {
        format!("\nunix_socket_directories = '{}'\nport = {}\n", self.path().display(), self.port)
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Settings that come from `connection` alone: the environment is empty and the home is the cluster's directory.
    pub fn settings(&self, connection: &str) -> ConnectionSettings {
        let home = self.path().to_str().unwrap().to_owned();
        ConnectionSettings::resolve(connection, &|name| (name == "HOME").then(|| home.clone())).unwrap()
    }

    /// Over the socket, as the superuser unless `more` says otherwise.
    pub fn local(&self, more: &str) -> ConnectionSettings {
        self.settings(&format!("host={} port={} user=postgres {more}", self.path().display(), self.port))
    }

    pub fn tcp(&self, more: &str) -> ConnectionSettings {
        self.settings(&format!("host=127.0.0.1 port={} user=postgres {more}", self.port))
    }

    /// What psql prints for `sql`, without the last newline.
    pub fn sql(&self, sql: &str) -> String {
        let socket = self.path().to_str().unwrap();
        let port = self.port.to_string();
        let psql = ["-h", socket, "-p", &port, "-U", "postgres", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql];
        let output = self.run(&bin("psql"), &psql);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Waits until `sql` says `t`.
    pub fn wait_for(&self, sql: &str) {
        for _ in 0..600 {
            if self.sql(sql) == "t" {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("still not true: {sql}");
    }

    /// A directory for a tablespace, which the server may use.
    pub fn space(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        if let Some(uid) = postgres_uid() {
            chown(&path, Some(uid), None).unwrap();
        }
        path
    }

    /// A file beside the data directory, readable by the server alone.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some(uid) = postgres_uid() {
            chown(&path, Some(uid), None).unwrap();
        }
        path
    }

    pub fn append(&self, file: &str, lines: &str) {
        let path = self.data().join(file);
        let content = fs::read_to_string(&path).unwrap();
        fs::write(&path, content + lines).unwrap();
    }

    pub fn control(&self, arguments: &[&str]) {
        let (data, log) = (self.data(), self.path().join("log"));
        let place = ["-D", data.to_str().unwrap(), "-l", log.to_str().unwrap(), "-s"];
        self.run(&bin("pg_ctl"), &[&place[..], arguments].concat());
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let output = as_postgres(program).args(arguments).current_dir(self.path()).output().unwrap();
        if !output.status.success() {
            let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
            panic!("{program} {arguments:?}: {}\n{log}", String::from_utf8_lossy(&output.stderr));
        }
        output
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
            eprintln!("--- log of the server in {}\n{log}", self.path().display());
        }
        let data = self.data();
        let stop = ["-D", data.to_str().unwrap(), "-s", "-w", "-m", "immediate", "stop"];
        // A cluster that the test has stopped itself is fine.
        let _ = as_postgres(&bin("pg_ctl")).args(stop).current_dir("/").output();
    }
}

/// A data directory fresh from initdb, made once and copied for each cluster; gone with the last of them.
fn template() -> Arc<TempDir> {
    static TEMPLATE: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut template = TEMPLATE.lock().unwrap();
    if let Some(directory) = template.upgrade() {
        return directory;
    }
    let directory = tempfile::Builder::new().prefix("pgbak-server-template-").tempdir().unwrap();
    if let Some(uid) = postgres_uid() {
        chown(directory.path(), Some(uid), None).unwrap();
    }
    let data = directory.path().join("data");
    let arguments =
        ["-D", data.to_str().unwrap(), "-A", "trust", "-U", "postgres", "-kN", "--no-instructions"];
    let output = as_postgres(&bin("initdb")).args(arguments).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let directory = Arc::new(directory);
    *template = Arc::downgrade(&directory);
    directory
}

/// The server refuses to run as root, so root runs everything of PostgreSQL's as the user postgres.
fn as_postgres(program: &str) -> Command {
    if postgres_uid().is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--", program]);
    command
}

/// `None` when we are not root and run everything ourselves.
fn postgres_uid() -> Option<u32> {
    static UID: OnceLock<Option<u32>> = OnceLock::new();
    *UID.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line =
            passwd.lines().find(|line| line.starts_with("postgres:")).expect("there is a user postgres");
        Some(line.split(':').nth(2).unwrap().parse().unwrap())
    })
}

fn bin(program: &str) -> String {
    let installation = Installation::find().expect("no cluster is made without one");
    installation.program(program).to_str().expect("a path in ASCII").to_owned()
}
