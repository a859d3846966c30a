//! Where pgbak keeps what belongs to no repository.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const SYSTEM: &str = "/var/lib/pgbak";

/// Locks and files fetched ahead. The first of these that is set, by systemd's and XDG's conventions:
///
/// 1. `PGBAK_STATE_DIRECTORY`;
/// 2. `STATE_DIRECTORY`, of which systemd may set several, separated by colons: then the first;
/// 3. `/var/lib/pgbak`, for root and for the user that it belongs to: what the timers of the system remember there
///    is what `status` asks for at a terminal;
/// 4. `$XDG_STATE_HOME/pgbak`, or `$HOME/.local/state/pgbak`;
/// 5. `/tmp/pgbak-UID`. Others may write to `/tmp`, so whoever uses the directory must check whose it is.
///
/// What is not absolute is passed over. The directory need not exist.
pub fn state_directory(environment: &dyn Fn(&str) -> Option<String>, user_id: u32) -> PathBuf {
    choose(environment, user_id, &|path| fs::metadata(path).ok().map(|found| found.uid()))
}

fn choose(
    environment: &dyn Fn(&str) -> Option<String>,
    user_id: u32,
    owner_of: &dyn Fn(&Path) -> Option<u32>,
) -> PathBuf {
    let absolute =
        |name: &str| environment(name).map(PathBuf::from).filter(|directory| directory.is_absolute());
    let of_systemd = || {
        let list = environment("STATE_DIRECTORY")?;
        list.split(':').next().map(PathBuf::from).filter(|directory| directory.is_absolute())
    };
    let of_system = || {
        let path = Path::new(SYSTEM);
        (user_id == 0 || owner_of(path) == Some(user_id)).then(|| path.to_owned())
    };
    let of_user = || {
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        Some(state.join("pgbak"))
    };
    absolute("PGBAK_STATE_DIRECTORY")
        .or_else(of_systemd)
        .or_else(of_system)
        .or_else(of_user)
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/pgbak-{user_id}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_convention_wins() {
        let mut variables = vec![
            ("PGBAK_STATE_DIRECTORY", "/own"),
            ("STATE_DIRECTORY", "/systemd/a:/systemd/b"),
            ("XDG_STATE_HOME", "/xdg"),
            ("HOME", "/home/me"),
        ];
        let mut expected =
            ["/own", "/systemd/a", "/xdg/pgbak", "/home/me/.local/state/pgbak", "/tmp/pgbak-26"].iter();
        loop {
            let environment =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
            assert_eq!(Some(&choose(&environment, 26, &|_| None).to_str().unwrap()), expected.next());
            if variables.is_empty() {
                break;
            }
            variables.remove(0);
        }
    }

    #[test]
    fn the_system_s_directory_is_also_that_of_the_user_it_belongs_to() {
        let home = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        assert_eq!(choose(&home, 26, &|_| Some(26)), PathBuf::from(SYSTEM));
        assert_eq!(choose(&home, 26, &|_| Some(27)), PathBuf::from("/home/me/.local/state/pgbak"));
    }

    #[test]
    fn root_has_the_system_s_directory_unless_told_otherwise() {
        let home = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        assert_eq!(choose(&home, 0, &|_| None), PathBuf::from(SYSTEM));
        let relative = |name: &str| (name == "PGBAK_STATE_DIRECTORY").then(|| "state".to_owned());
        assert_eq!(choose(&relative, 0, &|_| None), PathBuf::from(SYSTEM));
    }
}
