//! How long the campaigns are.

use std::env;

/// `full` when the environment variable `PGBAK_TORTURE` is set, else what continuous integration has time for.
pub fn of(ci: usize, full: usize) -> usize {
    if env::var_os("PGBAK_TORTURE").is_some() { full } else { ci }
}
