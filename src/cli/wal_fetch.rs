//! `pgbak wal-fetch`: what PostgreSQL's `restore_command` calls; and the process that it leaves behind.

use std::path::PathBuf;

use super::exit::{self, Exit};
use super::failure::Failure;
use super::session::Session;
use crate::ops::wal_fetch::{self, Outcome, Request};

/// Bring one WAL file back (for restore_command)
///
/// Tries the repositories in their order, and goes on to the next when one fails or has the file damaged. Every
/// file is checked before PostgreSQL sees it. The files after it are fetched ahead in the background.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub struct WalFetch {
    /// The file's name: what PostgreSQL puts for %f
    #[arg(value_name = "NAME")]
    name: String,

    /// Where to put it, absolute or relative to the data directory: what PostgreSQL puts for %p
    #[arg(value_name = "DESTINATION")]
    destination: PathBuf,

    /// Ask only this repository, and no other; may be given several times
    #[arg(long, value_name = "REPOSITORY")]
    repository: Vec<String>,
}

/// Fetch the WAL after a file into the state directory: what wal-fetch starts in the background
#[derive(Debug, clap::Args)]
pub struct WalFetchAhead {
    /// The system identifier of the cluster that asks
    #[arg(value_name = "SYSTEM")]
    system: String,

    /// The file that was asked for last
    #[arg(value_name = "NAME")]
    name: String,

    /// As for wal-fetch
    #[arg(long, value_name = "REPOSITORY")]
    repository: Vec<String>,
}

fn help() -> String {
    exit::help(
        "  restore_command = '/usr/local/bin/pgbak wal-fetch %f %p'    # in postgresql.conf; `pgbak restore` writes it",
        &[
            ("0", "fetched"),
            ("1", "the repository was read, and has neither this file nor a later one of its timeline"),
            ("200", "anything else: PostgreSQL stops, and promotes nothing that is incomplete"),
            ("130, 143", "interrupted by SIGINT or SIGTERM"),
        ],
    )
}

impl WalFetch {
    pub fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        let Self { name, destination, repository: repositories } = self;
        let request = Request { name, destination, repositories, fetch_ahead: true };
        match wal_fetch::run(&session.context, &request)? {
            Outcome::Fetched => Ok(Exit::DONE),
            Outcome::EndOfArchive => {
                // Every recovery ends with some of these, and PostgreSQL's log has them anyway.
                tracing::info!("{} is not in the archive, nor is anything after it", request.name);
                Ok(Exit::END_OF_ARCHIVE)
            }
        }
    }
}

impl WalFetchAhead {
    pub fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        wal_fetch::run_ahead(&session.context, &self.system, &self.name, &self.repository)?;
        Ok(Exit::DONE)
    }
}
