//! Connection service files: named groups of connection parameters.
//!
//! Follows PostgreSQL `src/interfaces/libpq/fe-connect.c` (`parseServiceInfo`, `parseServiceFile`): sections in
//! brackets with lines of `keyword=value`, no blanks around `=`, remarks after `#` at a line's beginning. The user's
//! file (`PGSERVICEFILE`, else `~/.pg_service.conf`) comes before the system's (`pg_service.conf` in `PGSYSCONFDIR`).
//! Sections that fetch their content from LDAP are refused.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where Debian's libpq looks for `pg_service.conf` when `PGSYSCONFDIR` is not set.
pub const SYSTEM_DIRECTORY: &str = "/etc/postgresql-common";

const SIZE_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    #[error("service \"{service}\" is defined neither in {} nor in {}", .user_file.display(), .system_file.display())]
    NotDefined { service: String, user_file: PathBuf, system_file: PathBuf },
    #[error("the service file {} cannot be read: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("the service file {} has no \"keyword=value\" in line {line}", .path.display())]
    Syntax { path: PathBuf, line: usize },
    #[error("the service file {} names another service in line {line}, which does not nest", .path.display())]
    Nested { path: PathBuf, line: usize },
    #[error("the service file {} asks an LDAP server in line {line}, which pgbak cannot do", .path.display())]
    Ldap { path: PathBuf, line: usize },
}

type Pairs = Vec<(String, String)>;

/// The keywords and values of `service`; of a keyword that is given twice, the first counts.
pub fn find(service: &str, user_file: &Path, system_file: &Path) -> Result<Pairs, ServiceError> {
    for path in [user_file, system_file] {
        let Some(content) = read(path)? else { continue };
        if let Some(pairs) = section(&content, service, path)? {
            return Ok(pairs);
        }
    }
    Err(ServiceError::NotDefined {
        service: service.to_owned(),
        user_file: user_file.to_owned(),
        system_file: system_file.to_owned(),
    })
}

fn read(path: &Path) -> Result<Option<String>, ServiceError> {
    let unreadable =
        |error: io::Error| ServiceError::Unreadable { path: path.to_owned(), reason: error.to_string() };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut content = Vec::new();
    file.take(SIZE_MAX_BYTES).read_to_end(&mut content).map_err(unreadable)?;
    Ok(Some(String::from_utf8_lossy(&content).into_owned()))
}

/// The section `[service]` of `content`, which came from `path`; `None` when it has none.
fn section(content: &str, service: &str, path: &Path) -> Result<Option<Pairs>, ServiceError> {
    let mut found: Option<Pairs> = None;
    for (index, line) in content.lines().enumerate() {
        let (line, number, path) = (line.trim(), index + 1, path.to_owned());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            // libpq looks at the beginning of the line only: what follows the bracket is a remark.
            if name.strip_prefix(service).is_some_and(|rest| rest.starts_with(']')) {
                found = Some(Pairs::new());
            }
            continue;
        }
        let Some(pairs) = &mut found else { continue };
        if line.starts_with("ldap") {
            return Err(ServiceError::Ldap { path, line: number });
        }
        match line.split_once('=') {
            Some(("service", _)) => return Err(ServiceError::Nested { path, line: number }),
            Some((keyword, value)) if !keyword.is_empty() && !value.contains('\0') => {
                if pairs.iter().all(|(known, _)| known != keyword) {
                    pairs.push((keyword.to_owned(), value.to_owned()));
                }
            }
            _ => return Err(ServiceError::Syntax { path, line: number }),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    const CONTENT: &str =
        "# remark\n[shop]\nhost=db\nport=5433\nhost=late\n\n[other] # remark\nuser=me\n[shop]\nuser=late";

    fn of(content: &str, service: &str) -> Result<Option<Pairs>, ServiceError> {
        section(content, service, Path::new("f"))
    }

    #[test]
    fn the_named_section_is_read_and_the_first_value_counts() {
        let pairs = |list: &[(&str, &str)]| {
            Ok(Some(list.iter().map(|(keyword, value)| (keyword.to_string(), value.to_string())).collect()))
        };
        assert_eq!(of(CONTENT, "shop"), pairs(&[("host", "db"), ("port", "5433")]));
        assert_eq!(of(CONTENT, "other"), pairs(&[("user", "me")]));
        assert_eq!(of(CONTENT, "sho"), Ok(None));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let path = PathBuf::from("f");
        assert_eq!(of("[a]\nhost", "a"), Err(ServiceError::Syntax { path: path.clone(), line: 2 }));
        assert_eq!(of("[a]\nservice=b", "a"), Err(ServiceError::Nested { path: path.clone(), line: 2 }));
        assert_eq!(of("[a]\nldap://x/y", "a"), Err(ServiceError::Ldap { path, line: 2 }));
        assert_eq!(of("[b]\nnonsense\n[a]\nhost=x", "a").unwrap().unwrap().len(), 1);
    }

    #[test]
    fn the_users_file_comes_before_the_systems() {
        let directory = tempfile::tempdir().unwrap();
        let (user, system) = (directory.path().join("user"), directory.path().join("system"));
        fs::write(&system, "[shop]\nhost=system\n[rest]\nhost=rest").unwrap();
        assert_eq!(find("shop", &user, &system).unwrap()[0].1, "system");
        fs::write(&user, "[shop]\nhost=user").unwrap();
        assert_eq!(find("shop", &user, &system).unwrap()[0].1, "user");
        assert_eq!(find("rest", &user, &system).unwrap()[0].1, "rest");
        assert!(matches!(find("none", &user, &system), Err(ServiceError::NotDefined { .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(content in "(\\[a\\]\n)?[^\0]*") {
            let _ = of(&content, "a");
        }
    }
}
