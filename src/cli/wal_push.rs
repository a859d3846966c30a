//! `pgbak wal-push`: what PostgreSQL's `archive_command` calls.

use std::path::PathBuf;

use super::exit::{self, Exit};
use super::failure::Failure;
use super::session::Session;
use crate::ops::wal_push::{self, Request};

/// Store one WAL file durably (for archive_command)
///
/// Ends with 0 only when the file is safe on disk in the repositories that wal.push_to names, by default the first.
/// A file that is there already with the same content is a success; one with another content is an error, and
/// is left as it is.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub struct WalPush {
    /// The file, absolute or relative to the data directory: what PostgreSQL puts for %p
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

fn help() -> String {
    exit::help(
        "  archive_command = '/usr/local/bin/pgbak wal-push %p'    # in postgresql.conf",
        &[("0", "the file is safe; PostgreSQL may forget it"), exit::FAILED, exit::USAGE, exit::INTERRUPTED],
    )
}

impl WalPush {
    pub fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        wal_push::run(&session.context, &Request { path: self.path })?;
        Ok(Exit::DONE)
    }
}
