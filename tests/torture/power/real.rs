//! Disks of the model made real, for the next run of the program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::campaign::Campaign;
use super::UNFINISHED;
use super::disk::Tree;
use super::failure::some_disks;
use super::recording::Recording;
use crate::support::{Identity, Site};

/// Makes `count` of the disks that a power failure leaves real, in the place of `root`; on each, `next` must go well. It
/// is told how many steps were taken before the power failed.
pub fn real_disks(
    count: usize,
    recording: &Recording,
    campaign: &mut Campaign,
    site: &Site,
    root: &Path,
    next: &mut dyn FnMut(usize),
) -> usize {
    let disks = some_disks(recording, campaign, count);
    let away = root.with_extension("away");
    fs::rename(root, &away).unwrap();
    for (tree, after) in &disks {
        // What pgbak remembers is younger than this disk. It could not be, had the power really failed.
        let _ = fs::remove_dir_all(site.path("home/.local/state"));
        materialise(recording, tree, root, site.identity());
        next(*after);
        fs::remove_dir_all(root).unwrap();
    }
    fs::rename(&away, root).unwrap();
    disks.len()
}

fn materialise(recording: &Recording, tree: &Tree, root: &Path, owner: &Identity) {
    let own = |path: &Path, mode| {
        owner.own_path(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(root).unwrap();
    own(root, 0o700);
    for (path, found) in tree {
        let path = root.join(path);
        if found.is_directory {
            fs::create_dir(&path).unwrap();
            own(&path, 0o700);
            continue;
        }
        let sound = usize::try_from(found.sound_bytes).unwrap();
        let is_known = recording.nodes[found.inode].content.is_some();
        assert!(is_known || sound == 0 || path.to_string_lossy().ends_with(UNFINISHED), "{}", path.display());
        let mut bytes = recording.nodes[found.inode].content.clone().unwrap_or_default();
        bytes.truncate(sound);
        bytes.resize(usize::try_from(found.length_bytes).unwrap(), 0);
        fs::write(&path, bytes).unwrap();
        own(&path, 0o600);
    }
}
