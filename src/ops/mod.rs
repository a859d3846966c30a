//! The commands: each carries its plan out and returns a report. Nothing here prints or reads a flag.

pub mod base_backup;
pub mod copy_missing;
pub mod journal;
pub mod proofs;
pub mod prune;
pub mod restore;
pub mod status;
pub mod verify;
pub mod wal_fetch;
pub mod wal_push;
pub mod wal_sync;

mod backup_files;
mod data_directory;
mod error;
mod process;
mod repositories;
mod server_calls;
mod wal_file;

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use error::Error;

use crate::config::Config;
use crate::interrupt::Interrupt;
use crate::meter::Meter;
use crate::pipe::Workers;
use crate::repo;

/// What every command gets from `main`: the configuration and the outside world.
pub struct Context<'a> {
    pub config: &'a Config,
    /// Looks an environment variable up.
    pub environment: &'a (dyn Fn(&str) -> Option<String> + Sync),
    pub clock: &'a (dyn Fn() -> DateTime<Utc> + Sync),
    pub interrupt: &'a Interrupt,
    pub meter: &'a Arc<Meter>,
    /// This binary, as PostgreSQL is to call it.
    pub program: PathBuf,
    /// Where pgbak keeps what belongs to no repository: locks and files fetched ahead.
    pub state_directory: PathBuf,
}

impl Context<'_> {
    /// The same, but that nothing heeds any other interrupt than this one.
    fn heeding<'b>(&'b self, interrupt: &'b Interrupt) -> Context<'b> {
        Context {
            config: self.config,
            environment: self.environment,
            clock: self.clock,
            interrupt,
            meter: self.meter,
            program: self.program.clone(),
            state_directory: self.state_directory.clone(),
        }
    }

    /// The threads that compress, decompress and check.
    fn workers(&self) -> Result<Arc<Workers>, Error> {
        let workers = Workers::new(self.config.backup.workers);
        workers.map(Arc::new).map_err(|source| repo::Error::Threads { source }.into())
    }
}
