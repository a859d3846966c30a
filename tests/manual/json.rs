//! What the manual says about JSON, taken from where it is defined: the documented fields of the reports' structs.

use std::collections::BTreeMap;
use std::fs;

use crate::prose::escape;

/// For each command that reports: where its report and what is in it are defined. The first file has the root.
const REPORTS: &[(&str, &str, &[&str])] = &[
    ("pgbak-status", "Report", &["src/ops/status/report.rs", "src/plan/health/mod.rs"]),
    ("pgbak-base-backup", "Report", &["src/ops/base_backup/mod.rs"]),
    ("pgbak-wal-sync", "Report", &["src/ops/wal_sync/report.rs"]),
    ("pgbak-restore", "Report", &["src/ops/restore/mod.rs"]),
    ("pgbak-prune", "Report", &["src/ops/prune/report.rs"]),
    ("pgbak-verify", "Report", &["src/ops/verify/report.rs"]),
];

/// Where the codes of `status` are listed, as a table in the module's documentation.
const CODES: &str = "src/plan/health/mod.rs";

struct Struct {
    words: String,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    kind: String,
    words: String,
    /// Its own fields stand where it stands.
    is_flat: bool,
}

/// Every `pub struct` of a source file with its documented public fields.
fn structs(source: &str) -> BTreeMap<String, Struct> {
    let mut structs = BTreeMap::new();
    let mut open: Option<(String, Struct)> = None;
    let mut words: Vec<String> = Vec::new();
    let mut is_flat = false;
    for line in source.lines() {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix("///") {
            words.push(comment.trim().replace('`', "\""));
        } else if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) {
            open = Some((name.to_owned(), Struct { words: words.join(" "), fields: Vec::new() }));
            words.clear();
        } else if line == "}" {
            structs.extend(open.take());
            words.clear();
        } else if let Some((_, found)) = &mut open {
            if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) {
                let kind = kind.trim_end_matches(',').to_owned();
                found.fields.push(Field { name: name.to_owned(), kind, words: words.join(" "), is_flat });
                words.clear();
                is_flat = false;
            } else if line == "#[serde(flatten)]" {
                is_flat = true;
            }
        } else if !line.starts_with("#[") {
            words.clear();
        }
    }
    structs
}

/// The type inside of `Option<…>`, `Vec<…>`, and what these add in words.
fn unwrapped(kind: &str) -> (&str, String) {
    let inside = |wrapper: &str| kind.strip_prefix(wrapper)?.strip_suffix('>');
    if let Some(inner) = inside("Option<") {
        let (inner, words) = unwrapped(inner);
        return (inner, format!("{words} or null"));
    }
    if let Some(inner) = inside("Vec<") {
        let (inner, words) = unwrapped(inner);
        return (inner, format!("array of {words}s"));
    }
    let words = match kind {
        "bool" => "boolean",
        "u8" | "u32" | "u64" | "usize" | "f64" => "number",
        "DateTime<Utc>" => "time",
        "String" | "PathBuf" | "&'static str" => "string",
        kind if kind.starts_with(|c: char| c.is_ascii_uppercase()) => "object",
        other => panic!("{other}: a type that the manual has no words for"),
    };
    (kind, words.to_owned())
}

fn flat_fields<'a>(name: &str, all: &'a BTreeMap<String, Struct>) -> Vec<&'a Field> {
    let fields = all[name].fields.iter();
    fields
        .flat_map(|field| match field.is_flat {
            true => flat_fields(&field.kind, all),
            false => vec![field],
        })
        .collect()
}

fn describe(name: &str, path: &str, all: &BTreeMap<String, Struct>, text: &mut String) {
    let Struct { words, .. } = &all[name];
    if !path.is_empty() {
        text.push_str(&format!(".SS \"{}\"\n", escape(path)));
    }
    if !words.is_empty() {
        text.push_str(&format!("{}\n", escape(words)));
    }
    let mut nested = Vec::new();
    for Field { name, kind, words, .. } in flat_fields(name, all) {
        let (inner, mut kind_words) = unwrapped(kind);
        if all.contains_key(inner) {
            let suffix = if kind.contains("Vec<") { "[]" } else { "" };
            nested.push((inner, format!("{path}{}{name}{suffix}", if path.is_empty() { "" } else { "." })));
        } else {
            // An enumeration is written as a word.
            kind_words = kind_words.replace("object", "string");
        }
        text.push_str(&format!(".TP\n.BR {} \" ({kind_words})\"\n{}\n", escape(name), escape(words)));
        if words.is_empty() {
            text.push_str("\\&\n");
        }
    }
    for (inner, path) in nested {
        describe(inner, &path, all, text);
    }
}

fn codes() -> String {
    let source = fs::read_to_string(CODES).unwrap();
    let rows = source.lines().filter_map(|line| line.strip_prefix("//! | `")?.split_once("` | "));
    let mut text =
        ".SH FINDINGS\nEach has a code, a severity (critical, warning or info), a sentence and a hint.\n"
            .to_owned();
    for (code, words) in rows {
        let words = words.trim_end_matches('|').trim().replace('`', "\"");
        text.push_str(&format!(".TP\n.B {}\n{}\n", escape(code), escape(&words)));
    }
    text
}

/// What there is to say about a command's report; nothing for a command that has none.
pub fn sections(page: &str) -> String {
    let Some((_, root, files)) = REPORTS.iter().find(|(name, ..)| *name == page) else {
        return String::new();
    };
    let mut all = BTreeMap::new();
    for file in files.iter().rev() {
        all.extend(structs(&fs::read_to_string(file).unwrap()));
    }
    let mut text = String::new();
    if page == "pgbak-status" {
        text.push_str(&codes());
    }
    text.push_str(".SH JSON\n");
    describe(root, "", &all, &mut text);
    text
}

#[test]
fn every_field_of_status_is_in_the_manual() {
    let text = sections("pgbak-status");
    let snapshot: serde_json::Value =
        serde_json::from_str(&fs::read_to_string("tests/stories/status.json").unwrap()).unwrap();
    let mut seen = 0;
    let mut open = vec![&snapshot];
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    assert!(text.contains(&format!(".BR {} ", escape(name))), "{name}");
                    seen += 1;
                    open.push(value);
                }
            }
            serde_json::Value::Array(values) => open.extend(values),
            _ => {}
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(text.contains(".B wal\\-gap\n") && text.contains(".SS \"repositories[].backups[].proof\""));
}
