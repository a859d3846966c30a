//! PostgreSQL's own words as types: what its files are called, what is in them, how they are checked.
//!
//! Everything here is pure: bytes and strings in, values out. A value of one of these types cannot be wrong,
//! because parsing is the only way to make it. Each module names the PostgreSQL source file it follows.

pub mod backup_label;
pub mod control_file;
pub mod history;
pub mod lsn;
pub mod manifest;
pub mod manifest_checksum;
pub mod page_checksum;
pub mod segment;
pub mod server_state;
pub mod server_version;
pub mod settings_file;
pub mod tablespace_map;
pub mod timeline;
pub mod wal_file_name;
pub mod wal_page;
pub mod wal_records;

pub use lsn::Lsn;
pub use segment::{SegmentName, SegmentSize};
pub use server_version::ServerVersion;
pub use timeline::Timeline;
pub use wal_file_name::{SegmentPart, SegmentPlace, WalFileName};

/// Identifies a cluster for life: chosen by `initdb`, carried in `pg_control` and in every WAL segment's header.
///
/// A cluster that `pg_upgrade` made has a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemIdentifier(pub u64);

impl std::fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for SystemIdentifier {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
