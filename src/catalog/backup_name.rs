//! What a base backup is called: `base_backup_YYYYMMDD_HHMMSS`, the UTC time at which it began.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};

const PATTERN: &str = "base_backup_%Y%m%d_%H%M%S";

/// The name of a backup and of its directory. It tells backups apart; their order is that of their records' times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupName(DateTime<Utc>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of a base backup (base_backup_YYYYMMDD_HHMMSS, in UTC)")]
pub struct NotABackupName(String);

impl BackupName {
    pub fn of(started_at: DateTime<Utc>) -> Self {
        Self(started_at.trunc_subsecs(0))
    }

    /// When the backup began, to the second.
    pub fn started_at(self) -> DateTime<Utc> {
        self.0
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.format(PATTERN).fmt(f)
    }
}

impl FromStr for BackupName {
    type Err = NotABackupName;

    fn from_str(text: &str) -> Result<Self, NotABackupName> {
        let parsed = NaiveDateTime::parse_from_str(text, PATTERN).ok().map(|time| Self(time.and_utc()));
        // chrono also reads signs, blanks and missing digits: only what is written the same way is a name.
        parsed.filter(|name| name.to_string() == text).ok_or_else(|| NotABackupName(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_pgbak_writes_is_a_name() {
        let name: BackupName = "base_backup_20261122_020000".parse().unwrap();
        assert_eq!(name.started_at().to_rfc3339(), "2026-11-22T02:00:00+00:00");
        for text in [
            "",
            "base_backup_",
            "base_backup_20261122_0200",
            "base_backup_20261322_020000",
            "base_backup_20261122_020000 ",
            "base_backup_2026112 _020000",
            "base_backup_+2026112_020000",
            "base_backup_20261122_020000.tar",
            "../base_backup_20261122_020000",
            "BASE_BACKUP_20261122_020000",
        ] {
            assert!(text.parse::<BackupName>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn name_round_trips(seconds in 0i64..4_000_000_000, nanos in 0u32..1_000_000_000) {
            let name = BackupName::of(DateTime::from_timestamp(seconds, nanos).unwrap());
            prop_assert_eq!(name.to_string().parse(), Ok(name));
            prop_assert_eq!(name.started_at().timestamp(), seconds);
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<BackupName>();
        }
    }
}
