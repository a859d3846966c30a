//! `wal-fetch`: one WAL file, checked, back where PostgreSQL wants it.

use std::path::PathBuf;

use super::{Context, Error};

#[derive(Debug)]
pub struct Request {
    /// What PostgreSQL passes as `%f`.
    pub name: String,
    /// What PostgreSQL passes as `%p`: relative to the data directory, or absolute.
    pub destination: PathBuf,
    /// Also fetch the segments after this one into the state directory, in the background.
    pub fetch_ahead: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Fetched,
    /// The repository was read, and holds neither this file nor any later one on its timeline.
    EndOfArchive,
}

pub fn run(_context: &Context<'_>, _request: &Request) -> Result<Outcome, Error> {
    unimplemented!()
}

/// The background half: fetches segments after `name` into the state directory until enough are there.
pub fn run_ahead(_context: &Context<'_>, _name: &str) -> Result<(), Error> {
    unimplemented!()
}
