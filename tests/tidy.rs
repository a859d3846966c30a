//! Properties of the source itself: who may use whom, who reads the clock, who prints.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each module of the crate and the others that it may use. This list is the architecture.
const MAY_USE: &[(&str, &[&str])] = &[
    ("pg", &[]),
    ("interrupt", &[]),
    ("digest_line", &[]),
    ("meter", &[]),
    ("storage", &["interrupt"]),
    ("pipe", &["digest_line", "interrupt", "meter"]),
    ("catalog", &["digest_line", "pg"]),
    ("plan", &["catalog", "pg"]),
    ("server", &["interrupt", "meter", "pg"]),
    ("config", &["pipe"]),
    ("repo", &["catalog", "digest_line", "pg", "pipe", "storage"]),
    ("ops", &["catalog", "config", "interrupt", "meter", "pg", "pipe", "plan", "repo", "server", "storage"]),
    ("cli", &["config", "interrupt", "meter", "ops", "pg", "pipe"]),
    ("main", &["cli", "interrupt"]),
    ("lib", &[]),
];

/// What may lie at the top; everything else has a place below.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "completions",
    "examples",
    "man",
    "src",
    "target",
    "tests",
];

/// Of a file, without its tests.
const LINES_MAX: usize = 600;

/// A file below `src`, with its tests cut off.
struct Source {
    path: PathBuf,
    /// Its top-level module: `pg` for `src/pg/lsn.rs`.
    module: String,
    text: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let paths = rust_files(Path::new("src"));
    let only_for_tests: Vec<PathBuf> = paths.iter().flat_map(|path| modules_only_for_tests(path)).collect();
    let is_test = |path: &PathBuf| {
        only_for_tests.iter().any(|module| path == module || path.starts_with(module.with_extension("")))
    };
    paths.into_iter().filter(|path| !is_test(path)).map(Source::read).collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|suffix| suffix == "rs")).collect()
}

/// The files of modules that are declared under `#[cfg(test)]`.
fn modules_only_for_tests(path: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(path).unwrap();
    let declared = text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let (_, name) = rest.lines().next()?.strip_suffix(';')?.split_once("mod ")?;
        Some(format!("{name}.rs"))
    });
    // Beside `mod.rs`, or below the directory that `name.rs` is named for.
    declared.flat_map(|file| [path.with_file_name(&file), path.with_extension("").join(file)]).collect()
}

impl Source {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let module = path.strip_prefix("src").unwrap().with_extension("");
        let module = module.iter().next().unwrap().to_str().unwrap().to_owned();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let code = code.lines().filter(is_code).flat_map(|line| [line, "\n"]).collect();
        Self { path, module, text, code }
    }

    /// The top-level modules named behind `crate::` (in the binary `pgbak::`), also in braces.
    fn used_modules(&self) -> Vec<String> {
        let root = if self.module == "main" { "pgbak::" } else { "crate::" };
        self.code.split(root).skip(1).flat_map(first_names).collect()
    }

    fn assert_without(&self, banned: &[&str], reason: &str) {
        for word in banned {
            assert!(!self.code.contains(word), "{}: {word}: {reason}", self.path.display());
        }
    }
}

/// `{plan, repo::Error}; …` names `plan` and `repo`; `pg::{Lsn, Timeline}; …` names `pg`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut names, mut depth, mut item) = (Vec::new(), 0, String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut item)),
            _ => item.push(c),
        }
    }
    names.push(item);
    names.iter().map(|item| name(item.trim_start())).filter(|name: &String| !name.is_empty()).collect()
}

#[test]
fn modules_use_only_what_the_design_allows() {
    for source in sources() {
        let (module, path) = (&source.module, source.path.display());
        let allowed = MAY_USE.iter().find(|(name, _)| name == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("give {module} a place in MAY_USE"));
        for used in source.used_modules() {
            let is_allowed = used == *module || allowed.contains(&used.as_str());
            assert!(is_allowed, "{path}: `{module}` may not use `{used}`");
        }
    }
}

#[test]
fn the_list_of_modules_has_no_cycle_and_no_module_that_is_gone() {
    for (i, (module, used)) in MAY_USE.iter().enumerate() {
        let (file, directory) = (format!("src/{module}.rs"), format!("src/{module}/mod.rs"));
        assert!(Path::new(&file).exists() || Path::new(&directory).exists(), "{module} is gone");
        let before = |name: &&&str| MAY_USE[..i].iter().any(|(earlier, _)| earlier == *name);
        assert_eq!(used.iter().filter(before).count(), used.len(), "{module} uses one that comes after it");
    }
}

#[test]
fn used_modules_are_found_in_every_spelling() {
    let names = |text: &str| first_names(text.strip_prefix("crate::").unwrap());
    assert_eq!(names("crate::pg::{Lsn, Timeline};"), ["pg"]);
    assert_eq!(names("crate::{interrupt, plan::{a, b}, repo::Error};"), ["interrupt", "plan", "repo"]);
    assert_eq!(names("crate::interrupt::Interrupted),"), ["interrupt"]);
}

#[test]
fn only_main_reads_the_clock_and_the_environment() {
    let clock = ["Utc::now", "Local::now", "SystemTime::now", "Instant::now", ".elapsed()"];
    let environment = ["env::var", "env::args", "env::home_dir", "env::temp_dir"];
    for source in sources().iter().filter(|source| source.module != "main") {
        source.assert_without(&clock, "take the time as an argument");
        source.assert_without(&environment, "take what is needed as an argument");
    }
}

#[test]
fn only_the_command_line_prints() {
    let macros = ["println!(", "eprintln!(", "print!(", "eprint!(", "dbg!("];
    for source in sources().iter().filter(|source| source.module != "cli") {
        source.assert_without(&macros, "return a report, or use tracing");
    }
    for source in sources().iter().filter(|source| source.module != "main") {
        source.assert_without(&["io::stdout()", "io::stderr()", "io::stdin()"], "streams come from main");
    }
}

#[test]
fn nothing_is_unwrapped_outside_of_tests() {
    for source in sources() {
        source.assert_without(&[".unwrap()", "unimplemented!", "todo!("], "say why it holds, with expect");
    }
}

#[test]
fn public_functions_take_no_boolean() {
    for source in sources() {
        for function in source.code.split("pub fn ").skip(1) {
            let signature = function.split(['{', ';']).next().unwrap();
            let parameters = signature.split("->").next().unwrap();
            assert!(
                !parameters.contains(": bool"),
                "{}: {}: name the two cases",
                source.path.display(),
                signature.trim()
            );
        }
    }
}

#[test]
fn nothing_is_imported_or_exported_wholesale() {
    for source in sources() {
        let wholesale =
            source.code.lines().find(|line| line.trim_start().starts_with("pub use") && line.contains('*'));
        assert_eq!(wholesale, None, "{}", source.path.display());
    }
}

#[test]
fn each_module_begins_with_what_it_is_and_can_be_read_in_a_sitting() {
    for source in sources() {
        let path = source.path.display();
        assert!(
            source.text.starts_with("//! "),
            "{path}: open it with `//!`: what it owns, what always holds"
        );
        let lines = source.text.split("#[cfg(test)]\nmod tests").next().unwrap().lines().count();
        assert!(lines <= LINES_MAX, "{path}: {lines} lines, more than {LINES_MAX}");
    }
}

#[test]
fn modules_are_named_for_what_they_own() {
    for source in sources() {
        let name = source.path.file_stem().unwrap().to_str().unwrap();
        assert!(
            !["util", "utils", "common", "helper", "helpers", "misc"].contains(&name),
            "{}: name it for what it owns",
            source.path.display()
        );
    }
}

#[test]
fn everything_at_the_top_has_its_reason() {
    for entry in fs::read_dir(".").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name.starts_with('.') || TOP_LEVEL.contains(&name.as_str()),
            "{name} has no place at the top"
        );
    }
}
