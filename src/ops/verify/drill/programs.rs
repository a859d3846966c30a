//! Where the programs of the right PostgreSQL are: only the major version that made a backup can start it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ops::{Context, Error};

/// The programs of one installation.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
    /// As `postgres --version` says it.
    pub version: String,
}

impl Programs {
    /// In `chosen`, else where Debian and Red Hat put it, else where `pg_config` says, else in `PATH`.
    pub fn find(context: &Context<'_>, chosen: Option<&Path>, major: u32) -> Result<Self, Error> {
        let none = |reason: String| Error::Usage {
            reason,
            hint: format!(
                "Install the server of PostgreSQL {major} here, or name the directory of its programs with \
                 `--bin-directory DIR`."
            ),
        };
        if let Some(directory) = chosen {
            return match Self::at(directory) {
                Some((found, programs)) if found == major => Ok(programs),
                Some((_, Self { version, .. })) => Err(none(format!(
                    "\"{}\" has {version}, and the backup needs PostgreSQL {major}",
                    directory.display()
                ))),
                None => Err(none(format!("\"{}\" has no postgres that could be run", directory.display()))),
            };
        }
        let places = [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")];
        let of_config = output(Command::new("pg_config").arg("--bindir"));
        let path = (context.environment)("PATH").unwrap_or_default();
        let candidates = places.into_iter().chain(of_config).map(PathBuf::from);
        let mut candidates = candidates.chain(std::env::split_paths(&path));
        let found = candidates.find_map(|directory| {
            Self::at(&directory).filter(|(found, _)| *found == major).map(|(_, programs)| programs)
        });
        found.ok_or_else(|| {
            none(format!("no server of PostgreSQL {major} was found to start the backup with"))
        })
    }

    fn at(directory: &Path) -> Option<(u32, Self)> {
        let version = output(Command::new(directory.join("postgres")).arg("--version"))?;
        let major = major_of(&version)?;
        Some((major, Self { directory: directory.to_owned(), version }))
    }

    pub fn path(&self, program: impl AsRef<OsStr>) -> PathBuf {
        self.directory.join(program.as_ref())
    }

    /// A program of the installation; not every package has all of them.
    pub fn optional(&self, program: &str) -> Option<PathBuf> {
        Some(self.path(program)).filter(|path| path.is_file())
    }
}

/// Reads `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.strip_prefix("postgres (PostgreSQL) ")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The one line that a program says when asked about itself.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(std::process::Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_every_server_says() {
        for (version, major) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 13.23", Some(13)),
            ("postgres (PostgreSQL) ", None),
            ("psql (PostgreSQL) 15.14", None),
        ] {
            assert_eq!(major_of(version), major, "{version}");
        }
    }
}
