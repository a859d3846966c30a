//! The replication client: what a physical replication connection can be asked.
//!
//! Follows PostgreSQL's documentation, "Streaming Replication Protocol", and `src/backend/replication/repl_gram.y`.

use super::base_backup::{BaseBackup, BaseBackupOptions};
use super::connection::Connection;
use super::error::{Error, Result};
use super::settings::ConnectionSettings;
use super::wal_stream::WalStream;
use crate::interrupt::Interrupt;
use crate::pg::{Lsn, SegmentSize, ServerVersion, SystemIdentifier, Timeline};

/// Blocking; every wait notices the interrupt. Dropping it closes the connection, whatever it was doing.
pub struct ReplicationClient {
    connection: Connection,
}

/// Which cluster this is, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemIdentity {
    pub system_identifier: SystemIdentifier,
    pub timeline: Timeline,
    /// The end of the WAL that is durable on the server.
    pub flush_lsn: Lsn,
}

impl ReplicationClient {
    pub fn connect(settings: &ConnectionSettings, interrupt: &Interrupt) -> Result<Self> {
        Connection::connect(settings, interrupt).map(|connection| Self { connection })
    }

    /// The server, in libpq's words: `server on socket "/run/postgresql/.s.PGSQL.5432"`.
    pub fn server(&self) -> &str {
        self.connection.server()
    }

    pub fn server_version(&self) -> ServerVersion {
        self.connection.version()
    }

    pub fn identify_system(&mut self) -> Result<SystemIdentity> {
        let row = self.connection.single_row("IDENTIFY_SYSTEM", "identify")?;
        Ok(SystemIdentity {
            system_identifier: row.value(0, "system identifier")?,
            timeline: row.value(1, "timeline")?,
            flush_lsn: row.value(2, "WAL location")?,
        })
    }

    /// The value of a server setting, with its unit if it has one.
    pub fn show(&mut self, name: &str) -> Result<String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(Error::InvalidArgument {
                what: "the name of a setting",
                value: format!("\"{name}\""),
                expected: "it has letters, digits, \"_\" and \".\"",
            });
        }
        self.connection.single_row(&format!("SHOW {name}"), "ask a setting of")?.value(0, name)
    }

    pub fn segment_size(&mut self) -> Result<SegmentSize> {
        let text = self.show("wal_segment_size")?;
        parse_segment_size(&text)
            .ok_or_else(|| self.connection.protocol(format!("\"{text}\" as wal_segment_size")))
    }

    /// The content of a timeline's history file, byte for byte. Timeline 1 has none, and asking for it is an error.
    pub fn timeline_history(&mut self, timeline: Timeline) -> Result<Vec<u8>> {
        let attempted = "get a timeline's history from";
        let row = self.connection.single_row(&format!("TIMELINE_HISTORY {timeline}"), attempted)?;
        match row.bytes(1)? {
            Some(content) => Ok(content.to_vec()),
            None => Err(row.protocol("null as a timeline's history".to_owned())),
        }
    }

    /// Makes a slot that keeps WAL from now on, until this connection ends.
    pub fn create_temporary_slot(&mut self, name: &str) -> Result<()> {
        let command =
            format!("CREATE_REPLICATION_SLOT {} TEMPORARY PHYSICAL RESERVE_WAL", quoted_slot(name)?);
        self.connection.query(&command, "create a replication slot on").map(drop)
    }

    /// Makes a slot that keeps WAL from now on, until it is dropped.
    pub fn create_slot(&mut self, name: &str) -> Result<()> {
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", quoted_slot(name)?);
        self.connection.query(&command, "create a replication slot on").map(drop)
    }

    /// Drops a slot that nobody uses.
    pub fn drop_slot(&mut self, name: &str) -> Result<()> {
        let command = format!("DROP_REPLICATION_SLOT {}", quoted_slot(name)?);
        self.connection.query(&command, "drop a replication slot on").map(drop)
    }

    /// From now on all waits notice this interrupt, and not the one that the connection was made with.
    pub fn heed(&mut self, interrupt: &Interrupt) {
        self.connection.heed(interrupt);
    }

    /// Begins a base backup. The server first makes a checkpoint, which may take as long as `checkpoint_timeout`.
    pub fn base_backup(&mut self, options: &BaseBackupOptions) -> Result<BaseBackup<'_>> {
        BaseBackup::begin(&mut self.connection, options)
    }

    /// Begins to stream the WAL of `timeline` from `start` on, which has to be a segment's beginning if the WAL is
    /// to be kept in segments.
    pub fn start_replication(
        &mut self,
        slot: Option<&str>,
        start: Lsn,
        timeline: Timeline,
    ) -> Result<WalStream<'_>> {
        let slot = slot.map(|name| quoted_slot(name).map(|name| format!("SLOT {name} "))).transpose()?;
        let slot = slot.unwrap_or_default();
        let command = format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}");
        WalStream::begin(&mut self.connection, &command, start)
    }
}

/// A slot's name in double quotes. Follows `ReplicationSlotValidateName` in `src/backend/replication/slot.c`.
fn quoted_slot(name: &str) -> Result<String> {
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    if (1..=63).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Ok(format!("\"{name}\""));
    }
    Err(Error::InvalidArgument {
        what: "a replication slot's name",
        value: format!("\"{name}\""),
        expected: "it has 1 to 63 lower-case letters, digits and \"_\"",
    })
}

/// `16MB`, `1GB`, `1024kB`: a setting of bytes as the server shows it.
fn parse_segment_size(text: &str) -> Option<SegmentSize> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let unit_bytes: u64 = match unit {
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    SegmentSize::from_bytes(number.parse::<u64>().ok()?.checked_mul(unit_bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_size_is_read_with_its_unit() {
        let bytes = |text| parse_segment_size(text).map(SegmentSize::bytes);
        assert_eq!(bytes("16MB"), Some(16 << 20));
        assert_eq!(bytes("1GB"), Some(1 << 30));
        assert_eq!(bytes("1024kB"), Some(1 << 20));
        for text in ["", "16", "MB", "16 MB", "17MB", "2GB", "99999999999999999999GB", "17179869184GB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn a_slots_name_cannot_carry_anything_else() {
        assert_eq!(quoted_slot("pgbak_1").unwrap(), "\"pgbak_1\"");
        let long = "a".repeat(64);
        for name in ["", "Slot", "a\"b", "a b", long.as_str()] {
            assert!(quoted_slot(name).is_err(), "{name}");
        }
    }
}
