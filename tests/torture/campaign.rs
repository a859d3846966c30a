//! A campaign: its seed, what it draws with it, and the one line that it ends with.

use std::io::{Write, stdout};

use super::dice::Dice;
use super::length;

/// Random numbers that can be had again, see [`length::seed`].
pub struct Campaign {
    name: String,
    dice: Dice,
}

impl Campaign {
    pub fn begin(name: &str) -> Self {
        let seed = length::seed();
        // Shown when it fails.
        println!("torture: {name}: PGBAK_TORTURE_SEED={seed}");
        Self { name: name.to_owned(), dice: Dice::new(seed, name, 0) }
    }

    /// Says what it came to, also where the harness keeps the output of tests to itself.
    pub fn end(self, summary: &str) {
        let line = format!("torture: {}: {summary}\n", self.name);
        stdout().write_all(line.as_bytes()).expect("standard output is open");
    }

    pub fn number(&mut self) -> u64 {
        self.dice.next()
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.dice.below(end)
    }

    pub fn flips(&mut self) -> bool {
        self.number().is_multiple_of(2)
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
