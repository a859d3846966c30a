//! The server's version, as the server counts it.

use std::fmt;

/// `server_version_num`: 150018 is PostgreSQL 15.18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// The oldest and the newest major version that pgbak supports.
    pub const SUPPORTED_MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

    pub fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// Reads the `server_version` parameter: `15.18 (Debian 15.18-0+deb12u1)`, `19devel`, `18beta2`.
    pub fn from_parameter(text: &str) -> Option<Self> {
        let number = |digits: &str| {
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            digits[..end].parse::<u32>().ok()
        };
        let major = number(text).filter(|major| (10..1_000).contains(major))?;
        let minor = text.split_once('.').and_then(|(_, minor)| number(minor)).unwrap_or(0);
        (minor < 10_000).then(|| Self(major * 10_000 + minor))
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.0 % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_servers_say() {
        let read = |text| ServerVersion::from_parameter(text).map(|version| version.0);
        assert_eq!(read("15.18 (Debian 15.18-0+deb12u1)"), Some(150_018));
        assert_eq!(read("19devel"), Some(190_000));
        assert_eq!(read("18beta2"), Some(180_000));
        assert_eq!(read("nonsense"), None);
        assert_eq!(read("15.4294967295"), None);
        assert_eq!(ServerVersion(130_023).to_string(), "13.23");
    }
}
