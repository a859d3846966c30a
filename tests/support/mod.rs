//! A throw-away site: a real PostgreSQL cluster on a private socket, repositories, and a `pgbak.toml`.
//!
//! Everything lives in one temporary directory, runs as an ordinary user even when the tests are run by root, and
//! is gone when the [`Site`] is dropped, also after a panic. Nothing here sleeps where it can wait for a condition,
//! and each wait has a bound.

#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]
#![allow(clippy::print_stderr, reason = "a failed test shows what the server and pgbak said")]

mod cluster;
mod disk;
mod history;
mod identity;
mod installation;
mod normalise;
mod outcome;
mod pair;
pub mod process;
mod proxy;
mod repository;
mod site;
mod sshd;
mod workload;

pub use cluster::Cluster;
pub use disk::SmallDisk;
pub use history::{Commit, History};
pub use identity::Identity;
pub use installation::{Installation, skip};
pub use outcome::{Outcome, Running};
pub use pair::Pair;
pub use process::{wait_for, wait_until};
pub use proxy::{Direction, Ending, Proxy};
pub use repository::Repository;
pub use site::{Call, Site, SiteBuilder};
pub use sshd::{Account as SshAccount, KeyType, Sshd, has_separate_sftp_server};
pub use workload::{Account, Workload};

/// A [`Site`], made to order: `site!()`, `site!(repositories(2), initdb("--wal-segsize=1"))`.
///
/// Where there is no PostgreSQL, the test ends here and is noted as skipped.
#[macro_export]
macro_rules! site {
    ($($option:ident($($value:expr),*)),* $(,)?) => {
        match $crate::support::Site::with()$(.$option($($value),*))*.build() {
            Some(site) => site,
            None => return,
        }
    };
}

/// A [`Pair`] with an account of this kind, made to order like a [`site!`]: `pair!(Shell)`, `pair!(Chrooted, tablespaces(1))`.
///
/// Its segments are small. Where it cannot be had, the test ends here and is noted as skipped.
#[macro_export]
macro_rules! pair {
    ($account:ident $(, $option:ident($($value:expr),*))* $(,)?) => {
        match $crate::support::Pair::build(
            $crate::support::SshAccount::$account,
            $crate::support::Site::with().initdb("--wal-segsize=1")$(.$option($($value),*))*,
        ) {
            Some(pair) => pair,
            None => return,
        }
    };
}
