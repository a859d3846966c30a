//! The segments after the one that recovery has asked for, fetched while it replays that.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::unchecked::Unchecked;
use super::{AHEAD_SEGMENTS, Fetch, Request};
use crate::ops::{Context, process};
use crate::pg::{SystemIdentifier, WalFileName};

/// Segments fetched before they were asked for, in a directory of pgbak's own.
///
/// They are not made durable: the directory's name holds the kernel's boot, so that what a power failure left torn is
/// never taken for a segment.
pub struct Ahead {
    pub directory: PathBuf,
}

impl Ahead {
    pub fn of(context: &Context<'_>, system: SystemIdentifier) -> Self {
        let boot = process::boot_id();
        let directory = context.state_directory.join("fetched-ahead").join(format!("{system}-{boot}"));
        Self { directory }
    }

    pub fn path(&self, name: &WalFileName) -> PathBuf {
        self.directory.join(name.to_string())
    }

    /// Moves a segment that is ready into place; `false` when it is not, or cannot be moved.
    pub fn take(&self, name: &WalFileName, destination: &Path) -> bool {
        let ready = self.path(name);
        let moved = match fs::rename(&ready, destination) {
            // The state directory lies on another file system.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                self.copy(&ready, destination).and_then(|()| fs::remove_file(&ready))
            }
            renamed => renamed,
        };
        moved.is_ok()
    }

    fn copy(&self, ready: &Path, destination: &Path) -> io::Result<()> {
        let mut unchecked = Unchecked::beside(destination).map_err(io::Error::other)?;
        io::copy(&mut File::open(ready)?, &mut unchecked.file)?;
        unchecked.publish().map_err(io::Error::other)
    }

    /// Starts the background process, unless the next segment is there already.
    pub fn start(&self, context: &Context<'_>, request: &Request, fetch: &Fetch<'_>) {
        if !matches!(fetch.name, WalFileName::Segment(_)) || self.is_filled() {
            return;
        }
        let mut command = Command::new(&context.program);
        if let Some(file) = &context.config.file {
            command.arg("--config").arg(file);
        }
        command.args(["wal-fetch-ahead", &fetch.system.to_string(), &request.name]).current_dir("/");
        command.args(request.repositories.iter().flat_map(|name| ["--repository", name]));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A session of its own: a signal to PostgreSQL's process group does not concern it.
        if let Err(error) = std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn() {
            tracing::debug!("could not fetch ahead: {error}");
        }
    }

    /// Whether so many are ready that nothing needs to be started.
    fn is_filled(&self) -> bool {
        let ready = fs::read_dir(&self.directory).map_or(0, |entries| entries.count() as u64);
        ready > AHEAD_SEGMENTS / 2
    }

    /// Removes what recovery has passed, what it left on other timelines, and what was fetched before a reboot.
    pub fn keep_only_after(&self, name: &WalFileName) {
        for sibling in
            fs::read_dir(self.directory.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten()
        {
            if sibling.path() != self.directory && is_of_same_system(&sibling.path(), &self.directory) {
                let _ = fs::remove_dir_all(sibling.path());
            }
        }
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let file_name = entry.file_name();
            let parsed = file_name.to_str().and_then(|text| WalFileName::parse(text).ok());
            let later = |ready: &WalFileName| {
                ready.timeline() == name.timeline() && ready.to_string() > name.to_string()
            };
            if !parsed.as_ref().is_some_and(later) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    pub fn clear(&self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn is_of_same_system(one: &Path, other: &Path) -> bool {
    let system =
        |path: &Path| path.file_name()?.to_str()?.split_once('-').map(|(system, _)| system.to_owned());
    system(one).is_some() && system(one) == system(other)
}
