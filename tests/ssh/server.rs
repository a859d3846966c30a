//! One server and one repository on it; each test has its own.

use std::io::{Read, Write};
use std::path::PathBuf;

use pgbak::interrupt::Interrupt;
use pgbak::storage::{Durability, Error, Result, Sftp, SftpSettings, Storage};

use crate::support::{Identity, SshAccount, Sshd};

pub struct Server {
    pub sshd: Sshd,
    pub directory: PathBuf,
}

impl Server {
    /// `None`, with the test noted as skipped, where there is no sshd.
    pub fn start(account: SshAccount) -> Option<Self> {
        Self::with(account, "")
    }

    pub fn with(account: SshAccount, config: &str) -> Option<Self> {
        let sshd = Sshd::with(&Identity::ordinary(), account).config(config).start()?;
        sshd.make_repository("remote");
        Some(Self { directory: sshd.local_path().join("remote"), sshd })
    }

    pub fn settings(&self) -> SftpSettings {
        SftpSettings {
            user: self.sshd.user().to_owned(),
            host: self.sshd.address().to_string(),
            port: self.sshd.port(),
            path: self.sshd.root_path().join("remote").to_str().unwrap().to_owned(),
            key: Some(self.sshd.key()),
            passphrase: None,
            agent: None,
            known_hosts: Some(self.sshd.known_hosts()),
            home: None,
            sessions: 2,
            durability: Durability::Required,
        }
    }

    /// The same, reached by way of a proxy.
    pub fn settings_at(&self, port: u16) -> SftpSettings {
        SftpSettings { port, known_hosts: Some(self.sshd.known_hosts_at(port)), ..self.settings() }
    }

    pub fn storage(&self) -> Sftp {
        open(self.settings())
    }
}

pub fn open(settings: SftpSettings) -> Sftp {
    Sftp::new(settings, Interrupt::default())
}

/// Why it cannot be used at all.
pub fn refusal(settings: SftpSettings) -> Error {
    open(settings).list("").expect_err("this must be refused")
}

pub fn put(storage: &dyn Storage, key: &str, bytes: &[u8]) -> Result<()> {
    let mut upload = storage.create(key)?;
    upload.write_all(bytes).map_err(|error| Error::from_io("write", key, &storage, error))?;
    upload.commit()
}

pub fn get(storage: &dyn Storage, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = storage.open(key).unwrap_or_else(|error| panic!("{error}"));
    reader.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("{error}"));
    bytes
}

/// Bytes that no two offsets share.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The server, or the end of the test, noted as skipped.
#[macro_export]
macro_rules! server {
    ($($argument:expr),*) => {
        match $crate::server::Server::with($($argument),*) {
            Some(server) => server,
            None => return,
        }
    };
}
