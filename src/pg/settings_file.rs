//! `postgresql.conf` and `postgresql.auto.conf`: reading settings, disabling some, adding others.
//!
//! Follows PostgreSQL `src/backend/utils/misc/guc-file.l`. Each line stands alone, as no value goes over its end:
//!
//! ```text
//! line    = [ name [ "=" ] value ] [ "#" comment ]
//! name    = identifier [ "." identifier ]                 upper and lower case alike
//! value   = word | number | "'" characters "'"            with '' for a quote, and backslash escapes
//! ```
//!
//! with blanks, tabs and carriage returns between the parts. The last line that sets a name wins, and
//! `postgresql.auto.conf` is read after `postgresql.conf`. A file is bytes: its comments may be in any encoding.

/// What decides where archive recovery reads WAL from, and where it ends: what a restored data directory must not
/// inherit from the cluster that it was. The settings of PostgreSQL 13 to 18 (`promote_trigger_file` until 15).
pub const RECOVERY_SETTINGS: [&str; 15] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
];

/// What [`neutralise`] puts before a line.
pub const NEUTRALISED: &str = "# disabled by pgbak: ";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotASetting {
    #[error("\"{}\" is not the name of a setting (letters, digits and underscores)", .0.escape_debug())]
    Name(String),

    #[error("the value of {name} has a NUL character in it, which no setting can hold")]
    Value { name: String },
}

/// Comments every line out that sets one of `names`, and leaves all else as it is, byte for byte.
pub fn neutralise(text: &[u8], names: &[&str]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let is_one = |name: &[u8]| names.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(name));
        if Scanner(line).name().is_some_and(is_one) {
            result.extend_from_slice(NEUTRALISED.as_bytes());
        }
        result.extend_from_slice(line);
    }
    result
}

/// Adds `settings` behind `text`, one line each; they win over what `text` says.
pub fn append(text: &[u8], settings: &[(String, String)]) -> Result<Vec<u8>, NotASetting> {
    let mut result = text.to_vec();
    if !text.is_empty() && !text.ends_with(b"\n") {
        result.push(b'\n');
    }
    for (name, value) in settings {
        result.extend_from_slice(line(name, value)?.as_bytes());
    }
    Ok(result)
}

/// `name = 'value'` and a newline, such that the server reads exactly `value`.
pub fn line(name: &str, value: &str) -> Result<String, NotASetting> {
    if Scanner(name.as_bytes()).name() != Some(name.as_bytes()) {
        return Err(NotASetting::Name(name.to_owned()));
    }
    if value.contains('\0') {
        return Err(NotASetting::Value { name: name.to_owned() });
    }
    let mut line = format!("{name} = '");
    for character in value.chars() {
        match character {
            '\'' => line.push_str("''"),
            '\\' => line.push_str("\\\\"),
            // The server's own `ALTER SYSTEM` refuses it, but what reads the file knows the escape.
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            _ => line.push(character),
        }
    }
    line.push_str("'\n");
    Ok(line)
}

/// The value that a file gives to a setting, as the server would read it: that of the last line that sets it.
///
/// Lines with an error in them, over which the server would not start, and `include` directives are passed over.
pub fn value(text: &[u8], name: &str) -> Option<Vec<u8>> {
    let lines = text.split(|&byte| byte == b'\n').rev();
    lines
        .filter_map(setting)
        .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value)
}

fn setting(line: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let mut rest = Scanner(line);
    let name = rest.name()?;
    rest.skip_blanks();
    if let [b'=', behind @ ..] = rest.0 {
        rest.0 = behind;
        rest.skip_blanks();
    }
    let value = rest.value()?;
    rest.skip_blanks();
    matches!(rest.0, [] | [b'#', ..]).then_some((name, value))
}

/// What is left of a line.
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| !belongs(byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn skip_blanks(&mut self) {
        self.take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
    }

    /// A setting's name. The scanner takes the longest token, so that `a-b` is one word and not the name `a`.
    fn name(&mut self) -> Option<&'a [u8]> {
        self.skip_blanks();
        let word =
            self.take_while(|byte| is_letter_or_digit(byte) || matches!(byte, b'-' | b'.' | b':' | b'/'));
        let mut parts = word.split(|&byte| byte == b'.');
        let are_identifiers = parts.by_ref().take(2).all(is_identifier);
        (are_identifiers && parts.next().is_none()).then_some(word)
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        if let [b'\'', behind @ ..] = self.0 {
            self.0 = behind;
            return self.rest_of_quoted();
        }
        let word = self
            .take_while(|byte| is_letter_or_digit(byte) || matches!(byte, b'+' | b'-' | b'.' | b':' | b'/'));
        (!word.is_empty()).then(|| word.to_vec())
    }

    fn rest_of_quoted(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        loop {
            match self.0 {
                [b'\'', b'\'', rest @ ..] => {
                    value.push(b'\'');
                    self.0 = rest;
                }
                [b'\'', rest @ ..] => {
                    self.0 = rest;
                    return Some(value);
                }
                [b'\\', rest @ ..] => {
                    self.0 = rest;
                    value.push(self.escaped()?);
                }
                [byte, rest @ ..] => {
                    value.push(*byte);
                    self.0 = rest;
                }
                [] => return None,
            }
        }
    }

    /// What is behind a backslash: a letter with a meaning, up to three octal digits, or itself.
    fn escaped(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        if matches!(first, b'0'..=b'7') {
            let digits = self.0.iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
            let (octal, rest) = self.0.split_at(digits);
            self.0 = rest;
            return Some(octal.iter().fold(0u8, |number, digit| (number << 3).wrapping_add(digit - b'0')));
        }
        self.0 = rest;
        Some(match first {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            other => other,
        })
    }
}

fn is_identifier(word: &[u8]) -> bool {
    let begins = word.first().is_some_and(|&first| is_letter_or_digit(first) && !first.is_ascii_digit());
    begins && word.iter().copied().all(is_letter_or_digit)
}

/// Any byte of a multibyte character is a letter to the server.
fn is_letter_or_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn neutralised(text: &str) -> String {
        String::from_utf8(neutralise(text.as_bytes(), &RECOVERY_SETTINGS)).unwrap()
    }

    #[test]
    fn every_way_to_write_a_setting_is_disabled() {
        for line in [
            "restore_command = 'cp /archive/%f %p'",
            "restore_command 'cp'",
            "restore_command'cp'",
            "restore_command='cp'",
            "  \t restore_command\t=\t'cp'  # by hand\r",
            "RESTORE_Command = cp",
            "recovery_target_time=2026",
            "primary_conninfo",
        ] {
            assert_eq!(neutralised(&format!("{line}\n")), format!("{NEUTRALISED}{line}\n"));
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        let text = "# restore_command = 'x'\n\n port = 5432\r\nrestore_commands = 'x'\nmy.restore_command = 'x'\n\
                    restore_command.x = 'y'\narchive_command = 'restore_command = 1'\n'restore_command' = 'x'\n\
                    restore_command-x = 1\nno_newline_at_the_end = on";
        assert_eq!(neutralised(text), text);
        let latin1 = b"# caf\xE9\nport = 1\n";
        assert_eq!(neutralise(latin1, &RECOVERY_SETTINGS), latin1);
    }

    #[test]
    fn what_is_added_wins() {
        let text = b"restore_command = 'old'";
        let settings = [("restore_command".into(), "pgbak wal-fetch %f \"%p\"".into())];
        let text = append(text, &settings).unwrap();
        assert_eq!(text, b"restore_command = 'old'\nrestore_command = 'pgbak wal-fetch %f \"%p\"'\n");
        assert_eq!(value(&text, "Restore_Command").unwrap(), b"pgbak wal-fetch %f \"%p\"");
    }

    #[test]
    fn values_are_read_as_the_server_reads_them() {
        for (line, expected) in [
            ("port = 5432", "5432"),
            ("port 5432 # comment", "5432"),
            ("port=0x1538", "0x1538"),
            ("shared_buffers = 128MB", "128MB"),
            ("x = ''", ""),
            ("x = 'it''s'", "it's"),
            (r"x = 'it\'s'", "it's"),
            (r"x = 'a\\b\n\x\101'", "a\\b\nxA"),
            ("x = '#no comment'#comment", "#no comment"),
        ] {
            let (_, found) = setting(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(String::from_utf8(found).unwrap(), expected, "{line}");
        }
        for line in
            ["", "#", "x", "x =", "x = 'open", "x = 'open\\", "= 1", "x = 1 2", "x = = 1", "1 = 2", "x==1"]
        {
            assert_eq!(setting(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn what_no_file_can_say_is_refused() {
        for name in ["", "a b", "a\nb", "1a", "a.b.c", "a'", "a="] {
            assert_eq!(line(name, "x"), Err(NotASetting::Name(name.into())), "{name}");
        }
        assert_eq!(line("a", "x\0y"), Err(NotASetting::Value { name: "a".into() }));
    }

    proptest! {
        #[test]
        fn any_value_is_read_back(text: Vec<u8>, chosen in "[^\0]*") {
            let whole = append(&text, &[("pgbak.chosen".into(), chosen.clone())]).unwrap();
            prop_assert_eq!(value(&whole, "pgbak.chosen"), Some(chosen.into_bytes()));
        }

        #[test]
        fn what_was_disabled_is_gone_and_the_rest_is_not(
            lines in prop::collection::vec("[ \t]{0,2}(restore_command|port|#|)[ =]{0,2}('x'|y)?", 0..8),
        ) {
            let text = lines.join("\n").into_bytes();
            let disabled = neutralise(&text, &RECOVERY_SETTINGS);
            prop_assert_eq!(value(&disabled, "restore_command"), None);
            prop_assert_eq!(value(&disabled, "port"), value(&text, "port"));
            let without_mark = String::from_utf8(disabled).unwrap().replace(NEUTRALISED, "");
            prop_assert_eq!(without_mark.into_bytes(), text);
        }

        #[test]
        fn any_bytes_may_be_disabled(text: Vec<u8>) {
            let _ = neutralise(&text, &["a", "b"]);
            let _ = value(&text, "a");
        }
    }
}
