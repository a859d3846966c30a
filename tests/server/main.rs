//! The server module against a real PostgreSQL, and against servers that only pretend to be one.

#![allow(clippy::unwrap_used)]

mod backup;
mod certificates;
mod cluster;
mod login;
mod pretenders;
mod refusals;
mod session;
mod wal;

use pgbak::interrupt::Interrupt;
use pgbak::server::{ConnectionSettings, Error, ReplicationClient};

fn connect(settings: &ConnectionSettings) -> Result<ReplicationClient, Error> {
    ReplicationClient::connect(settings, &Interrupt::default())
}

/// Why connecting fails.
fn refusal(settings: &ConnectionSettings) -> Error {
    connect(settings).err().expect("must be refused")
}
