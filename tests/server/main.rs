//! The server module against a real PostgreSQL, and against servers that only pretend to be one.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, reason = "a failed test shows what the server said")]

mod backup;
mod certificates;
mod cluster;
#[allow(dead_code, reason = "shared with the other tests, each of which uses a part of it")]
#[path = "../support/installation.rs"]
mod installation;
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
