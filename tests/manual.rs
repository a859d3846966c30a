//! The manual and the completions: made from the command line's own description and from the prose in `man/prose`,
//! and stale as soon as they differ from it.
//!
//! `PGBAK_WRITE_MANUAL=1 cargo test --test manual` writes them anew.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod support;

mod manual {
    mod completions;
    mod configuration;
    mod examples;
    pub mod json;
    mod package;
    mod pages;
    pub mod prose;
}

use std::fs;
use std::path::Path;

use manual::{json, prose};

/// Compares a committed file with what it should be, or writes it.
fn must_be(path: &Path, expected: &str) {
    if std::env::var_os("PGBAK_WRITE_MANUAL").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, expected).unwrap();
        return;
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    let line = expected.lines().zip(found.lines().chain(std::iter::repeat(""))).find(|(a, b)| a != b);
    assert!(
        found == expected,
        "{} is stale, first at {line:?}: run `PGBAK_WRITE_MANUAL=1 cargo test --test manual`",
        path.display()
    );
}

/// The names of the files in a directory that end like this, in order.
fn files_in(directory: &str, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = entries
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.ends_with(ending))
        .collect();
    names.sort();
    names
}
