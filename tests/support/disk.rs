//! A disk that is soon full: a small memory file system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::wait_until;
use super::{Identity, skip};

/// Unmounted when dropped.
pub struct SmallDisk {
    pub path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `path`; `None`, with the test noted as skipped, where mounting is not permitted.
    pub fn mount(path: &Path, size: &str, owner: &Identity) -> Option<Self> {
        fs::create_dir_all(path).expect("the site is writable");
        let options = format!("size={size},uid={},gid={},mode=0700", owner.uid, owner.gid);
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "pgbak-test"]).arg(path).output();
        let mounted = mount.as_ref().is_ok_and(|output| output.status.success());
        if !mounted {
            skip("mounting a small disk is not permitted here");
            return None;
        }
        Some(Self { path: path.to_owned() })
    }

    /// Leaves no more than `free_bytes`.
    pub fn fill_up_to(&self, free_bytes: u64) {
        let ballast = fs::File::create(self.path.join("ballast")).expect("there is room for the ballast");
        let disk = self.statistics();
        let size_bytes = (disk.f_bavail * disk.f_frsize).saturating_sub(free_bytes);
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, size_bytes)
            .expect("there is room for the ballast");
    }

    pub fn used_bytes(&self) -> u64 {
        let disk = self.statistics();
        (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    }

    fn statistics(&self) -> rustix::fs::StatVfs {
        rustix::fs::statvfs(&self.path).expect("a mounted disk has statistics")
    }

    pub fn remove_ballast(&self) {
        fs::remove_file(self.path.join("ballast")).expect("the ballast is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmount = || Command::new("umount").arg(&self.path).output();
        let unmounted = || unmount().is_ok_and(|output| output.status.success());
        if std::thread::panicking() {
            // Detached now, gone with its last user.
            let _ = Command::new("umount").arg("--lazy").arg(&self.path).output();
        } else {
            wait_until("the small disk to be free", unmounted);
        }
    }
}
