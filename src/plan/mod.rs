//! Decisions as pure functions: a catalog and the time go in, a plan comes out.
//!
//! Nothing here reads a file, asks a server or looks at a clock. So every plan can be shown before it is carried
//! out (`--dry-run`), explained afterwards, and tried on thousands of catalogs that no machine ever held.

pub mod health;
pub mod recoverable;
pub mod recovery;
pub mod retention;
pub mod wal_sync;
