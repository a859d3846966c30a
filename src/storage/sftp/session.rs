//! From an address to a channel that speaks SFTP: handshake, the server's key, ours, the subsystem.
//!
//! Nothing is asked of the server before its key was found on file, and nothing blocks: each step is repeated until
//! libssh2 has what it waits for, with an eye on the interrupt and a bound on the waits. (Only the agent is asked
//! in one piece: it may want the user's consent.)
//!
//! `~/.ssh/config` is not read: host, port, user, key and known_hosts come from pgbak's own configuration.

use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use rustix::event::{PollFd, PollFlags};
use ssh2::{BlockDirections, Channel, ErrorCode, MethodType, Session};

use super::super::ErrorKind;
use super::dial::{dial, is_quiet};
use super::failure::{Attempt, Failure};
use super::keys::PrivateKey;
use super::known_hosts::{self, HostKeys, Verdict};
use super::packet::{self, Extensions, PACKET_BYTES_MAX};
use super::settings::SftpSettings;
use super::waiting::Waiting;

/// A login takes a dozen round trips and some computing. The server's own patience is two minutes.
const LOGIN: Duration = Duration::from_secs(20);

/// A server that sends a little for ever is waited for no more often than this.
const WAITS_MAX: u32 = 10_000;

/// How much the server may send before it has to wait for our consent: more than is ever asked for at once.
const RECEIVE_WINDOW_BYTES: u32 = 8 << 20;
const SSH_PACKET_BYTES: u32 = 32 << 10;

/// libssh2's numbers for what matters here.
mod code {
    pub const FILE: i32 = -16;
    pub const AUTHENTICATION_FAILED: i32 = -18;
    pub const PUBLICKEY_UNVERIFIED: i32 = -19;
    pub const CHANNEL_REQUEST_DENIED: i32 = -22;
    pub const WOULD_BLOCK: i32 = -37;
    pub const METHOD_NOT_SUPPORTED: i32 = -33;
}

/// A session whose channel has answered as SFTP.
pub struct Established {
    pub session: Session,
    pub channel: Channel,
    pub socket: Arc<TcpStream>,
    pub extensions: Extensions,
}

/// One login in progress.
struct Login<'a> {
    settings: &'a SftpSettings,
    session: Session,
    socket: Arc<TcpStream>,
    waiting: Waiting,
    waits: u32,
}

pub fn establish(settings: &SftpSettings, waiting: &Waiting) -> Attempt<Established> {
    let file = read_known_hosts(settings)?;
    let host_keys = HostKeys::find(&file, &settings.host, settings.port);
    let socket = Arc::new(dial(&settings.host, settings.port, waiting)?);
    let mut session = Session::new().map_err(|error| Failure::lost(error.message()))?;
    session.set_tcp_stream(Arc::clone(&socket));
    session.set_blocking(false);
    let mut login = Login { settings, session, socket, waiting: waiting.at_most(LOGIN), waits: 0 };
    login.shake_hands(&host_keys)?;
    login.authenticate()?;
    let mut channel = login.open_subsystem()?;
    let extensions = login.greet(&mut channel)?;
    Ok(Established { session: login.session, channel, socket: login.socket, extensions })
}

impl Login<'_> {
    /// Repeats a call of libssh2's until it no longer would block.
    fn drive<T>(
        &mut self,
        mut call: impl FnMut(&mut Session) -> Result<T, ssh2::Error>,
    ) -> Attempt<Result<T, ssh2::Error>> {
        loop {
            match call(&mut self.session) {
                Err(error) if number(&error) == code::WOULD_BLOCK => self.wait()?,
                outcome => return Ok(outcome),
            }
        }
    }

    fn wait(&mut self) -> Attempt<()> {
        self.waits += 1;
        if self.waits > WAITS_MAX {
            return Err(Failure::lost("the login does not come to an end"));
        }
        self.waiting.check()?;
        let wants = match self.session.block_directions() {
            BlockDirections::Outbound => PollFlags::OUT,
            BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
        };
        let socket: &TcpStream = &self.socket;
        if is_quiet(&mut [PollFd::new(socket, wants)])? {
            self.waiting.waited()?;
        }
        Ok(())
    }

    fn refused(&self, reason: String, hint: Option<String>) -> Failure {
        Failure::Refused { kind: ErrorKind::Denied, reason, hint }
    }

    fn shake_hands(&mut self, host_keys: &HostKeys) -> Attempt<()> {
        let algorithms = host_keys.algorithms();
        // Left to libssh2's own order where it knows none of these, which the check below then judges.
        let _ = self.session.method_pref(MethodType::HostKey, &algorithms);
        self.drive(Session::handshake)?.map_err(|error| match number(&error) {
            code::METHOD_NOT_SUPPORTED => Failure::Refused {
                kind: ErrorKind::Other,
                reason: format!("no common algorithm: {}", error.message()),
                hint: None,
            },
            _ => Failure::lost(format!("the SSH handshake failed: {}", error.message())),
        })?;
        let Some((key, _)) = self.session.host_key() else {
            return Err(Failure::lost("the server showed no host key"));
        };
        match host_keys.check(key) {
            Verdict::Known => Ok(()),
            verdict => Err(self.distrust(verdict, key)),
        }
    }

    fn distrust(&self, verdict: Verdict, key: &[u8]) -> Failure {
        let SftpSettings { host, port, .. } = self.settings;
        let name = known_hosts::name_on_file(host, *port);
        let file = match &self.settings.known_hosts {
            Some(file) => shell_word(&file.display().to_string()),
            None => "~/.ssh/known_hosts".to_owned(),
        };
        let kind = known_hosts::key_type(key);
        let short = match kind {
            "ssh-ed25519" => "ed25519",
            "ssh-rsa" => "rsa",
            _ if kind.starts_with("ecdsa") => "ecdsa",
            other => other,
        };
        let fingerprint = known_hosts::fingerprint(key);
        let offered = format!("it offers the {kind} key {fingerprint}");
        let compare = format!(
            "Compare {fingerprint} with what `ssh-keygen -lf /etc/ssh/ssh_host_{short}_key.pub` shows on the server"
        );
        let add = format!("`ssh-keyscan -p {port} -t {short} {} >> {file}`", shell_word(host));
        let (reason, hint) = match verdict {
            Verdict::Revoked => (
                format!("the host key of {name} is revoked: {offered}"),
                format!("Do not connect. It is marked @revoked in {file}."),
            ),
            Verdict::Changed => (
                format!("the host key of {name} has changed: {offered}, which is not the one on file"),
                format!(
                    "{compare}. If they differ, somebody is in between. If the server was set up anew, forget its \
                     old key with `ssh-keygen -R {} -f {file}`, then add the new one with {add}.",
                    shell_word(&name)
                ),
            ),
            Verdict::Unknown | Verdict::Known => (
                format!("the host key of {name} is not known: {offered}"),
                format!("{compare}. If they are the same, add it with {add}."),
            ),
        };
        self.refused(reason, Some(hint))
    }

    fn open_subsystem(&mut self) -> Attempt<Channel> {
        let lost = |error: ssh2::Error| Failure::lost(format!("opening a channel: {}", error.message()));
        let opened = self
            .drive(|session| session.channel_open("session", RECEIVE_WINDOW_BYTES, SSH_PACKET_BYTES, None))?;
        let mut channel = opened.map_err(lost)?;
        self.drive(|_| channel.subsystem("sftp"))?.map_err(|error| match number(&error) {
            code::CHANNEL_REQUEST_DENIED => self.without_sftp("the server offers no SFTP"),
            _ => lost(error),
        })?;
        Ok(channel)
    }

    fn without_sftp(&self, reason: &str) -> Failure {
        Failure::Refused {
            kind: ErrorKind::Other,
            reason: reason.to_owned(),
            hint: Some(format!(
                "Check that sshd_config on {} has `Subsystem sftp internal-sftp`, and that the account may use it.",
                self.settings.host
            )),
        }
    }

    /// INIT and VERSION.
    fn greet(&mut self, channel: &mut Channel) -> Attempt<Extensions> {
        let mut init = &packet::init()[..];
        while !init.is_empty() {
            let written = self.transfer(|| io::Write::write(channel, init))?;
            init = &init[written..];
        }
        let mut length = [0; 4];
        self.read_exact(channel, &mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        let not_sftp = |login: &Self| Failure::Refused {
            kind: ErrorKind::Other,
            reason: "what answers is not SFTP".into(),
            hint: Some(format!(
                "Something prints when the account logs in, a `.bashrc` or the like: `ssh -p {} {}@{} true` must \
                 print nothing.",
                login.settings.port, login.settings.user, login.settings.host
            )),
        };
        if length == 0 || length > PACKET_BYTES_MAX {
            return Err(not_sftp(self));
        }
        let mut version = vec![0; length];
        self.read_exact(channel, &mut version)?;
        packet::parse_version(&version).map_err(|_| not_sftp(self))
    }

    fn read_exact(&mut self, channel: &mut Channel, mut buffer: &mut [u8]) -> Attempt<()> {
        while !buffer.is_empty() {
            let read = self.transfer(|| channel.read(buffer))?;
            if read == 0 && channel.eof() {
                return Err(self.without_sftp("the server ended the SFTP session at once"));
            }
            buffer = &mut buffer[read..];
        }
        Ok(())
    }

    fn transfer(&mut self, mut call: impl FnMut() -> io::Result<usize>) -> Attempt<usize> {
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                outcome => return outcome.map_err(|error| Failure::lost(error.to_string())),
            }
        }
    }
}

/// Who we are. What was tried is told when nothing was accepted.
impl Login<'_> {
    fn authenticate(&mut self) -> Attempt<()> {
        let mut tried = Vec::new();
        if let Some(path) = self.settings.key.clone() {
            if self.try_file(&path, &mut tried)? {
                return Ok(());
            }
            return Err(self.not_let_in(&tried));
        }
        if self.try_agent(None, &mut tried)? {
            return Ok(());
        }
        for path in self.usual_keys() {
            if self.try_file(&path, &mut tried)? {
                return Ok(());
            }
        }
        Err(self.not_let_in(&tried))
    }

    fn usual_keys(&self) -> Vec<PathBuf> {
        let Some(home) = &self.settings.home else { return Vec::new() };
        let names = ["id_ed25519", "id_ecdsa", "id_rsa"];
        names.into_iter().map(|name| home.join(".ssh").join(name)).filter(|path| path.exists()).collect()
    }

    fn not_let_in(&self, tried: &[String]) -> Failure {
        let SftpSettings { user, host, port, .. } = self.settings;
        if tried.is_empty() {
            let hint = "Set `ssh_key` for this repository, or start an agent that holds the key. \
                        (`~/.ssh/config` is not read.)";
            return self.refused(format!("there is no key to log in as {user} with"), Some(hint.into()));
        }
        let hint = match &self.settings.key {
            Some(key) => {
                let line = PrivateKey::read(key).ok().and_then(|key| key.authorized_keys_line());
                let by_hand = line.map_or_else(String::new, |line| {
                    format!(
                        " That adds the line `{line}` to ~{user}/.ssh/authorized_keys there; where the account has no \
                         shell, or sshd_config another AuthorizedKeysFile, add it by hand."
                    )
                });
                let key = shell_word(&key.display().to_string());
                format!("Authorize it with `ssh-copy-id -i {key} -p {port} {user}@{host}`.{by_hand}")
            }
            None => "Authorize one of them on the server, or name the right key with `ssh_key`.".into(),
        };
        self.refused(format!("the server does not let {user} in with {}", tried.join(", ")), Some(hint))
    }

    fn try_file(&mut self, path: &Path, tried: &mut Vec<String>) -> Attempt<bool> {
        let key = PrivateKey::read(path).map_err(|error| self.refused(error.to_string(), error.hint()))?;
        if key.is_encrypted && self.settings.passphrase.is_none() {
            if let Some(public) = &key.public
                && self.try_agent(Some(public), tried)?
            {
                return Ok(true);
            }
            let hint = "Add it to the agent with `ssh-add`, or set PGBAK_SSH_PASSPHRASE.";
            let reason = format!("the key {} has a passphrase, which is not known", path.display());
            return Err(self.refused(reason, Some(hint.into())));
        }
        let (user, passphrase) = (self.settings.user.clone(), self.settings.passphrase.clone());
        let passphrase = passphrase.filter(|_| key.is_encrypted);
        let outcome = self.drive(|session| {
            session.userauth_pubkey_memory(
                &user,
                None,
                &key.pem,
                passphrase.as_ref().map(|secret| secret.reveal()),
            )
        })?;
        tried.push(format!("the key {}", path.display()));
        self.judge(outcome, tried.len(), |login, error| match key.is_encrypted {
            true => login.refused(
                format!("the passphrase of the key {} is wrong", path.display()),
                Some("Set PGBAK_SSH_PASSPHRASE to the right one.".into()),
            ),
            false => {
                login.refused(format!("the key {} cannot be used: {}", path.display(), error.message()), None)
            }
        })
    }

    /// Offers what the agent holds; only `wanted`, where that is given.
    fn try_agent(&mut self, wanted: Option<&[u8]>, tried: &mut Vec<String>) -> Attempt<bool> {
        let Some(socket) = &self.settings.agent else { return Ok(false) };
        let Ok(mut agent) = self.session.agent() else { return Ok(false) };
        let ask = |agent: &mut ssh2::Agent| {
            agent.set_identity_path(socket)?;
            agent.connect()?;
            agent.list_identities()?;
            agent.identities()
        };
        let identities = match ask(&mut agent) {
            Ok(identities) => identities,
            Err(error) => {
                tracing::debug!("the SSH agent at {} gives no keys: {error}", socket.display());
                return Ok(false);
            }
        };
        let user = self.settings.user.clone();
        for identity in identities.iter().filter(|identity| wanted.is_none_or(|key| key == identity.blob())) {
            let outcome = self.drive(|_| agent.userauth(&user, identity))?;
            tried.push(format!("the agent's key {}", known_hosts::fingerprint(identity.blob())));
            let unusable = |login: &Self, error: &ssh2::Error| {
                login.refused(format!("the agent cannot use its key: {}", error.message()), None)
            };
            if self.judge(outcome, tried.len(), unusable)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether nothing can come from the server any more. libssh2 reports a key whose answer never came as it reports
    /// one that was rejected; but who rejects a key waits for the next one.
    fn is_cut(&self) -> bool {
        match self.socket.peek(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Whether a key was accepted. `unusable` says why it could not even be offered.
    fn judge(
        &self,
        outcome: Result<(), ssh2::Error>,
        tried: usize,
        unusable: impl FnOnce(&Self, &ssh2::Error) -> Failure,
    ) -> Attempt<bool> {
        let Err(error) = outcome else { return Ok(self.session.authenticated()) };
        match number(&error) {
            code::PUBLICKEY_UNVERIFIED | code::AUTHENTICATION_FAILED if !self.is_cut() => Ok(false),
            code::FILE => Err(unusable(self, &error)),
            // A server hangs up on one who tries too many keys.
            _ if tried > 1 => Err(self.refused(
                format!("the server hung up after {tried} keys: {}", error.message()),
                Some("Name the right key with `ssh_key` for this repository.".into()),
            )),
            _ => Err(Failure::lost(format!("logging in: {}", error.message()))),
        }
    }
}

fn number(error: &ssh2::Error) -> i32 {
    match error.code() {
        ErrorCode::Session(number) | ErrorCode::SFTP(number) => number,
    }
}

/// A file that is missing is empty: no host is known.
fn read_known_hosts(settings: &SftpSettings) -> Attempt<String> {
    let Some(path) = &settings.known_hosts else { return Ok(String::new()) };
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::Refused {
            kind: ErrorKind::Denied,
            reason: format!("could not read {}: {error}", path.display()),
            hint: Some(format!("Let all read it, as root: `chmod 644 {}`.", path.display())),
        }),
    }
}

/// In quotes where a shell would take it apart.
fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+,=".contains(c);
    match word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
