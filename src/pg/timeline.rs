//! Timelines: the branches of a cluster's history.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// A timeline's number. `initdb` starts on 1; each promotion starts a higher one.
///
/// Follows PostgreSQL `src/include/access/xlogdefs.h` (`TimeLineID`); 0 is never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(NonZeroU32);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a timeline (a whole number from 1 to 4294967295)")]
pub struct NotATimeline(String);

impl Timeline {
    /// Where `initdb` starts.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Timeline {
    type Err = NotATimeline;

    fn from_str(text: &str) -> Result<Self, NotATimeline> {
        text.parse().map(Self).map_err(|_| NotATimeline(text.to_owned()))
    }
}
