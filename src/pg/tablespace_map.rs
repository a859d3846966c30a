//! `tablespace_map`: where the tablespaces of a base backup were, and where recovery will link them to.
//!
//! Follows PostgreSQL `do_pg_backup_start` (xlog.c) and `read_tablespace_map` (xlogrecovery.c). A line is
//!
//! ```text
//! 16401 /srv/fast
//! ```
//!
//! with exactly one space. A newline or carriage return in a path has a backslash before it. From PostgreSQL 14 on a
//! backslash has one, too; before, it has none and means itself before any other character, so that a path that ends
//! in one cannot be told from one that goes on.
//!
//! The server reads this file before anything else and makes the links in `pg_tblspc` from it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::ServerVersion;

/// The file's name in the data directory.
pub const FILE_NAME: &str = "tablespace_map";

/// One line: a tablespace and its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    pub oid: u32,
    pub location: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TablespaceMapError {
    #[error("tablespace_map has the line \"{0}\", which is not an object identifier, a space and a path")]
    Malformed(String),

    #[error("tablespace_map ends in the middle of a line: \"{0}\"")]
    Unfinished(String),

    #[error("tablespace_map names tablespace {0} twice")]
    Repeated(u32),
}

/// Reads a map that a server of `version` wrote.
pub fn parse(bytes: &[u8], version: ServerVersion) -> Result<Vec<Tablespace>, TablespaceMapError> {
    let mut tablespaces: Vec<Tablespace> = Vec::new();
    let mut line = Vec::new();
    let mut bytes = bytes.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\\', Some(&escaped)) if version.major() >= 14 || is_escaped(escaped, version) => {
                line.push(escaped);
                bytes.next();
            }
            (b'\n' | b'\r', _) if line.is_empty() => {}
            (b'\n' | b'\r', _) => {
                let tablespace = parse_line(&line)?;
                if tablespaces.iter().any(|known| known.oid == tablespace.oid) {
                    return Err(TablespaceMapError::Repeated(tablespace.oid));
                }
                tablespaces.push(tablespace);
                line.clear();
            }
            _ => line.push(byte),
        }
    }
    match line.is_empty() {
        true => Ok(tablespaces),
        false => Err(TablespaceMapError::Unfinished(shown(&line))),
    }
}

/// Writes a map for a server of `version`.
pub fn write(tablespaces: &[Tablespace], version: ServerVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Tablespace { oid, location } in tablespaces {
        bytes.extend_from_slice(format!("{oid} ").as_bytes());
        for &byte in location.as_os_str().as_bytes() {
            if is_escaped(byte, version) {
                bytes.push(b'\\');
            }
            bytes.push(byte);
        }
        bytes.push(b'\n');
    }
    bytes
}

fn is_escaped(byte: u8, version: ServerVersion) -> bool {
    matches!(byte, b'\n' | b'\r') || (byte == b'\\' && version.major() >= 14)
}

fn parse_line(line: &[u8]) -> Result<Tablespace, TablespaceMapError> {
    let parse = || {
        let space = line.iter().position(|&byte| byte == b' ')?;
        let (oid, path) = (str::from_utf8(&line[..space]).ok()?, &line[space + 1..]);
        let is_number = !oid.is_empty() && oid.bytes().all(|byte| byte.is_ascii_digit());
        let oid = oid.parse().ok().filter(|&oid| is_number && oid > 0)?;
        let is_path = path.starts_with(b"/") && !path.contains(&0);
        is_path.then(|| Tablespace { oid, location: OsString::from_vec(path.to_vec()).into() })
    };
    parse().ok_or_else(|| TablespaceMapError::Malformed(shown(line)))
}

fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(line).escape_debug().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V13: ServerVersion = ServerVersion(130_023);
    const V14: ServerVersion = ServerVersion(140_023);

    fn tablespace(oid: u32, location: &str) -> Tablespace {
        Tablespace { oid, location: location.into() }
    }

    /// As servers of these versions wrote it for `CREATE TABLESPACE odd LOCATION E'/srv/odd\nnew\\line'`.
    #[test]
    fn reads_what_servers_write_for_odd_paths() {
        let odd = [tablespace(16415, "/srv/odd\nnew\\line"), tablespace(16384, "/srv/ts1")];
        let written_14 = b"16415 /srv/odd\\\nnew\\\\line\n16384 /srv/ts1\n";
        let written_13 = b"16415 /srv/odd\\\nnew\\line\n16384 /srv/ts1\n";
        assert_eq!(parse(written_14, V14).unwrap(), odd);
        assert_eq!(parse(written_13, V13).unwrap(), odd);
        assert_eq!(write(&odd, V14), written_14);
        assert_eq!(write(&odd, V13), written_13);
    }

    #[test]
    fn lines_may_end_in_either_way_and_a_map_may_be_empty() {
        assert_eq!(parse(b"", V14), Ok(vec![]));
        assert_eq!(parse(b"1 /a\r\n2 /b\r\n", V14), Ok(vec![tablespace(1, "/a"), tablespace(2, "/b")]));
    }

    #[test]
    fn what_is_not_a_map_is_refused() {
        for line in [
            "x",
            "1",
            "1 ",
            " /a",
            "0 /a",
            "-1 /a",
            "+1 /a",
            "4294967296 /a",
            "1 a",
            "1  /a",
            "1 /a\0",
            "a /a",
        ] {
            let map = format!("16384 /srv\n{line}\n");
            assert!(matches!(parse(map.as_bytes(), V14), Err(TablespaceMapError::Malformed(_))), "{line}");
        }
        assert_eq!(parse(b"1 /a\n1 /b\n", V14), Err(TablespaceMapError::Repeated(1)));
        assert_eq!(parse(b"1 /a\n2 /b", V14), Err(TablespaceMapError::Unfinished("2 /b".into())));
        assert!(parse(b"2 /b\\", V14).is_err(), "cut behind a backslash");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes, V13);
            let _ = parse(&bytes, V14);
        }

        #[test]
        fn maps_round_trip(paths in prop::collection::vec("/[a\\\\ \n\ré/]{0,12}b", 0..5)) {
            let tablespaces: Vec<_> =
                paths.iter().enumerate().map(|(i, path)| tablespace(16384 + i as u32, path)).collect();
            prop_assert_eq!(parse(&write(&tablespaces, V14), V14).unwrap(), tablespaces);
        }

        #[test]
        fn maps_of_13_round_trip_without_backslashes(paths in prop::collection::vec("/[a \n\ré/]{0,12}", 0..5)) {
            let tablespaces: Vec<_> =
                paths.iter().enumerate().map(|(i, path)| tablespace(16384 + i as u32, path)).collect();
            prop_assert_eq!(parse(&write(&tablespaces, V13), V13).unwrap(), tablespaces);
        }
    }
}
