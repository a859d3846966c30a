//! Where the files of a backup go: the data directory, and a directory for each tablespace.
//!
//! Every path that a backup names passes through here. None of them leads out of these directories.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::{Error, Request};
use crate::catalog::backup::Tablespace;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub data: PathBuf,
    pub tablespaces: BTreeMap<u32, PathBuf>,
}

impl Places {
    /// Each tablespace keeps its place unless `--tablespace-mapping` gives it another.
    pub fn new(request: &Request, tablespaces: &[Tablespace]) -> Result<Self, Error> {
        for (old, _) in &request.tablespace_mapping {
            if !tablespaces.iter().any(|tablespace| Path::new(&tablespace.location) == old) {
                let known: Vec<_> =
                    tablespaces.iter().map(|tablespace| tablespace.location.as_str()).collect();
                return Err(Error::Usage {
                    reason: format!("the backup has no tablespace at \"{}\"", old.display()),
                    hint: match known.is_empty() {
                        true => "It has no tablespaces: leave `--tablespace-mapping` out.".into(),
                        false => format!("Its tablespaces are at {}.", known.join(", ")),
                    },
                });
            }
        }
        let place = |tablespace: &Tablespace| {
            let location = PathBuf::from(&tablespace.location);
            let mapped = request.tablespace_mapping.iter().find(|(old, _)| *old == location);
            (tablespace.oid, mapped.map_or(location, |(_, new)| new.clone()))
        };
        let places =
            Self { data: request.directory.clone(), tablespaces: tablespaces.iter().map(place).collect() };
        places.must_be_apart()?;
        Ok(places)
    }

    /// The file that a path of the manifest names.
    ///
    /// `None` when the path could lead elsewhere: it is absolute, climbs, or goes through a tablespace that the
    /// backup does not have.
    pub fn resolve(&self, path: &[u8]) -> Option<PathBuf> {
        let path = Path::new(OsStr::from_bytes(path));
        let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
        if !plain || path.as_os_str().is_empty() || path.as_os_str().as_bytes().contains(&0) {
            return None;
        }
        let Ok(below) = path.strip_prefix("pg_tblspc") else { return Some(self.data.join(path)) };
        let mut components = below.components();
        let Some(link) = components.next() else { return Some(self.data.join(path)) };
        let oid: u32 = link.as_os_str().to_str()?.parse().ok()?;
        let rest = components.as_path();
        (!rest.as_os_str().is_empty()).then(|| Some(self.tablespaces.get(&oid)?.join(rest))).flatten()
    }

    /// Where the data directory links to a tablespace.
    pub fn link(&self, oid: u32) -> PathBuf {
        self.data.join("pg_tblspc").join(oid.to_string())
    }

    /// Whether the data directory, as it is, has its tablespace `oid` in `directory`.
    pub fn links_to(&self, oid: u32, directory: &Path) -> bool {
        self.link(oid).read_link().is_ok_and(|target| target == directory)
    }

    /// All the directories that a restore fills.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.data.as_path()).chain(self.tablespaces.values().map(PathBuf::as_path))
    }

    fn must_be_apart(&self) -> Result<(), Error> {
        let roots: Vec<_> = self.roots().collect();
        for (index, one) in roots.iter().enumerate() {
            for other in &roots[index + 1..] {
                if one.starts_with(other) || other.starts_with(one) {
                    return Err(Error::Usage {
                        reason: format!(
                            "\"{}\" and \"{}\" lie in each other",
                            one.display(),
                            other.display()
                        ),
                        hint:
                            "Give each tablespace a directory of its own with `--tablespace-mapping OLD=NEW`."
                                .into(),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_a_backup_leads_out_of_its_places() {
        let places = Places { data: "/data".into(), tablespaces: BTreeMap::from([(16401, "/space".into())]) };
        let resolve = |path: &str| places.resolve(path.as_bytes()).map(|path| path.display().to_string());
        assert_eq!(resolve("base/1/1259").as_deref(), Some("/data/base/1/1259"));
        assert_eq!(resolve("pg_tblspc/16401/PG_15/5/1").as_deref(), Some("/space/PG_15/5/1"));
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "base/../../x",
            "./x",
            "pg_tblspc/16401",
            "pg_tblspc/16402/x",
            "pg_tblspc/../x",
            "pg_tblspc/16401/../x",
            "a\0b",
        ] {
            assert_eq!(resolve(path), None, "{path}");
        }
    }
}
