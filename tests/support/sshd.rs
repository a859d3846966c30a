//! A real OpenSSH server for one test: own port, throw-away keys, a directory of its own.
//!
//! Run by root, it logs in the [`Identity`]'s user, who may have no password (`UsePAM yes` lets such a user in with a
//! key, as on any Debian server); run by anybody else, it logs in whoever that is. sshd demands that all of a chroot's
//! path belongs to root and is writable by root alone, which rules out `/tmp`: root's servers live below `/run`.
//! The one thing that stays is sshd's own `/run/sshd`, which it insists on and the next start of the system clears.

use std::fs::{self, File, OpenOptions, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;

use rustix::process::Signal;

use super::cluster::free_port;
use super::process::{self, wait_for_exit, wait_until};
use super::{Identity, Repository, skip};

const SSH_PORT: u16 = 22;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// An ordinary login: any command, any directory.
    Shell,
    /// `ForceCommand internal-sftp` with `ChrootDirectory`. Only root can offer it.
    Chrooted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    Ed25519,
    Rsa,
    Ecdsa,
}

/// Dropping it stops the server and all its sessions, and removes every file.
pub struct Sshd {
    account: Account,
    identity: Identity,
    user: String,
    address: Ipv4Addr,
    port: u16,
    host_keys: Vec<KeyType>,
    child: Option<Child>,
    /// What runs it: nothing, or a program and its options.
    tracer: Vec<String>,
    /// How many keys [`Sshd::new_key`] has made.
    keys: Mutex<u32>,
    directory: tempfile::TempDir,
}

/// Which server to make; see [`Sshd::with`].
pub struct SshdBuilder<'a> {
    identity: &'a Identity,
    account: Account,
    address: Option<Ipv4Addr>,
    host_keys: Vec<KeyType>,
    config: String,
    tracer: Vec<String>,
}

impl Sshd {
    /// A server that runs; `None`, with the test noted as skipped, where it cannot be had.
    pub fn start(identity: &Identity, account: Account) -> Option<Self> {
        Self::with(identity, account).start()
    }

    pub fn with(identity: &Identity, account: Account) -> SshdBuilder<'_> {
        let host_keys = vec![KeyType::Ed25519];
        SshdBuilder { identity, account, address: None, host_keys, config: String::new(), tracer: Vec::new() }
    }

    /// Where it listens; a loopback address, usually 127.0.0.1.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whom it logs in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The directory for repositories, as clients see it.
    pub fn root_path(&self) -> PathBuf {
        match self.account {
            Account::Shell => self.local_path(),
            Account::Chrooted => "/repositories".into(),
        }
    }

    /// The same directory, as this machine sees it.
    pub fn local_path(&self) -> PathBuf {
        self.path("account/repositories")
    }

    /// The private key that the account accepts, for the identity alone.
    pub fn key(&self) -> PathBuf {
        self.path("keys/id_ed25519")
    }

    /// Makes another key; the account accepts it after [`Sshd::authorize`].
    pub fn new_key(&self, key_type: KeyType, passphrase: &str) -> PathBuf {
        let mut count = self.keys.lock().expect("no other test uses this server");
        *count += 1;
        let key = self.path(&format!("keys/{}-{count}", key_type.file_name()));
        make_key(&key, key_type, passphrase, &self.identity);
        key
    }

    pub fn authorize(&self, key: &Path) {
        let line = fs::read_to_string(key.with_added_extension("pub")).expect("a key has a public half");
        let authorized = self.path("authorized_keys");
        let before = fs::read_to_string(&authorized).unwrap_or_default();
        fs::write(&authorized, before + &line).expect("the server's directory is writable");
    }

    /// From now on the account accepts no key.
    pub fn refuse_keys(&self) {
        fs::write(self.path("authorized_keys"), "").expect("the server's directory is writable");
    }

    /// A file that knows this server's host keys.
    pub fn known_hosts(&self) -> PathBuf {
        self.known_hosts_at(self.port)
    }

    /// The same for the server reached by another port of this machine, that of a proxy.
    pub fn known_hosts_at(&self, port: u16) -> PathBuf {
        // Where the identity may write: `ssh-keygen -R` puts a new file in the place of the old one.
        let path = self.path(&format!("keys/known_hosts-{port}"));
        let host = match port {
            SSH_PORT => self.address.to_string(),
            _ => format!("[{}]:{port}", self.address),
        };
        let line = |key_type: &KeyType| {
            let key = fs::read_to_string(self.host_key(*key_type).with_added_extension("pub"))
                .expect("a host key has a public half");
            format!("{host} {key}")
        };
        fs::write(&path, self.host_keys.iter().map(line).collect::<String>())
            .expect("the server's directory is writable");
        self.identity.own_path(&path);
        path
    }

    /// Makes new host keys, which the next start offers; the files of known hosts stay as they are.
    pub fn change_host_keys(&self) {
        for &key_type in &self.host_keys {
            let key = self.host_key(key_type);
            fs::remove_file(&key).expect("there is a host key");
            make_key(&key, key_type, "", &Identity::own());
        }
    }

    /// Makes an empty directory `name` for a repository; returns it as this machine sees it.
    pub fn make_repository(&self, name: &str) -> Repository {
        let path = self.local_path().join(name);
        make_directory(&path, 0o700, &self.identity);
        Repository::new(name, &path, &self.identity)
    }

    /// The `[[repository]]` block of `pgbak.toml` for the directory `name`.
    pub fn toml(&self, name: &str) -> String {
        self.toml_at(name, self.port)
    }

    /// The same, reached by another port of this machine, that of a proxy.
    pub fn toml_at(&self, name: &str, port: u16) -> String {
        let (user, address, root) = (&self.user, self.address, self.root_path());
        format!(
            "\n[[repository]]\nname = \"{name}\"\nurl = \"ssh://{user}@{address}:{port}{}/{name}\"\n\
             ssh_key = \"{}\"\nknown_hosts = \"{}\"\nsessions = 2\n",
            root.display(),
            self.key().display(),
            self.known_hosts_at(port).display()
        )
    }

    /// Ends the server and its sessions, with time for each to say farewell.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Ends the server and all its sessions at once.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Starts it after [`Sshd::stop`] or [`Sshd::kill`]: the same port, the same host keys.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it was stopped before");
        self.launch();
    }

    /// From the next start on, the server is run by another program, or, for no words, by none.
    pub fn run_under(&mut self, tracer: &[String]) {
        self.tracer = tracer.to_vec();
    }

    /// Kills the sessions alone; new ones are welcome.
    pub fn kill_connections(&self) {
        let listener = self.child.as_ref().expect("the server runs").id();
        kill_all(&freeze_descendants(listener));
    }

    /// How many connections there are, those that have not logged in yet included.
    pub fn connections(&self) -> usize {
        self.child.as_ref().map_or(0, |child| process::children(child.id()).len())
    }

    /// All that the server has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn host_key(&self, key_type: KeyType) -> PathBuf {
        self.path(&format!("host_{}", key_type.file_name()))
    }

    fn launch(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.path("log"));
        let log = log.expect("the server's directory is writable");
        let said_before = self.log().len();
        // By its whole path: it runs itself again for each connection.
        let sshd = program("sshd").expect("found before");
        let mut command = match self.tracer.split_first() {
            None => Identity::own().command(sshd, "KILL"),
            Some((tracer, options)) => {
                let mut command = Identity::own().command(tracer, "KILL");
                command.args(options).arg(sshd);
                command
            }
        };
        command.args(["-D", "-e", "-f"]).arg(self.path("sshd_config")).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("setpriv is installed (util-linux)"));
        wait_until("sshd to listen", || {
            let ended = self.child.as_mut().expect("just started").try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "sshd ended: {}", self.log());
            self.log()[said_before..].contains("Server listening on")
        });
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        // Nobody may be born while the family is counted.
        process::signal(&child, Signal::STOP);
        let mut family = freeze_descendants(child.id());
        family.iter().for_each(|&pid| process::send(pid, signal));
        family.iter().for_each(|&pid| process::send(pid, Signal::CONT));
        process::signal(&child, signal);
        process::signal(&child, Signal::CONT);
        wait_for_exit(&mut child, "sshd");
        wait_until("sshd's sessions to end", || {
            family.retain(|&pid| process::is_alive(pid));
            family.is_empty()
        });
    }

    fn configuration(&self, more: &str) -> String {
        let root = self.directory.path().display();
        let (pam, sftp_server) = (if is_root() { "yes" } else { "no" }, sftp_server());
        // The first value of each keyword holds, so what a test adds goes first.
        let mut text = format!(
            "{more}Port {}\nListenAddress {}\nAddressFamily inet\nPidFile none\nUsePAM {pam}\n\
             StrictModes no\nAuthorizedKeysFile {root}/authorized_keys\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitUserEnvironment no\nUseDNS no\nPrintMotd no\n\
             PrintLastLog no\nLogLevel VERBOSE\n",
            self.port, self.address
        );
        for &key_type in &self.host_keys {
            text += &format!("HostKey {}\n", self.host_key(key_type).display());
        }
        text += &match self.account {
            Account::Shell => format!("Subsystem sftp {sftp_server}\n"),
            Account::Chrooted => format!(
                "Subsystem sftp internal-sftp\nForceCommand internal-sftp\nChrootDirectory {root}/account\n\
                 AllowTcpForwarding no\nX11Forwarding no\n"
            ),
        };
        text
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.end(Signal::KILL);
        if thread::panicking() {
            eprintln!("--- log of sshd on port {}\n{}", self.port, self.log());
        }
    }
}

impl SshdBuilder<'_> {
    /// Instead of one Ed25519 key.
    pub fn host_keys(mut self, types: &[KeyType]) -> Self {
        self.host_keys = types.to_vec();
        self
    }

    /// On SSH's own port of another loopback address.
    pub fn on_port_22_of(mut self, address: Ipv4Addr) -> Self {
        self.address = Some(address);
        self
    }

    /// Adds lines to `sshd_config`; they win over the usual ones.
    pub fn config(mut self, lines: &str) -> Self {
        self.config += lines;
        self.config.push('\n');
        self
    }

    /// Run by another program: `strace` and its options, for example.
    pub fn under(mut self, tracer: &[String]) -> Self {
        self.tracer = tracer.to_vec();
        self
    }

    /// `None`, with the test noted as skipped, where there is no sshd or it cannot offer such an account.
    pub fn start(self) -> Option<Sshd> {
        if program("sshd").is_none() || program("ssh-keygen").is_none() {
            skip("no OpenSSH server is installed; tests/run.sh installs one");
            return None;
        }
        if self.account == Account::Chrooted && !is_root() {
            skip("only root can run sshd with a chroot");
            return None;
        }
        if let Some(address) = self.address
            && TcpListener::bind((address, SSH_PORT)).is_err()
        {
            skip("port 22 cannot be had here");
            return None;
        }
        let (user, shell) = login(self.identity);
        if self.account == Account::Shell && !has_shell(&shell) {
            skip(&format!("{user} has no shell to log in with but {shell}"));
            return None;
        }
        let mut sshd = Sshd {
            account: self.account,
            identity: self.identity.clone(),
            user,
            address: self.address.unwrap_or(Ipv4Addr::LOCALHOST),
            port: if self.address.is_some() { SSH_PORT } else { free_port() },
            host_keys: self.host_keys,
            child: None,
            tracer: self.tracer,
            keys: Mutex::default(),
            directory: make_home(),
        };
        let own = Identity::own();
        make_directory(&sshd.path("account"), 0o755, &own);
        make_directory(&sshd.path("keys"), 0o700, self.identity);
        make_directory(&sshd.local_path(), 0o700, self.identity);
        for &key_type in &sshd.host_keys {
            make_key(&sshd.host_key(key_type), key_type, "", &own);
        }
        make_key(&sshd.key(), KeyType::Ed25519, "", self.identity);
        sshd.authorize(&sshd.key());
        fs::write(sshd.path("sshd_config"), sshd.configuration(&self.config)).expect("it is writable");
        sshd.launch();
        Some(sshd)
    }
}

impl KeyType {
    /// As `ssh-keygen -t` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Rsa => "rsa",
            Self::Ecdsa => "ecdsa",
        }
    }

    fn file_name(self) -> String {
        format!("id_{}", self.name())
    }
}

fn is_root() -> bool {
    Identity::own().is_root()
}

/// A directory that sshd accepts a chroot below, where the tests are run by root.
fn make_home() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("pgbak-sshd-").permissions(Permissions::from_mode(0o755));
    if !is_root() {
        return builder.tempdir().expect("a directory for sshd");
    }
    // As the package's service does: sshd refuses to start without it.
    let _ = fs::DirBuilder::new().mode(0o755).create("/run/sshd");
    let home = builder.tempdir_in("/run").expect("a directory for sshd");
    // Whatever the umask is.
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).expect("it is ours");
    home
}

fn make_directory(path: &Path, mode: u32, owner: &Identity) {
    fs::create_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it was just made");
    owner.own_path(path);
}

fn make_key(path: &Path, key_type: KeyType, passphrase: &str, owner: &Identity) {
    let mut keygen = Command::new("ssh-keygen");
    // An RSA key as short as OpenSSH still accepts is made soonest.
    let bits = if key_type == KeyType::Rsa { &["-b", "2048"][..] } else { &[] };
    keygen.args(["-q", "-t", key_type.name(), "-C", "pgbak-test", "-N", passphrase]).args(bits);
    process::run(keygen.arg("-f").arg(path).stdin(Stdio::null()));
    owner.own_path(path);
    owner.own_path(&path.with_added_extension("pub"));
}

/// Name and shell of the identity's user.
fn login(identity: &Identity) -> (String, String) {
    let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let of_it = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, _, _, _, shell] = fields[..] else { return None };
        (uid.parse() == Ok(identity.uid)).then(|| (name.to_owned(), shell.to_owned()))
    };
    users.lines().find_map(of_it).unwrap_or_else(|| panic!("user {} is not in /etc/passwd", identity.uid))
}

fn has_shell(shell: &str) -> bool {
    !["", "/bin/false"].contains(&shell) && !shell.ends_with("/nologin")
}

/// OpenSSH's own server program, as Debian's configuration names it.
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// Whether the account has a server program of its own, and not the one that is built into sshd.
pub fn has_separate_sftp_server() -> bool {
    Path::new(SFTP_SERVER).exists()
}

fn sftp_server() -> &'static str {
    if has_separate_sftp_server() { SFTP_SERVER } else { "internal-sftp" }
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// Stops every descendant where it is, the elder before the younger, so that none escapes the count.
fn freeze_descendants(parent: u32) -> Vec<i32> {
    let mut family = process::children(parent);
    let mut next = 0;
    while let Some(&pid) = family.get(next) {
        process::send(pid, Signal::STOP);
        family.extend(process::children(pid.unsigned_abs()));
        next += 1;
    }
    family
}

fn kill_all(family: &[i32]) {
    family.iter().for_each(|&pid| process::send(pid, Signal::KILL));
    wait_until("sshd's sessions to end", || !family.iter().any(|&pid| process::is_alive(pid)));
}
