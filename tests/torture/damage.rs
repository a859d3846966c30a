//! One bit of one object flipped, again and again, in a real repository beside a whole one.
//!
//! Each time `verify` must name the object, and a restore must either refuse or bring back exactly what it does from
//! an undamaged repository: from the damaged one alone, or with the help of the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use walkdir::WalkDir;

use super::dice::Dice;
use super::length;
use crate::site;
use crate::support::{Outcome, Site, wait_until};

#[test]
fn a_flipped_bit_is_found_and_never_restored() {
    let mut site = site!(repositories(2), tablespaces(1), initdb("--wal-segsize=1"), in_memory());
    let history = History::make(&mut site);
    let (seed, rounds) = (length::seed(), length::of(40, 1_000));
    let begun = Instant::now();
    let mut tally: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for round in 0..rounds {
        let mut dice = Dice::new(seed, "damage", round);
        // Of WAL there are many files, and of everything else one or two.
        let kind = dice.one_of(&history.kinds).clone();
        let of_kind: Vec<&PathBuf> =
            history.objects.iter().filter(|object| kind_of(object) == kind).collect();
        let object = (*dice.one_of(&of_kind)).clone();
        let path = site.repository().path.join(&object);
        let bytes = fs::read(&path).unwrap();
        let (at, bit) = (dice.below(bytes.len()), dice.below(8));
        eprintln!("damage: seed {seed}, round {round}: bit {bit} of byte {at} of {}", object.display());
        site.repository().alter(&object, |bytes| bytes[at] ^= 1 << bit);

        let found = history.is_found(&site, &object);
        history.assert_restored_or_refused(&site, &object, &mut dice);
        let counted = tally.entry(kind).or_default();
        counted.0 += 1;
        counted.1 += u64::from(found);
        let name = object.display().to_string();
        assert!(found, "verify finds nothing: seed {seed}, round {round}, {name}, byte {at}, bit {bit}");
        site.repository().alter(&object, |altered| *altered = bytes);
    }
    site.pgbak("verify --full --again-after 0s").succeeds();
    eprintln!("damage: seed {seed}, {rounds} rounds in {:.1?}", begun.elapsed());
    for (kind, (flipped, found)) in tally {
        eprintln!("    {kind}: {flipped} flipped, {found} found");
    }
}

fn kind_of(object: &Path) -> String {
    let name = object.file_name().unwrap().to_string_lossy().into_owned();
    match name.chars().all(|c| c.is_ascii_hexdigit() || c == '.') || name.ends_with(".zst") && name.len() > 20
    {
        true if name.ends_with(".zst") => "WAL segment".to_owned(),
        _ if name.ends_with(".backup") => "note about a backup".to_owned(),
        _ if name.starts_with(|c: char| c.is_ascii_digit()) && name.contains(".tar") => {
            "tablespace".to_owned()
        }
        _ => name,
    }
}

/// The files of a restored cluster: path, mode, and content by its length and checksum.
type Tree = BTreeMap<PathBuf, (u32, usize, u32)>;

/// Two backups, on two timelines, and the WAL of both.
struct History {
    objects: Vec<PathBuf>,
    kinds: Vec<String>,
    backups: Vec<String>,
    /// What WAL files hold, as long as they are not damaged.
    wal: BTreeMap<String, Vec<u8>>,
    /// As restored before anything was damaged, from the first repository alone and from both.
    restored: BTreeMap<(String, bool), Tree>,
}

impl History {
    fn make(site: &mut Site) -> Self {
        let archive = |site: &Site| {
            site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', md5(random()::text))");
            let segment = site.cluster().switch_wal();
            wait_until("the segment to be archived", || site.repository().holds(&segment));
        };
        site.cluster().sql("CREATE TABLE t TABLESPACE space1 AS SELECT generate_series(1, 1000) AS id");
        site.pgbak("base-backup").succeeds();
        (0..3).for_each(|_| archive(site));
        site.cluster().sql("CREATE TABLE u TABLESPACE space1 AS SELECT md5(id::text) FROM t");
        site.cluster_mut().stop();
        site.write("data/recovery.signal", "");
        site.cluster_mut().set("restore_command", "false");
        site.cluster_mut().start();
        wait_until("the promotion", || site.cluster().sql("SELECT pg_is_in_recovery()") == "f");
        archive(site);
        site.pgbak("base-backup --label 'before the upgrade'").succeeds();
        (0..2).for_each(|_| archive(site));
        site.cluster_mut().stop();
        site.pgbak("wal-sync").succeeds();
        site.pgbak("verify --full").succeeds();

        let objects = site.repository().files();
        let backups = site.repository().backups();
        let names = site.repository().archived();
        let wal =
            names.into_iter().map(|name| (name.clone(), site.repository().wal_content(&name))).collect();
        let kinds: BTreeSet<String> = objects.iter().map(|object| kind_of(object)).collect();
        let kinds = kinds.into_iter().collect();
        let mut history = Self { objects, kinds, backups, wal, restored: BTreeMap::new() };
        for backup in history.backups.clone() {
            for alone in [true, false] {
                let tree = history.restore(site, &backup, alone).1.expect("nothing is damaged yet");
                history.restored.insert((backup.clone(), alone), tree);
            }
        }
        history
    }

    /// Whether `verify` names the object.
    fn is_found(&self, site: &Site, object: &Path) -> bool {
        let outcome = site.pgbak("verify --json --again-after 0s --repository first");
        assert!([0, 3].contains(&outcome.code), "{outcome}");
        let report = outcome.json();
        let name = object.display().to_string();
        let findings = report["findings"].as_array().unwrap();
        // A history that tells of another fork is found by the WAL that then seems to be missing.
        let tells = |finding: &serde_json::Value| {
            finding["object"].as_str() == Some(&name) || name.ends_with(".history")
        };
        let found = findings.iter().any(tells);
        assert!(found || findings.is_empty(), "something else is found\n{outcome}");
        assert_eq!(outcome.code, if findings.is_empty() { 0 } else { 3 }, "{outcome}");
        found
    }

    fn assert_restored_or_refused(&self, site: &Site, object: &Path, dice: &mut Dice) {
        let mut parts = object.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        match parts.next().as_deref() {
            Some("base-backups") => {
                let backup = parts.next().unwrap();
                let alone = dice.below(2) == 0;
                let (outcome, tree) = self.restore(site, &backup, alone);
                assert!(alone || outcome.code == 0, "the other repository has it whole\n{outcome}");
                self.must_be_whole_or_refused(&outcome, tree, &backup, alone);
            }
            Some("wal-archive") => self.fetch(site, object),
            _ => {
                let backup = dice.one_of(&self.backups);
                let (outcome, tree) = self.restore(site, backup, true);
                self.must_be_whole_or_refused(&outcome, tree, backup, true);
            }
        }
    }

    fn must_be_whole_or_refused(&self, outcome: &Outcome, tree: Option<Tree>, backup: &str, alone: bool) {
        match tree {
            None => assert!(!outcome.stderr.is_empty(), "a refusal gives its reason\n{outcome}"),
            Some(tree) => {
                let expected = &self.restored[&(backup.to_owned(), alone)];
                let differing =
                    expected.keys().chain(tree.keys()).find(|path| expected.get(*path) != tree.get(*path));
                assert_eq!(differing, None, "not as it was\n{outcome}");
            }
        }
    }

    /// From the first repository alone, or from whichever has it; `None` when that is refused.
    fn restore(&self, site: &Site, backup: &str, alone: bool) -> (Outcome, Option<Tree>) {
        // Always the same place, as restored files name it.
        let (directory, moved) = (site.path("restored"), site.path("moved"));
        let only = if alone { "--repository first" } else { "" };
        let outcome = site.pgbak(&format!(
            "restore --backup {backup} --target-immediate --target-timeline current -D {} --tablespace-mapping '{}={}' {only}",
            directory.display(),
            site.path("space1").display(),
            moved.display(),
        ));
        let restored = directory.join("global/pg_control").exists();
        assert_eq!(
            outcome.code,
            if restored { 0 } else { 1 },
            "what cannot be trusted must not start\n{outcome}"
        );
        let tree = restored.then(|| tree(&[&directory, &moved]));
        for place in [directory, moved] {
            let _ = fs::remove_dir_all(place);
        }
        (outcome, tree)
    }

    /// What recovery gets of a WAL file, from the first repository alone and from both.
    fn fetch(&self, site: &Site, object: &Path) {
        let name = object.file_name().unwrap().to_string_lossy().trim_end_matches(".zst").to_owned();
        // Of what is older than its first backup, the second repository has no copy.
        let is_there_twice = site.repositories()[1].holds(&name);
        for only in ["--repository first", ""] {
            // What was fetched ahead of time would hide the damage.
            let (to, state) = (site.fresh("fetched"), site.fresh("state"));
            let outcome = site
                .call(&format!("wal-fetch {name} {} {only}", to.display()))
                .env("PGBAK_STATE_DIRECTORY", state.to_str().unwrap())
                .run();
            match outcome.code {
                0 => {
                    assert!(
                        fs::read(&to).unwrap() == self.wal[&name],
                        "another content than was archived\n{outcome}"
                    );
                }
                code => {
                    assert_eq!(code, 200, "{outcome}");
                    assert!(
                        !only.is_empty() || !is_there_twice,
                        "the other repository has it whole\n{outcome}"
                    );
                }
            }
        }
    }
}

fn tree(roots: &[&Path]) -> Tree {
    let entries = roots.iter().flat_map(WalkDir::new);
    let entry = |entry: walkdir::DirEntry| {
        let metadata = entry.metadata().unwrap();
        let content = match metadata {
            _ if metadata.is_file() => fs::read(entry.path()).unwrap(),
            _ if metadata.is_symlink() => {
                fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
            }
            _ => Vec::new(),
        };
        (entry.into_path(), (metadata.permissions().mode(), content.len(), crc32c::crc32c(&content)))
    };
    entries.map(|found| entry(found.unwrap())).collect()
}
