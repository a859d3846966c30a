//! The words of a configuration as types: each parses from text, and its error says what would have been right.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::{Checkpoint, SshPlace, WalSource};

/// Bytes per second: a number with a unit.
///
/// ```text
/// rate   = number [" "] unit
/// number = digits ["." digits]
/// unit   = "B" | "kB" | "MB" | "GB"      powers of 1000
///        | "KiB" | "MiB" | "GiB"         powers of 1024
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u64);

/// A span of time as people write it: `14d`, `26h`, `1h 30m`. The grammar is that of the `humantime` crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A path from the root on, so that it means the same wherever pgbak is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsolutePath(pub PathBuf);

/// A replication slot's name. Follows PostgreSQL `src/backend/replication/slot.c` (`ReplicationSlotValidateName`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotName(pub String);

/// What a repository is called in flags, messages and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryName(pub String);

/// Where on which SSH server: `ssh://[user@]host[:port]/path`, an IPv6 address in brackets. The path is taken as
/// it is written, without percent-decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshUrl {
    pub user: Option<String>,
    pub host: String,
    pub port: u16,
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAWord {
    #[error(
        "\"{0}\" is not a rate (a number above 0 with a unit, such as 200MB: B, kB, MB, GB or KiB, MiB, GiB)"
    )]
    Rate(String),
    #[error("\"{0}\" is not a span of time (such as 14d, 26h or 1h 30m)")]
    Span(String),
    #[error("\"{0}\" is not an absolute path (one that begins with /)")]
    AbsolutePath(String),
    #[error("\"{0}\" is not a replication slot's name (1 to 63 lower-case letters, digits and underscores)")]
    SlotName(String),
    #[error(
        "\"{0}\" is not a repository's name (1 to 64 letters, digits, \"_\", \"-\" and \".\", \
         beginning with a letter or digit)"
    )]
    RepositoryName(String),
    /// Without the text: it may hold a password.
    #[error("not an SSH location (ssh://[user@]host[:port]/path, without a password)")]
    SshUrl,
    #[error("\"{0}\" is not a WAL source (push, directory or stream)")]
    WalSource(String),
    #[error("\"{0}\" is not a kind of checkpoint (fast or spread)")]
    Checkpoint(String),
}

impl Rate {
    const UNITS: [(&'static str, u64); 7] = [
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("B", 1), // Last: every other unit ends in it too.
    ];
}

impl FromStr for Rate {
    type Err = NotAWord;

    fn from_str(text: &str) -> Result<Self, NotAWord> {
        let parse = || {
            let (number, bytes) =
                Self::UNITS.iter().find_map(|&(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)))?;
            let number = number.strip_suffix(' ').unwrap_or(number);
            let is_plain = number.starts_with(|first: char| first.is_ascii_digit())
                && number.ends_with(|last: char| last.is_ascii_digit())
                && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let rate = is_plain.then(|| number.parse::<f64>().ok()).flatten()? * bytes as f64;
            // Above this, a float no longer tells one byte from the next; no disk comes near.
            (1.0..=9e15).contains(&rate).then_some(Self(rate as u64))
        };
        parse().ok_or_else(|| NotAWord::Rate(text.to_owned()))
    }
}

impl FromStr for Span {
    type Err = NotAWord;

    fn from_str(text: &str) -> Result<Self, NotAWord> {
        // A bound keeps arithmetic with dates from overflowing later.
        let longest = Duration::from_secs(1_000 * 365 * 24 * 3600);
        let span = humantime::parse_duration(text).ok().filter(|&span| span <= longest);
        span.map(Self).ok_or_else(|| NotAWord::Span(text.to_owned()))
    }
}

impl FromStr for AbsolutePath {
    type Err = NotAWord;

    fn from_str(text: &str) -> Result<Self, NotAWord> {
        let is_absolute = Path::new(text).is_absolute() && !text.contains('\0');
        is_absolute.then(|| Self(PathBuf::from(text))).ok_or_else(|| NotAWord::AbsolutePath(text.to_owned()))
    }
}

impl FromStr for SlotName {
    type Err = NotAWord;

    fn from_str(text: &str) -> Result<Self, NotAWord> {
        let is_allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let valid = (1..=63).contains(&text.len()) && text.bytes().all(is_allowed);
        valid.then(|| Self(text.to_owned())).ok_or_else(|| NotAWord::SlotName(text.to_owned()))
    }
}

impl FromStr for RepositoryName {
    type Err = NotAWord;

    fn from_str(text: &str) -> Result<Self, NotAWord> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let valid = (1..=64).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.bytes().all(is_allowed);
        valid.then(|| Self(text.to_owned())).ok_or_else(|| NotAWord::RepositoryName(text.to_owned()))
    }
}

impl FromStr for SshUrl {
    type Err = NotAWord;

    fn from_str(text: &str) -> Result<Self, NotAWord> {
        parse_ssh_url(text).ok_or(NotAWord::SshUrl)
    }
}

fn parse_ssh_url(text: &str) -> Option<SshUrl> {
    let (authority, path) = text.strip_prefix("ssh://")?.split_once('/')?;
    let (user, server) = match authority.rsplit_once('@') {
        Some((user, server)) => (Some(user), server),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.is_empty() || user.contains([':', '@'])) {
        return None;
    }
    let (host, port) = match server.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    let path = path.trim_end_matches('/');
    let is_clean = |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_control());
    if !is_clean(host) || host.starts_with('-') || host.contains(char::is_whitespace) || !is_clean(path) {
        return None;
    }
    Some(SshUrl {
        user: user.map(str::to_owned),
        host: host.to_owned(),
        port: port.map_or(Some(SshPlace::PORT), |port| port.parse().ok().filter(|&port| port > 0))?,
        path: format!("/{path}"),
    })
}

impl FromStr for WalSource {
    type Err = NotAWord;

    fn from_str(text: &str) -> Result<Self, NotAWord> {
        match text {
            "push" => Ok(Self::Push),
            "directory" => Ok(Self::Directory),
            "stream" => Ok(Self::Stream),
            _ => Err(NotAWord::WalSource(text.to_owned())),
        }
    }
}

impl FromStr for Checkpoint {
    type Err = NotAWord;

    fn from_str(text: &str) -> Result<Self, NotAWord> {
        match text {
            "fast" => Ok(Self::Fast),
            "spread" => Ok(Self::Spread),
            _ => Err(NotAWord::Checkpoint(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_is_a_number_with_a_unit() {
        let rate = |text: &str| text.parse().ok().map(|Rate(bytes)| bytes);
        assert_eq!(rate("200MB"), Some(200_000_000));
        assert_eq!(rate("200 MB"), Some(200_000_000));
        assert_eq!(rate("1.5GiB"), Some(3 << 29));
        assert_eq!(rate("64KiB"), Some(65_536));
        assert_eq!(rate("7B"), Some(7));
        for text in
            ["", "200", "MB", "0MB", "-1MB", "1e3MB", ".5MB", "5.MB", "1.2.3MB", "1mb", "1MB/s", "infMB"]
        {
            assert_eq!(rate(text), None, "{text}");
        }
        assert_eq!(rate(&format!("{}GB", "9".repeat(400))), None);
    }

    #[test]
    fn a_span_is_read_as_people_write_it() {
        let span = |text: &str| text.parse().ok().map(|Span(span)| span.as_secs());
        assert_eq!(span("14d"), Some(14 * 86_400));
        assert_eq!(span("1h 30m"), Some(5_400));
        for text in ["", "14", "d", "-1d", "99999999999d", "9999999999999999999999s"] {
            assert_eq!(span(text), None, "{text}");
        }
    }

    #[test]
    fn an_ssh_location_has_a_host_and_a_path_and_no_password() {
        let url = |text: &str| text.parse::<SshUrl>().ok();
        let full = url("ssh://rcadmin@192.168.1.246:2222/home/rcadmin/postgres-backups/").unwrap();
        assert_eq!(full.user.as_deref(), Some("rcadmin"));
        assert_eq!((full.host.as_str(), full.port), ("192.168.1.246", 2222));
        assert_eq!(full.path, "/home/rcadmin/postgres-backups");
        let short = url("ssh://backup.example/pg").unwrap();
        assert_eq!((short.user, short.port), (None, 22));
        assert_eq!(url("ssh://[fd00::1]:2222/pg").unwrap().host, "fd00::1");
        for text in [
            "",
            "sftp://host/path",
            "ssh://host",
            "ssh://host/",
            "ssh:///path",
            "ssh://user:secret@host/path",
            "ssh://@host/path",
            "ssh://host:/path",
            "ssh://host:0/path",
            "ssh://host:65536/path",
            "ssh://[fd00::1/path",
            "ssh://[fd00::1]22/path",
            "ssh://fd00::1/path",
            "ssh://-oProxyCommand=x/path",
            "ssh://ho st/path",
        ] {
            assert_eq!(url(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_plain() {
        for name in ["local", "remote-2", "a.b_c", "9"] {
            assert!(name.parse::<RepositoryName>().is_ok(), "{name}");
        }
        for name in ["", "-a", ".a", "a b", "a/b", "é", &"a".repeat(65)] {
            assert!(name.parse::<RepositoryName>().is_err(), "{name}");
        }
        assert!("pgbak_1".parse::<SlotName>().is_ok());
        for name in ["", "Pgbak", "pg-bak", &"a".repeat(64)] {
            assert!(name.parse::<SlotName>().is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange_to_be_refused(text: String) {
            let _ = text.parse::<Rate>();
            let _ = text.parse::<Span>();
            let _ = format!("ssh://{text}").parse::<SshUrl>();
        }
    }
}
