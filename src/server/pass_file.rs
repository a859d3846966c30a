//! The password file, `~/.pgpass` unless `passfile` or `PGPASSFILE` names another.
//!
//! Follows PostgreSQL `src/interfaces/libpq/fe-connect.c` (`passwordFromFile`): lines of
//! `host:port:database:user:password`; each of the first four may be `*`; a backslash takes the next byte as it is;
//! lines that begin with `#` are remarks; the first line that matches counts. A socket in libpq's default directory
//! is called `localhost`, and a replication connection's database `replication`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Password;

/// Far more than anybody's passwords; what is beyond is not read.
const SIZE_MAX_BYTES: u64 = 1 << 20;

/// What is read of a password file: nothing, when there is none or it may not be trusted.
#[derive(Clone, Default)]
pub struct PassFile {
    lines: Vec<String>,
}

/// Why an existing password file is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    #[error("the password file {} is not a plain file and is not used", .0.display())]
    NotAFile(PathBuf),
    #[error(
        "the password file {} can be read by others and is not used; allow only its owner with `chmod 0600 {}`",
        .0.display(), .0.display()
    )]
    ReadableByOthers(PathBuf),
}

/// What a line has to match.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub user: &'a str,
}

impl PassFile {
    /// Reads the file at `path`; one that is missing or unreadable is empty, as for libpq.
    pub fn read(path: &Path) -> Result<Self, Untrusted> {
        let Ok(file) = File::open(path) else { return Ok(Self::default()) };
        let Ok(metadata) = file.metadata() else { return Ok(Self::default()) };
        if !metadata.is_file() {
            return Err(Untrusted::NotAFile(path.to_owned()));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(Untrusted::ReadableByOthers(path.to_owned()));
        }
        let mut content = Vec::new();
        match file.take(SIZE_MAX_BYTES).read_to_end(&mut content) {
            Ok(_) => Ok(Self::parse(&String::from_utf8_lossy(&content))),
            Err(_) => Ok(Self::default()),
        }
    }

    fn parse(content: &str) -> Self {
        let counts = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.contains('\0');
        Self { lines: content.lines().filter(counts).map(str::to_owned).collect() }
    }

    /// The password of the first line that matches; an empty one is none.
    pub fn find(&self, wanted: Wanted<'_>) -> Option<Password> {
        let port = wanted.port.to_string();
        let password = self.lines.iter().find_map(|line| {
            let mut rest = line.as_str();
            for field in [wanted.host, &port, wanted.database, wanted.user] {
                rest = after_field(rest, field)?;
            }
            Some(unescape(rest))
        })?;
        (!password.is_empty()).then(|| Password::new(password))
    }
}

/// What follows the field that `line` begins with and its colon, when that field is `*` or `wanted`.
fn after_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let (mut wanted, mut chars) = (wanted.chars(), line.chars());
    loop {
        match chars.next()? {
            ':' => return wanted.next().is_none().then_some(chars.as_str()),
            '\\' => (chars.next()? == wanted.next()?).then_some(())?,
            c => (c == wanted.next()?).then_some(())?,
        }
    }
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const WANTED: Wanted<'_> = Wanted { host: "::1", port: 5432, database: "replication", user: "a:b" };

    fn found(content: &str, wanted: Wanted<'_>) -> Option<String> {
        PassFile::parse(content).find(wanted).map(|password| password.reveal().to_owned())
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let content = "# remark\n\nother:*:*:*:no\n\\:\\:1:5432:shop:a\\:b:no\n\\:\\:1:*:*:a\\:b:p\\:q\\\\r:s\n*:*:*:*:late\n";
        assert_eq!(found(content, WANTED).as_deref(), Some("p:q\\r:s"));
        assert_eq!(found(content, Wanted { host: "x", ..WANTED }).as_deref(), Some("late"));
        assert_eq!(found("*:*:*:*:", WANTED), None);
        assert_eq!(found("*:*:*:*", WANTED), None);
        assert_eq!(found("\\:\\:1:5432:replication:a\\:bc:no", WANTED), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        fs::write(&path, "*:*:*:*:secret\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(PassFile::read(&path).err(), Some(Untrusted::ReadableByOthers(path.clone())));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(PassFile::read(&path).unwrap().find(WANTED).is_some());
        assert_eq!(
            PassFile::read(directory.path()).err(),
            Some(Untrusted::NotAFile(directory.path().to_owned()))
        );
        assert!(PassFile::read(&directory.path().join("missing")).unwrap().find(WANTED).is_none());
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_found(fields in prop::array::uniform4("[^\n\r\0]{1,8}"), port: u16) {
            let escaped = |text: &str| text.replace('\\', r"\\").replace(':', r"\:");
            let [host, database, user, password] = &fields;
            let line = format!(
                "{}:{port}:{}:{}:{}",
                escaped(host), escaped(database), escaped(user), escaped(password)
            );
            prop_assume!(!line.starts_with('#'));
            let wanted = Wanted { host, port, database, user };
            prop_assert_eq!(found(&line, wanted), Some(password.clone()));
        }

        #[test]
        fn any_text_is_read(content in ".*") {
            let _ = found(&content, WANTED);
        }
    }
}
