//! Where pgbak keeps what belongs to no repository.

use std::path::PathBuf;

/// Locks and files fetched ahead. The first of these that is set, by systemd's and XDG's conventions:
///
/// 1. `PGBAK_STATE_DIRECTORY`;
/// 2. `STATE_DIRECTORY`, of which systemd may set several, separated by colons: then the first;
/// 3. for root, `/var/lib/pgbak`;
/// 4. `$XDG_STATE_HOME/pgbak`, or `$HOME/.local/state/pgbak`;
/// 5. `/tmp/pgbak-UID`. Others may write to `/tmp`, so whoever uses the directory must check whose it is.
///
/// What is not absolute is passed over. The directory need not exist.
pub fn state_directory(environment: &dyn Fn(&str) -> Option<String>, user_id: u32) -> PathBuf {
    let absolute =
        |name: &str| environment(name).map(PathBuf::from).filter(|directory| directory.is_absolute());
    let of_systemd = || {
        let list = environment("STATE_DIRECTORY")?;
        list.split(':').next().map(PathBuf::from).filter(|directory| directory.is_absolute())
    };
    let of_root = || (user_id == 0).then(|| PathBuf::from("/var/lib/pgbak"));
    let of_user = || {
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        Some(state.join("pgbak"))
    };
    absolute("PGBAK_STATE_DIRECTORY")
        .or_else(of_systemd)
        .or_else(of_root)
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
            assert_eq!(Some(&state_directory(&environment, 26).to_str().unwrap()), expected.next());
            if variables.is_empty() {
                break;
            }
            variables.remove(0);
        }
    }

    #[test]
    fn root_has_the_system_s_directory_unless_told_otherwise() {
        let home = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        assert_eq!(state_directory(&home, 0), PathBuf::from("/var/lib/pgbak"));
        let relative = |name: &str| (name == "PGBAK_STATE_DIRECTORY").then(|| "state".to_owned());
        assert_eq!(state_directory(&relative, 0), PathBuf::from("/var/lib/pgbak"));
    }
}
