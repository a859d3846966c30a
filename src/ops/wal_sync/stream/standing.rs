//! How far streaming has come: for the reports of this run, and, in the state directory, for `status`.

use std::fs;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Finding;
use crate::ops::process::{make_private_directory, replace_file};
use crate::ops::{Context, Error};
use crate::pg::{Lsn, SystemIdentifier, Timeline};

/// Larger ones are none of ours.
const SIZE_MAX_BYTES: u64 = 64 << 10;

#[derive(Debug, Clone, Default)]
pub struct Standing {
    pub is_streaming: bool,
    pub timeline: Option<Timeline>,
    pub received: Option<Lsn>,
    /// Everything before is durable in each repository that is streamed to.
    pub durable: Option<Lsn>,
    pub segments_stored: u64,
    /// Why nothing is received now.
    pub trouble: Option<Finding>,
    /// WAL that the server had removed before it was received.
    pub losses: Vec<Loss>,
}

/// WAL that nobody has received, of the timeline that it would have been received from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    pub timeline: Timeline,
    pub from: Lsn,
    pub to: Lsn,
}

impl Loss {
    pub fn finding(&self) -> Finding {
        let Self { timeline, from, to } = self;
        let message = format!(
            "the server no longer has the WAL of timeline {timeline} from {from} to {to}, and nobody has received it"
        );
        let hint = "Take a base backup now with `pgbak base-backup`; times in the gap cannot be restored.";
        Finding { code: "wal-lost", repository: None, message, hint: Some(hint.to_owned()) }
    }
}

/// When everything that the server had was durable, and how far that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caught {
    system_identifier: u64,
    lsn: u64,
    /// By the server's clock.
    pub at: DateTime<Utc>,
}

impl Caught {
    pub fn new(system: SystemIdentifier, lsn: Lsn, at: DateTime<Utc>) -> Self {
        Self { system_identifier: system.0, lsn: lsn.0, at }
    }

    pub fn is_of(&self, system: SystemIdentifier) -> bool {
        self.system_identifier == system.0
    }

    /// What was noted last; `None` when that is not known.
    pub fn load(context: &Context<'_>) -> Option<Self> {
        let path = path(context);
        let size_bytes = fs::metadata(&path).ok()?.len();
        let bytes = (size_bytes <= SIZE_MAX_BYTES).then(|| fs::read(&path).ok()).flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    pub fn store(&self, context: &Context<'_>) -> Result<(), Error> {
        make_private_directory(&context.configuration_state())?;
        let bytes = serde_json::to_vec(self).expect("numbers and a time");
        replace_file(&path(context), &bytes)
    }
}

fn path(context: &Context<'_>) -> PathBuf {
    context.configuration_state().join("stream.json")
}
