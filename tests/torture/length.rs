//! How long the campaigns are: the one place that says so.
//!
//! `PGBAK_TORTURE=1` runs them in full. `PGBAK_TORTURE_SEED=N` repeats a run: the shortened campaigns always have the
//! same seed, the full ones a new one each time, and each prints its own.

use std::env;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Of the shortened campaigns.
const SEED: u64 = 20_261_123;

pub fn is_full() -> bool {
    env::var_os("PGBAK_TORTURE").is_some_and(|value| !value.is_empty() && value != "0")
}

/// This many, or that many in full.
pub fn of<N>(short: N, full: N) -> N {
    if is_full() { full } else { short }
}

/// The seed of this run.
pub fn seed() -> u64 {
    static CHOSEN: OnceLock<u64> = OnceLock::new();
    *CHOSEN.get_or_init(|| match env::var("PGBAK_TORTURE_SEED") {
        Ok(text) => text.parse().expect("PGBAK_TORTURE_SEED is a number"),
        Err(_) if is_full() => {
            SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs()
        }
        Err(_) => SEED,
    })
}
