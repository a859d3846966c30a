//! The SFTP storage against a real OpenSSH server, over good networks and bad ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod faults;
mod host_keys;
mod keys;
mod server;
mod transfers;
