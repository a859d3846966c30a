//! `man/pgbak.toml.5`: made from `examples/pgbak.toml`, whose comments are the words about each key. That the example
//! has every key, with its default, is a test of the configuration itself.

use std::fs;
use std::path::Path;

use crate::must_be;
use crate::prose::escape;

const HEAD: &str = r#".TH PGBAK.TOML 5 "" "pgbak VERSION" "pgbak"
.SH NAME
pgbak.toml \- configuration of pgbak
.SH DESCRIPTION
One file is one cluster and its repositories; another cluster has another file.
pgbak reads the file that
.B \-\-config
names, else the one that
.B PGBAK_CONFIG
names, else
.IR /etc/pgbak/pgbak.toml .
Without any of them, environment variables configure it: see
.BR pgbak (1).
.PP
The file is TOML.
A key that pgbak does not know is an error that names the key and its line.
Paths are absolute.
Sizes are written as "200MB", spans of time as "14d", "26h" or "1h 30m".
The connection may hold a password: let only the user that runs pgbak read the file.
"#;

const FOOT: &str = r#".SH FILES
.TP
.I /etc/pgbak/pgbak.toml
The configuration.
.TP
.I /var/lib/pgbak
Where pgbak, run by root or by the user that it belongs to, keeps its locks and what it remembers;
.I ~/.local/state/pgbak
for other users,
.B PGBAK_STATE_DIRECTORY
where that is set.
.SH "SEE ALSO"
pgbak(1), pgbak\-runbook(7)
"#;

/// One key of the example, or the heading of a table.
enum Item {
    Table(String),
    Key { name: String, value: String, has_default: bool, words: String },
}

fn items(example: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut words = Vec::new();
    for line in example.lines() {
        let bare = line.trim_start_matches('#');
        if line.is_empty() {
            words.clear();
        } else if let Some(comment) = line.strip_prefix("# ") {
            words.push(comment);
        } else if bare.starts_with('[') {
            items.push(Item::Table(bare.to_owned()));
            words.clear();
        } else if let Some((name, value)) = bare.split_once(" = ") {
            items.push(Item::Key {
                name: name.to_owned(),
                value: value.to_owned(),
                has_default: !line.starts_with('#'),
                words: words.join(" "),
            });
            words.clear();
        }
    }
    items
}

fn page() -> String {
    let example = fs::read_to_string("examples/pgbak.toml").unwrap();
    let mut page = HEAD.replace("VERSION", env!("CARGO_PKG_VERSION"));
    let mut in_repository = false;
    let mut tables = Vec::new();
    for item in items(&example) {
        match item {
            Item::Table(table) => {
                in_repository = table == "[[repository]]";
                if !tables.contains(&table) {
                    page.push_str(&format!(".SH \"{table}\"\n"));
                    tables.push(table);
                }
            }
            Item::Key { words, name, .. } if words.is_empty() => {
                assert!(in_repository, "{name} has no words in the example");
            }
            Item::Key { name, value, has_default, words } => {
                let kind = match (has_default, in_repository) {
                    (true, false) => "Default",
                    _ => "Example",
                };
                page.push_str(&format!(
                    ".TP\n.B {}\n{}\n.br\n{kind}: \\fB{}\\fR\n",
                    escape(&name),
                    escape(&words),
                    escape(&value)
                ));
            }
        }
    }
    page + FOOT
}

#[test]
fn the_configuration_s_page_says_what_the_example_says() {
    must_be(Path::new("man/pgbak.toml.5"), &page());
}
