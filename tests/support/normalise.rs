//! What differs from run to run, replaced by what it is: times, sizes, locations, names that hold a time.

/// Replaces known texts (paths, mostly) and everything that looks like a time, a size or a WAL location.
#[derive(Debug, Clone, Default)]
pub struct Normaliser {
    known: Vec<(String, String)>,
}

impl Normaliser {
    /// `known`: text and what to show instead. Longer texts are replaced first.
    pub fn new(mut known: Vec<(String, String)>) -> Self {
        known.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Self { known }
    }

    pub fn normalise(&self, text: &str) -> String {
        let known = |text: String, (from, to): &(String, String)| text.replace(from, to);
        let text = self.known.iter().fold(text.to_owned(), known);
        let mut result = String::new();
        let mut rest = text.as_str();
        while let Some(next) = rest.chars().next() {
            let at_a_word = !result.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            let found = PATTERNS.iter().filter(|_| at_a_word).find_map(|(pattern, name)| {
                let length = matched(pattern, rest)?;
                let ends = !rest[length..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
                ends.then_some((length, *name))
            });
            match found {
                Some((length, name)) => {
                    result.push_str(name);
                    rest = &rest[length..];
                }
                None => {
                    result.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
        }
        result
    }
}

/// What is looked for, the longer form first. `9` is a digit, `#` one or more digits, `X` one or more upper-case
/// hexadecimal digits; all else stands for itself.
const PATTERNS: &[(&str, &str)] = &[
    ("base_backup_99999999_999999", "<backup>"),
    ("9999-99-99T99:99:99.#Z", "<time>"),
    ("9999-99-99T99:99:99Z", "<time>"),
    ("9999-99-99 99:99:99.# +99:99", "<time>"),
    ("9999-99-99 99:99:99.#+99:99", "<time>"),
    ("9999-99-99 99:99:99.#+99", "<time>"),
    ("9999-99-99 99:99:99 +99:99", "<time>"),
    ("9999-99-99 99:99:99+99:99", "<time>"),
    ("9999-99-99 99:99:99+99", "<time>"),
    ("9999-99-99 99:99:99 UTC", "<time>"),
    ("X/X", "<lsn>"),
    ("#.# KiB", "<size>"),
    ("#.# MiB", "<size>"),
    ("#.# GiB", "<size>"),
    ("#.# kB", "<size>"),
    ("#.# MB", "<size>"),
    ("#.# GB", "<size>"),
    ("# bytes", "<size>"),
    ("#.# s", "<duration>"),
    ("#.#s", "<duration>"),
    ("#ms", "<duration>"),
    ("9999999999999999999", "<system>"),
];

/// How many bytes of `text` the pattern covers, from its start.
fn matched(pattern: &str, text: &str) -> Option<usize> {
    let mut rest = text;
    for token in pattern.chars() {
        let length = match token {
            '9' => usize::from(rest.starts_with(|c: char| c.is_ascii_digit())),
            '#' => run_of(rest, |c| c.is_ascii_digit()),
            'X' => run_of(rest, |c| matches!(c, '0'..='9' | 'A'..='F')),
            literal if rest.starts_with(literal) => literal.len_utf8(),
            _ => 0,
        };
        if length == 0 {
            return None;
        }
        rest = &rest[length..];
    }
    Some(text.len() - rest.len())
}

fn run_of(text: &str, is_part: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

#[test]
fn what_differs_from_run_to_run_is_replaced() {
    let normaliser = Normaliser::new(vec![("/tmp/x".into(), "<site>".into())]);
    let said = "/tmp/x/a: base_backup_20261122_020000 ended at 0/3000138, 2026-11-22 02:00:00.5+00, 22.1 MiB";
    assert_eq!(normaliser.normalise(said), "<site>/a: <backup> ended at <lsn>, <time>, <size>");
    assert_eq!(normaliser.normalise("exit 12, 3 files"), "exit 12, 3 files");
}
