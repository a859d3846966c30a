//! A campaign: its seed, what it draws with it, and the one line that it ends with.

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::io::{Write, stdout};

/// Random numbers that can be had again: `PGBAK_TORTURE_SEED` repeats a campaign.
pub struct Campaign {
    name: String,
    state: u64,
}

impl Campaign {
    pub fn begin(name: &str) -> Self {
        let given = env::var("PGBAK_TORTURE_SEED").ok().map(|text| text.parse().expect("a seed is a number"));
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(name) >> 32);
        // Shown when it fails.
        println!("torture: {name}: PGBAK_TORTURE_SEED={seed}");
        Self { name: name.to_owned(), state: seed }
    }

    /// Says what it came to, also where the harness keeps the output of tests to itself.
    pub fn end(self, summary: &str) {
        let line = format!("torture: {}: {summary}\n", self.name);
        stdout().write_all(line.as_bytes()).expect("standard output is open");
    }

    /// SplitMix64.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end as u64).expect("less than a usize")
    }

    pub fn flips(&mut self) -> bool {
        self.number() % 2 == 0
    }

    /// At most `count` of `all`, each as likely as any other, in their order.
    pub fn some_of<T>(&mut self, mut all: Vec<T>, count: usize) -> Vec<T> {
        while all.len() > count {
            let lost = self.below(all.len());
            all.remove(lost);
        }
        all
    }
}
