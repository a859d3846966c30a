//! `wal-push`: one WAL file, durable in the repository before PostgreSQL may forget it.

use std::path::PathBuf;

use super::{Context, Error};

#[derive(Debug)]
pub struct Request {
    /// What PostgreSQL passes as `%p`: relative to the data directory, or absolute.
    pub path: PathBuf,
}

pub fn run(_context: &Context<'_>, _request: &Request) -> Result<(), Error> {
    unimplemented!()
}
