//! `global/pg_control`: what a cluster is, and the state it was left in.
//!
//! Follows PostgreSQL `src/include/catalog/pg_control.h` (`ControlFileData`) and `src/common/controldata_utils.c`.
//! Of the versions of the file that PostgreSQL 13 to 18 write, 1300 (13 to 16), 1700 (17) and 1800 (18), everything
//! read here is at the same offset; only the CRC-32C at the end, over all before it, is 4 bytes later in 1800. Numbers
//! are little-endian, as on every machine that pgbak runs on.
//!
//! ```text
//!   0 u64 system identifier      40 u64 its redo point                 216 u32 page size
//!   8 u32 version of this file   48 u32 checkpoint's timeline          220 u32 pages in a file of a relation
//!  12 u32 catalog version       180 u32 max_connections, and from      228 u32 WAL segment size
//!  16 u32 state                         there the other Limits          252 u32 data checksum version
//!  32 u64 checkpoint
//! ```

use std::fmt;

use super::{Lsn, SegmentSize, SystemIdentifier, Timeline};

/// `--with-blocksize` of PostgreSQL's own configure script.
const PAGE_BYTES: std::ops::RangeInclusive<u32> = 1 << 10..=32 << 10;

/// The file's path below the data directory.
pub const PATH: &str = "global/pg_control";

/// The file's content, as far as pgbak needs it. Its CRC was right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    pub system_identifier: SystemIdentifier,
    pub catalog_version: u32,
    pub state: ClusterState,
    /// Where the latest checkpoint's record is.
    pub checkpoint: Lsn,
    /// Where recovery from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline that the latest checkpoint is on.
    pub timeline: Timeline,
    pub segment_size: SegmentSize,
    pub limits: Limits,
    /// The size of a data page.
    pub page_bytes: u32,
    /// How many pages each file of a relation has, but the last one.
    pub pages_per_file: u32,
    /// Whether data pages carry checksums (`initdb --data-checksums`).
    pub data_checksums: bool,
}

/// The settings of which a server in recovery must have as much as the one had that wrote the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: u32,
    pub max_worker_processes: u32,
    pub max_wal_senders: u32,
    pub max_prepared_transactions: u32,
    pub max_locks_per_transaction: u32,
}

/// `DBState`, in `pg_controldata`'s words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    #[error("pg_control has {found_bytes} bytes, fewer than the {expected_bytes} that it needs")]
    TooShort { expected_bytes: usize, found_bytes: usize },

    #[error("pg_control is of version {0}, and only 1300, 1700 and 1800 (PostgreSQL 13 to 18) are known")]
    UnknownVersion(u32),

    #[error("pg_control is damaged: its CRC is {found:08x}, but it says {expected:08x}")]
    WrongCrc { expected: u32, found: u32 },

    #[error("pg_control holds {found} as its {field}, which no server writes")]
    Impossible { field: &'static str, found: u64 },
}

impl ControlFile {
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        need(bytes, 16)?;
        let version = u32_at(bytes, 8);
        let crc_at = match version {
            1300 | 1700 => 288,
            1800 => 292,
            _ => return Err(ControlFileError::UnknownVersion(version)),
        };
        need(bytes, crc_at + 4)?;
        let (expected, found) = (u32_at(bytes, crc_at), crc32c::crc32c(&bytes[..crc_at]));
        if expected != found {
            return Err(ControlFileError::WrongCrc { expected, found });
        }
        let [state, timeline, segment_bytes] = [16, 48, 228].map(|at| u32_at(bytes, at));
        let [page_bytes, pages_per_file] = [216, 220].map(|at| u32_at(bytes, at));
        let impossible =
            |field, found| move || ControlFileError::Impossible { field, found: u64::from(found) };
        Ok(Self {
            system_identifier: SystemIdentifier(u64_at(bytes, 0)),
            catalog_version: u32_at(bytes, 12),
            state: ClusterState::from_number(state).ok_or_else(impossible("state", state))?,
            checkpoint: Lsn(u64_at(bytes, 32)),
            redo: Lsn(u64_at(bytes, 40)),
            timeline: Timeline::new(timeline).ok_or_else(impossible("timeline", timeline))?,
            segment_size: SegmentSize::from_bytes(u64::from(segment_bytes))
                .ok_or_else(impossible("WAL segment size", segment_bytes))?,
            limits: Limits {
                max_connections: u32_at(bytes, 180),
                max_worker_processes: u32_at(bytes, 184),
                max_wal_senders: u32_at(bytes, 188),
                max_prepared_transactions: u32_at(bytes, 192),
                max_locks_per_transaction: u32_at(bytes, 196),
            },
            page_bytes: Some(page_bytes)
                .filter(|bytes| bytes.is_power_of_two() && PAGE_BYTES.contains(bytes))
                .ok_or_else(impossible("page size", page_bytes))?,
            pages_per_file,
            data_checksums: u32_at(bytes, 252) != 0,
        })
    }
}

impl ClusterState {
    fn from_number(number: u32) -> Option<Self> {
        let states = [
            Self::StartingUp,
            Self::ShutDown,
            Self::ShutDownInRecovery,
            Self::ShuttingDown,
            Self::InCrashRecovery,
            Self::InArchiveRecovery,
            Self::InProduction,
        ];
        states.get(number as usize).copied()
    }

    /// Whether the server left the cluster in order.
    pub fn is_shut_down(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }
}

impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

fn need(bytes: &[u8], expected_bytes: usize) -> Result<(), ControlFileError> {
    match bytes.len() >= expected_bytes {
        true => Ok(()),
        false => Err(ControlFileError::TooShort { expected_bytes, found_bytes: bytes.len() }),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes are 4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes are 8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The beginnings of the files of clusters of each version, the rest of which is zero.
    const REAL: [(u32, &[u8]); 6] = [
        (13, include_bytes!("testdata/pg_control-13")),
        (14, include_bytes!("testdata/pg_control-14")),
        (15, include_bytes!("testdata/pg_control-15")),
        (16, include_bytes!("testdata/pg_control-16")),
        (17, include_bytes!("testdata/pg_control-17")),
        (18, include_bytes!("testdata/pg_control-18")),
    ];

    /// The expected values are what each version's own `pg_controldata` printed.
    #[test]
    fn reads_the_files_of_every_supported_server() {
        let mib = 1 << 20;
        for (&(major, bytes), (system_identifier, catalog_version, checkpoint, redo, segment_bytes)) in
            REAL.iter().zip([
                (7711063524403484419, 202007201, "0/A00060", "0/A00028", mib),
                (7711059022499461329, 202107181, "0/1900060", "0/1900028", mib),
                (7711056895577362212, 202209061, "0/1A000060", "0/1A000028", 16 * mib),
                (7711059028167383330, 202307071, "0/1656C10", "0/1656BD8", mib),
                (7711059035033217474, 202406281, "0/165C680", "0/165C5F0", mib),
                (7711059041355033155, 202506291, "0/1700080", "0/1700028", mib),
            ])
        {
            let control = ControlFile::parse(bytes).unwrap_or_else(|error| panic!("{major}: {error}"));
            let expected = ControlFile {
                system_identifier: SystemIdentifier(system_identifier),
                catalog_version,
                state: ClusterState::InProduction,
                checkpoint: checkpoint.parse().unwrap(),
                redo: redo.parse().unwrap(),
                timeline: Timeline::FIRST,
                segment_size: SegmentSize::from_bytes(segment_bytes).unwrap(),
                limits: Limits {
                    max_connections: 100,
                    max_worker_processes: 8,
                    max_wal_senders: 10,
                    max_prepared_transactions: 0,
                    max_locks_per_transaction: 64,
                },
                page_bytes: 8192,
                pages_per_file: 131_072,
                data_checksums: true,
            };
            assert_eq!(control, expected, "{major}");
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut bytes = REAL[5].1.to_vec();
        bytes[8..12].copy_from_slice(&1900u32.to_le_bytes());
        assert_eq!(ControlFile::parse(&bytes), Err(ControlFileError::UnknownVersion(1900)));
    }

    #[test]
    fn a_changed_or_missing_byte_is_noticed() {
        for (_, whole) in REAL {
            let length = if u32_at(whole, 8) == 1800 { 296 } else { 292 };
            for position in 0..length {
                let mut bytes = whole.to_vec();
                bytes[position] ^= 0x10;
                assert!(ControlFile::parse(&bytes).is_err(), "byte {position}");
                assert!(ControlFile::parse(&whole[..position]).is_err(), "cut at {position}");
            }
        }
    }

    #[test]
    fn what_no_server_writes_is_refused_even_with_a_right_crc() {
        for (at, field) in [(16, "state"), (48, "timeline"), (216, "page size"), (228, "WAL segment size")] {
            let mut bytes = REAL[0].1.to_vec();
            let number: u32 = if field == "timeline" { 0 } else { 99 };
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..288]);
            bytes[288..292].copy_from_slice(&crc.to_le_bytes());
            let found = u64::from(number);
            assert_eq!(ControlFile::parse(&bytes), Err(ControlFileError::Impossible { field, found }));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            prop_assert!(ControlFile::parse(&bytes).is_err());
        }
    }
}
