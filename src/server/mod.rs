//! A running PostgreSQL: how to reach it, the replication protocol, an SQL session.
//!
//! Owns libpq's conventions ([`ConnectionSettings`]), TLS and authentication, and the two clients: the blocking
//! [`ReplicationClient`], which streams base backups and WAL, and the [`Session`], which asks questions in SQL. It
//! knows nothing of repositories, archives or files of a backup: bytes leave this module as the server sent them.
//!
//! What always holds: a password is never part of a message, a `Debug` or a `Display`; no read waits without
//! noticing an [`Interrupt`](crate::interrupt::Interrupt) within about a second; no length that the server sends is
//! believed before it is checked.

mod account;
mod auth;
mod base_backup;
mod connection;
mod conninfo;
mod dial;
mod error;
mod messages;
mod parameters;
mod pass_file;
mod replication;
mod rows;
mod service_file;
mod session;
mod settings;
mod socket;
mod stream;
mod tls;
mod values;
mod wal_stream;

pub use base_backup::{BackupEnd, BackupEvent, BaseBackup, BaseBackupOptions, CheckpointMode, Tablespace};
pub use error::{Cause, Error, Result};
pub use messages::ServerMessage;
pub use replication::{ReplicationClient, SystemIdentity};
pub use session::Session;
pub use settings::{
    ChannelBinding, ConnectionSettings, Host, Keepalive, Password, Place, RootCertificates,
    SessionAttributes, SettingsError, SslMode, TlsSettings, TlsVersion,
};
pub use wal_stream::{WalEvent, WalStream};
