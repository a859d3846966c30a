//! What the restored server is told: where recovery stops, and how it gets its WAL.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::Error;
use super::target::{self, Owner, io_error};
use crate::pg::settings_file;
use crate::plan::recovery::{RecoveryPlan, SignalFile};

const AUTO_CONF: &str = "postgresql.auto.conf";

/// Writes the settings and the signal file. Recovery settings of the old life are commented out, and its signal files
/// go: the backup of a standby brings a `standby.signal`, which would win over ours.
pub fn write(
    data: &Path,
    plan: &RecoveryPlan,
    settings: &[(String, String)],
    owner: Owner,
) -> Result<(), Error> {
    let path = data.join(AUTO_CONF);
    let old = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(|source| io_error("read", &path, source))?,
    };
    let text = settings_file::neutralise(&old, &settings_file::RECOVERY_SETTINGS);
    let text = settings_file::append(&text, settings).map_err(|error| Error::Usage {
        reason: error.to_string(),
        hint: "A path or name with such a character cannot be written into postgresql.auto.conf.".into(),
    })?;
    replace(&path, &text, owner)?;
    for signal in SignalFile::ALL.into_iter().filter(|signal| *signal != plan.signal) {
        let path = data.join(signal.file_name());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &path, error));
            }
            _ => {}
        }
    }
    replace(&data.join(plan.signal.file_name()), b"", owner)
}

/// Writes a file beside its place and renames it, with the mode and owner of what it replaces.
pub fn replace(path: &Path, content: &[u8], owner: Owner) -> Result<(), Error> {
    let io = |source| io_error("write", path, source);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".pgbak");
    let fresh = path.with_file_name(name);
    // The data directory's own file tells what mode and owner its siblings have.
    let model =
        fs::metadata(path).or_else(|_| fs::metadata(path.with_file_name("PG_VERSION"))).map_err(io)?;
    let mut file =
        fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(io)?;
    file.write_all(content).map_err(io)?;
    file.set_permissions(fs::Permissions::from_mode(model.permissions().mode() & 0o777)).map_err(io)?;
    let recorded = (model.uid(), model.gid());
    target::give(&fresh, owner.resolve(recorded))?;
    fs::rename(&fresh, path).map_err(io)
}
