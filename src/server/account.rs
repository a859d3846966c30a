//! Who runs this process: the operating system's user name and home directory.

use std::fs;
use std::path::PathBuf;

/// One line of `/etc/passwd`, as far as libpq's defaults need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub home: PathBuf,
}

impl Account {
    /// The account of the effective user; `None` when `/etc/passwd` does not list it (a directory service may).
    pub fn of_this_process() -> Option<Self> {
        let uid = rustix::process::geteuid().as_raw();
        find(&String::from_utf8_lossy(&fs::read("/etc/passwd").ok()?), uid)
    }
}

/// `passwd(5)`: name, password, user id, group id, comment, home and shell, with colons between them.
fn find(passwd: &str, uid: u32) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        match fields[..] {
            [name, _, id, _, _, home, _] if id.parse() == Ok(uid) => {
                Some(Account { name: name.to_owned(), home: home.into() })
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_with_the_user_id_counts() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\n# a remark\npostgres:x:107:114:,,,:/var/lib/postgresql:/bin/sh";
        let postgres = Account { name: "postgres".to_owned(), home: "/var/lib/postgresql".into() };
        assert_eq!(find(passwd, 107), Some(postgres));
        assert_eq!(find(passwd, 114), None);
    }
}
