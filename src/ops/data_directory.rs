//! A cluster's data directory, as far as pgbak looks into it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Context, Error};
use crate::pg::SystemIdentifier;
use crate::pg::control_file::ControlFile;

/// The file without which no server starts.
pub const CONTROL_FILE: &str = crate::pg::control_file::PATH;
/// `pg_control` is 8 KiB on every supported version.
const CONTROL_FILE_SIZE_MAX_BYTES: u64 = 64 << 10;

/// Reads `pg_control`; `None` when there is none.
pub fn control_file(data_directory: &Path) -> Result<Option<ControlFile>, Error> {
    let path = data_directory.join(CONTROL_FILE);
    let io = |source| Error::Io { action: "read", path: path.clone(), source };
    let mut bytes = Vec::new();
    match fs::File::open(&path) {
        Ok(file) => file.take(CONTROL_FILE_SIZE_MAX_BYTES).read_to_end(&mut bytes).map_err(io)?,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(io(error)),
    };
    let parsed = ControlFile::parse(&bytes);
    parsed.map(Some).map_err(|source| Error::ControlFile { path, source })
}

impl Context<'_> {
    /// The cluster on whose behalf PostgreSQL calls, and the path that it passed, made absolute.
    ///
    /// PostgreSQL runs `archive_command` and `restore_command` in the data directory and passes paths relative to
    /// it. Run by hand from elsewhere, the data directory is the one that holds the path, or the configured one.
    pub(super) fn calling_cluster(&self, path: &Path) -> Result<(PathBuf, Option<SystemIdentifier>), Error> {
        let here = std::env::current_dir();
        let here = here.map_err(|source| Error::Io { action: "find", path: ".".into(), source })?;
        let configured = self.config.postgres.data_directory.clone();
        // `pg_wal/NAME` lies two levels below the data directory.
        let above = path.is_absolute().then(|| path.parent()?.parent().map(Path::to_owned)).flatten();
        for directory in [above, Some(here.clone()), configured.clone()].into_iter().flatten() {
            if let Some(control) = control_file(&directory)? {
                return Ok((directory.join(path), Some(control.system_identifier)));
            }
        }
        Ok((configured.filter(|_| path.is_relative()).unwrap_or(here).join(path), None))
    }
}
