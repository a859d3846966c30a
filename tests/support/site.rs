//! The site itself: where everything of one test lies, and how pgbak is called there.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use super::normalise::Normaliser;
use super::process::{self, wait_until};
use super::{Cluster, Identity, Installation, Outcome, Repository, Running, SmallDisk, Sshd, skip};

/// What suits a test: no waiting for the disk, nothing that happens by itself, and WAL kept for [`super::History`].
const SETTINGS: &str = "
listen_addresses = ''
fsync = off
shared_buffers = 16MB
max_connections = 40
max_wal_senders = 8
max_wal_size = 4GB
wal_keep_size = 4GB
checkpoint_timeout = 1h
autovacuum = off
log_line_prefix = '%m [%p] %b '
log_statement = none
timezone = UTC
lc_messages = C
";

/// The flag of `initdb` for a cluster whose pages have no checksums.
const NO_CHECKSUMS: &str = "--no-data-checksums";

/// A cluster, its repositories, its `pgbak.toml`, and everything that was said.
pub struct Site {
    // Dropped in this order: the server before the directory that it runs in.
    cluster: Cluster,
    repositories: Vec<Repository>,
    identity: Identity,
    transcript: Mutex<Vec<Outcome>>,
    root: tempfile::TempDir,
    /// How many directories have been named by [`Site::fresh`].
    fresh: Mutex<u32>,
}

/// Which site to make; see [`Site::with`].
pub struct SiteBuilder {
    initdb: Vec<String>,
    settings: String,
    config: String,
    repositories: usize,
    tablespaces: usize,
    archiving: bool,
    own_system: bool,
    in_memory: bool,
}

impl Site {
    pub fn with() -> SiteBuilder {
        SiteBuilder {
            initdb: Vec::new(),
            settings: String::new(),
            config: String::new(),
            repositories: 1,
            tablespaces: 0,
            archiving: true,
            own_system: false,
            in_memory: false,
        }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// To stop, crash or start it.
    pub fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// The first repository.
    pub fn repository(&self) -> &Repository {
        &self.repositories[0]
    }

    pub fn repositories(&self) -> &[Repository] {
        &self.repositories
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A path that does not exist yet.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let mut count = self.fresh.lock().expect("no other test uses this site");
        *count += 1;
        self.path(&format!("{name}-{count}"))
    }

    /// A directory that belongs to whom pgbak runs as.
    pub fn make_directory(&self, name: &str) -> PathBuf {
        make_directory(&self.path(name), &self.identity)
    }

    /// A file that belongs to whom pgbak runs as.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.identity.own_path(&path);
        path
    }

    pub fn config(&self) -> String {
        fs::read_to_string(self.path("pgbak.toml")).expect("the site has a configuration")
    }

    /// Puts `to` in the place of `from` in `pgbak.toml`.
    pub fn change_config(&self, from: &str, to: &str) {
        let config = self.config();
        assert!(config.contains(from), "no \"{from}\" in {config}");
        self.write("pgbak.toml", config.replace(from, to));
    }

    /// Adds the repository `name` on an SSH server, reached by `port`. The server must outlive the site.
    pub fn add_remote(&mut self, sshd: &Sshd, name: &str, port: u16) {
        self.repositories.push(sshd.make_repository(name));
        self.add_to_config(&sshd.toml_at(name, port));
    }

    /// Appends to `pgbak.toml`.
    pub fn add_to_config(&self, text: &str) {
        self.write("pgbak.toml", self.config() + text);
    }

    /// Runs pgbak with the site's configuration, to its end. Arguments are split as a shell does, with 'quotes'.
    #[must_use = "say how the run must have ended"]
    pub fn pgbak(&self, arguments: &str) -> Outcome {
        self.call(arguments).run()
    }

    /// A run of pgbak that differs from the usual one.
    pub fn call<'a>(&'a self, arguments: &str) -> Call<'a> {
        let command = self.identity.command(self.path("bin/pgbak"), "KILL");
        Call::new(self, command, arguments)
    }

    /// The same under a tool that runs what it is given, such as `faketime` with its arguments; `None`, with the test
    /// noted as skipped, where the tool is not installed.
    pub fn call_under<'a>(&'a self, tool: &[impl AsRef<str>], arguments: &str) -> Option<Call<'a>> {
        let mut tool = tool.iter().map(AsRef::as_ref);
        let program = tool.next().expect("a tool has a name");
        let is_installed = ["/usr/bin", "/bin"].iter().any(|place| Path::new(place).join(program).exists());
        if !is_installed {
            skip(&format!("{program} is not installed; tests/run.sh installs it"));
            return None;
        }
        let mut command = match program {
            "strace" => self.identity.traced("KILL"),
            _ => self.identity.command(program, "KILL"),
        };
        command.args(tool).arg(self.path("bin/pgbak"));
        Some(Call::new(self, command, arguments))
    }

    /// The same as root; `None`, with the test noted as skipped, where the tests are not run by root.
    pub fn call_as_root<'a>(&'a self, arguments: &str) -> Option<Call<'a>> {
        let own = Identity::own();
        if !own.is_root() {
            skip("this is about pgbak run by root");
            return None;
        }
        Some(Call::new(self, own.command(self.path("bin/pgbak"), "KILL"), arguments))
    }

    /// Restores into a fresh directory, starts what was restored, and waits until it has reached its target.
    pub fn restore(&self, arguments: &str) -> Cluster {
        let directory = self.fresh("restored");
        self.pgbak(&format!("restore -D {} {arguments}", directory.display())).succeeds();
        let mut restored = self.restored_in(&directory);
        restored.launch();
        restored.wait_until_recovered();
        restored
    }

    /// Restores a standby, starts it, and waits until it answers.
    pub fn restore_standby(&self) -> Cluster {
        let directory = self.fresh("standby");
        self.pgbak(&format!("restore --standby -D {}", directory.display())).succeeds();
        let mut standby = self.restored_in(&directory);
        standby.start();
        standby
    }

    /// The same, and it streams from the site's cluster.
    pub fn restore_streaming_standby(&self) -> Cluster {
        let mut standby = self.restore_standby();
        standby.stop();
        standby.set("primary_conninfo", &self.cluster.connection("postgres"));
        standby.start();
        wait_until("the standby to stream", || {
            self.cluster.sql("SELECT count(*) FROM pg_stat_replication") == "1"
        });
        standby
    }

    /// A cluster in a restored directory, not started: with a socket of its own, and kept from archiving.
    pub fn restored_in(&self, directory: &Path) -> Cluster {
        let sockets = make_directory(&self.fresh("s"), &self.identity);
        let log = directory.with_extension("log");
        Cluster::new(directory, &sockets, &log, &self.identity, &["archive_mode=off"])
    }

    /// Waits until everything that the cluster has written so far is in the first repository.
    pub fn wait_until_archived(&self) {
        // Without a record of its own there may be nothing to switch from.
        self.cluster.sql("SELECT pg_logical_emit_message(false, 'test', 'archive this')");
        let segment = self.cluster.switch_wal();
        // The server learns of it a moment later than the repository, and a crash in between archives it again.
        let status = self.cluster.data.join("pg_wal/archive_status").join(format!("{segment}.ready"));
        wait_until(&format!("{segment} to be archived"), || {
            self.repository().holds(&segment) && !status.exists()
        });
    }

    /// A small disk at a fresh path; `None`, with the test noted as skipped, where that is not permitted.
    pub fn small_disk(&self, size: &str) -> Option<SmallDisk> {
        SmallDisk::mount(&self.fresh("disk"), size, &self.identity)
    }

    /// Every file below the site that is in no cluster's directory and in no repository.
    pub fn files_elsewhere(&self) -> Vec<PathBuf> {
        let mut files = super::repository::files_below(self.root.path());
        let homes: Vec<&Path> =
            self.repositories.iter().map(|repository| repository.path.as_path()).collect();
        files.retain(|file| !file.starts_with(&self.cluster.data));
        files.retain(|file| !homes.iter().any(|home| file.starts_with(home)));
        files
    }

    fn note(&self, outcome: &Outcome) {
        self.transcript.lock().expect("no other test uses this site").push(outcome.clone());
    }

    fn normaliser(&self) -> Normaliser {
        let show = |path: &Path, name: String| (path.display().to_string(), name);
        let mut known =
            vec![show(self.root.path(), "<site>".into()), show(&self.cluster.data, "<data>".into())];
        let repositories = self.repositories.iter().enumerate();
        known.extend(repositories.map(|(i, repository)| show(&repository.path, format!("<repo-{}>", i + 1))));
        Normaliser::new(known)
    }
}

impl Drop for Site {
    /// A test that went well has only made backups that are whole, and has left no process behind.
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- configuration\n{}", self.config());
            let transcript = self.transcript.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            transcript.iter().for_each(|outcome| eprintln!("---\n{outcome}"));
            return;
        }
        self.cluster.stop();
        let programs = self.path("bin");
        wait_until("pgbak's background processes to end", || process::running_from(&programs).is_empty());
        let scratch = self.make_directory("proof");
        self.repositories.iter().for_each(|repository| repository.prove_all(&scratch));
    }
}

/// A run of pgbak being put together.
pub struct Call<'a> {
    site: &'a Site,
    command: Command,
    arguments: String,
}

impl<'a> Call<'a> {
    fn new(site: &'a Site, mut command: Command, arguments: &str) -> Self {
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", site.path("home"));
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("PGBAK_CONFIG", site.path("pgbak.toml"));
        command.current_dir(site.root.path()).stdin(Stdio::null()).args(words(arguments));
        Self { site, command, arguments: arguments.to_owned() }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub fn start(mut self) -> Running {
        let (stdout, stderr) = (self.site.fresh("home/stdout"), self.site.fresh("home/stderr"));
        // Files, not pipes: a process left in the background would hold a pipe open.
        self.command.stdout(File::create(&stdout).expect("the site is writable"));
        self.command.stderr(File::create(&stderr).expect("the site is writable"));
        let started_at = Instant::now();
        let child = self.command.spawn().expect("setpriv is installed (util-linux)");
        let normaliser = self.site.normaliser();
        Running { child, arguments: self.arguments, stdout, stderr, started_at, normaliser }
    }

    #[must_use = "say how the run must have ended"]
    pub fn run(self) -> Outcome {
        let site = self.site;
        let outcome = self.start().finish();
        site.note(&outcome);
        outcome
    }
}

impl SiteBuilder {
    /// Adds a flag of `initdb`: `--wal-segsize=1`.
    pub fn initdb(mut self, flag: &str) -> Self {
        self.initdb.push(flag.to_owned());
        self
    }

    /// Adds lines to `postgresql.conf`.
    pub fn settings(mut self, lines: &str) -> Self {
        self.settings += lines;
        self.settings.push('\n');
        self
    }

    /// Adds text to `pgbak.toml`.
    pub fn config(mut self, text: &str) -> Self {
        self.config += text;
        self.config.push('\n');
        self
    }

    pub fn repositories(mut self, count: usize) -> Self {
        self.repositories = count;
        self
    }

    /// With tablespaces `space1`, `space2` … in `space1/`, `space2/` … of the site.
    pub fn tablespaces(mut self, count: usize) -> Self {
        self.tablespaces = count;
        self
    }

    pub fn without_archiving(mut self) -> Self {
        self.archiving = false;
        self
    }

    /// With another system identifier than the other sites' clusters have.
    pub fn of_another_system(mut self) -> Self {
        self.own_system = true;
        self
    }

    /// In a file system that needs no disk, where there is one: for what is restored hundreds of times.
    pub fn in_memory(mut self) -> Self {
        self.in_memory = Path::new("/dev/shm").is_dir();
        self
    }

    /// `None`, with the test noted as skipped, where there is no PostgreSQL.
    pub fn build(self) -> Option<Site> {
        let installation = Installation::find_or_skip()?;
        let identity = Identity::ordinary();
        let place = if self.in_memory { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        let root = tempfile::Builder::new().prefix("pgbak-site-").tempdir_in(place);
        let root = root.expect("a directory for the site");
        identity.own_path(root.path());
        for name in ["bin", "home", "sockets", "repositories"] {
            make_directory(&root.path().join(name), &identity);
        }
        install_pgbak(&root.path().join("bin"));
        let data = root.path().join("data");
        self.copy_template(installation, &identity, &data);
        let repositories = self.make_repositories(root.path(), &identity);
        let sockets = root.path().join("sockets");
        let cluster = Cluster::new(&data, &sockets, &root.path().join("server.log"), &identity, &[]);
        let (transcript, fresh) = (Mutex::default(), Mutex::default());
        let mut site = Site { cluster, repositories, identity, transcript, root, fresh };
        site.write("pgbak.toml", self.configuration(&site));
        site.write("data/postgresql.auto.conf", "");
        let settings = fs::read_to_string(data.join("postgresql.conf")).expect("initdb wrote it");
        site.write(
            "data/postgresql.conf",
            settings + SETTINGS + &self.archive_settings(&site) + &self.settings,
        );
        site.cluster.start();
        for number in 1..=self.tablespaces {
            let location = site.make_directory(&format!("space{number}"));
            let create = format!("CREATE TABLESPACE space{number} LOCATION '{}'", location.display());
            site.cluster.sql(&create);
        }
        Some(site)
    }

    fn make_repositories(&self, root: &Path, identity: &Identity) -> Vec<Repository> {
        let names = ["first", "second", "third"].iter().take(self.repositories);
        names
            .map(|name| {
                let path = make_directory(&root.join("repositories").join(name), identity);
                Repository::new(name, &path, identity)
            })
            .collect()
    }

    fn configuration(&self, site: &Site) -> String {
        let connection = site.cluster.connection("postgres");
        let data = site.cluster.data.display();
        let mut text = format!(
            "[postgres]\nconnection = \"{connection}\"\ndata_directory = \"{data}\"\n\n{}",
            self.config
        );
        for Repository { name, path, .. } in &site.repositories {
            text += &format!("\n[[repository]]\nname = \"{name}\"\npath = \"{}\"\n", path.display());
        }
        text
    }

    fn archive_settings(&self, site: &Site) -> String {
        if !self.archiving {
            return "archive_mode = off\n".to_owned();
        }
        let (pgbak, config) = (site.path("bin/pgbak"), site.path("pgbak.toml"));
        format!(
            "archive_mode = on\narchive_command = '{} --config {} wal-push %p'\n",
            pgbak.display(),
            config.display()
        )
    }

    /// Copies a cluster that `initdb` made once for all tests with the same flags.
    fn copy_template(&self, installation: &Installation, identity: &Identity, data: &Path) {
        static MAKING: Mutex<()> = Mutex::new(());
        let mut flags = self.initdb.clone();
        flags.sort();
        let version: String = installation.version.chars().filter(|c| !" ()/".contains(*c)).collect();
        let system = if self.own_system { "-other" } else { "" };
        let name = format!("cluster-{version}-{}{system}{}", identity.uid, flags.concat());
        let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        {
            let _making = MAKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if !template.exists() {
                make_template(installation, identity, &flags, data);
                // Complete before it has its name, for a run that is interrupted here.
                let unfinished = template.with_extension("unfinished");
                let _ = fs::remove_dir_all(&unfinished);
                process::run(Command::new("cp").arg("-a").arg(data).arg(&unfinished));
                fs::rename(&unfinished, &template).expect("the target directory is writable");
                return;
            }
        }
        process::run(Command::new("cp").arg("-a").arg(&template).arg(data));
    }
}

fn make_template(installation: &Installation, identity: &Identity, flags: &[String], data: &Path) {
    let mut initdb = identity.command(installation.program("initdb"), "KILL");
    initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
    // Without them is the default before 18, and has no flag there.
    match flags.iter().position(|flag| flag == NO_CHECKSUMS) {
        None => drop(initdb.arg("--data-checksums")),
        Some(_) if installation.major >= 18 => drop(initdb.arg(NO_CHECKSUMS)),
        Some(_) => {}
    }
    initdb.arg("-D").arg(data).args(flags.iter().filter(|flag| *flag != NO_CHECKSUMS));
    initdb.current_dir(data.parent().expect("it lies in the site"));
    process::run(&mut initdb);
}

/// Links or copies the binary into the site: where it was built, another user may be unable to read it.
fn install_pgbak(directory: &Path) {
    let (built, installed) = (Path::new(env!("CARGO_BIN_EXE_pgbak")), directory.join("pgbak"));
    if fs::hard_link(built, &installed).is_err() {
        // A process of its own: a file that this one has open for writing, a test beside may fail to run.
        process::run(Command::new("cp").arg(built).arg(&installed));
    }
}

fn make_directory(path: &Path, identity: &Identity) -> PathBuf {
    fs::DirBuilder::new().mode(0o700).create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    identity.own_path(path);
    path.to_owned()
}

/// Splits at spaces, except between single quotes.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in text.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    assert!(!quoted, "a quote is not closed: {text}");
    words.extend(word);
    words
}
