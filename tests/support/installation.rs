//! Which PostgreSQL the tests run, and what happens where there is none.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The programs of one PostgreSQL version.
#[derive(Debug)]
pub struct Installation {
    bin: PathBuf,
    /// As `postgres --version` says it.
    pub version: String,
    pub major: u32,
}

impl Installation {
    /// `PGBAK_TEST_PG_BIN`, else the newest version that Debian's packages installed, else what is in `PATH`.
    pub fn find() -> Option<&'static Self> {
        static FOUND: OnceLock<Option<Installation>> = OnceLock::new();
        FOUND.get_or_init(|| candidates().into_iter().find_map(Self::at)).as_ref()
    }

    /// `None`, with the test noted as skipped, where there is none.
    pub fn find_or_skip() -> Option<&'static Self> {
        let found = Self::find();
        if found.is_none() {
            skip(
                "no PostgreSQL server is installed; tests/run.sh installs one, PGBAK_TEST_PG_BIN names another",
            );
        }
        found
    }

    fn at(bin: PathBuf) -> Option<Self> {
        let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        let number = version.split_whitespace().nth(2)?;
        let major = number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        Some(Self { bin, version, major })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    pub fn bin(&self) -> &Path {
        &self.bin
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(chosen) = env::var_os("PGBAK_TEST_PG_BIN") {
        return vec![chosen.into()];
    }
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = debian
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let path = env::var_os("PATH").unwrap_or_default();
    versions.into_iter().map(|(_, bin)| bin).chain(env::split_paths(&path)).collect()
}

/// Notes that the running test cannot be made here. Where `CI=true`, that is a failure.
///
/// The test harness knows no skipping at run time, so the note also goes to the file that `PGBAK_TEST_SKIPPED`
/// names, from which `tests/run.sh` takes its total.
pub fn skip(reason: &str) {
    assert!(env::var("CI").as_deref() != Ok("true"), "skipping is failing where CI=true: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not with a macro, whose words the harness keeps to itself where a test passes.
    let _ = io::stderr().write_all(format!("skipped: {test}: {reason}\n").as_bytes());
    if let Some(file) = env::var_os("PGBAK_TEST_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(file).expect("the file is writable");
        file.write_all(format!("{test}: {reason}\n").as_bytes()).expect("the file is writable");
    }
}
