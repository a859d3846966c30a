//! Connection strings, as far as they are text: keywords and their values, in both of libpq's notations.
//!
//! Follows PostgreSQL `src/interfaces/libpq/fe-connect.c` (`conninfo_parse`, `conninfo_uri_parse_options`):
//!
//! ```text
//! conninfo := { blank } { keyword { blank } "=" { blank } value { blank } }
//! value    := "'" { any but ' and \ | "\" any } "'"  |  { any but blank and \ | "\" any }
//!
//! uri      := ("postgresql" | "postgres") "://" [ user [ ":" password ] "@" ] [ host { "," host } ]
//!             [ "/" [ database ] ] [ "?" [ keyword "=" value { "&" keyword "=" value } ] ]
//! host     := ( "[" IPv6 address "]" | name ) [ ":" port ]
//! ```
//!
//! In a URI every part may be percent-encoded. Which keywords exist is the business of [`super::parameters`]. As a
//! connection string may hold a password, no error quotes any of it but keywords.

/// Why a connection string cannot be read. Positions count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    #[error("it contains a zero byte")]
    ZeroByte,
    #[error("there is a word without \"=\" at character {position}")]
    MissingEquals { position: usize },
    #[error("the quoted value of \"{keyword}\" does not end")]
    UnterminatedQuote { keyword: String },
    #[error("\"=\" at character {position} has no keyword before it")]
    MissingKeyword { position: usize },
    #[error("the URI's {part} has a \"%\" that is not followed by two hexadecimal digits")]
    BadPercentEncoding { part: &'static str },
    #[error("the URI's {part} contains a zero byte or is not UTF-8")]
    NotText { part: &'static str },
    #[error("the URI's \"[\" is not followed by an IPv6 address and \"]\"")]
    BadBrackets,
    #[error("the URI's query has a part without \"=\" or with more than one")]
    BadQuery,
}

type Pairs = Vec<(String, String)>;

/// The keywords and values of `text`, in order; later ones are to win.
pub fn parse(text: &str) -> Result<Pairs, ConninfoError> {
    if text.contains('\0') {
        return Err(ConninfoError::ZeroByte);
    }
    match ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) => parse_uri(rest),
        None => parse_keywords(text),
    }
}

/// C's `isspace` in the C locale.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0B' | '\x0C')
}

fn parse_keywords(text: &str) -> Result<Pairs, ConninfoError> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start_matches(is_blank);
    while !rest.is_empty() {
        let position = text[..text.len() - rest.len()].chars().count() + 1;
        let end = rest.find(|c| c == '=' || is_blank(c)).unwrap_or(rest.len());
        let (keyword, after) = rest.split_at(end);
        let value = after
            .trim_start_matches(is_blank)
            .strip_prefix('=')
            .ok_or(ConninfoError::MissingEquals { position })?
            .trim_start_matches(is_blank);
        if keyword.is_empty() {
            return Err(ConninfoError::MissingKeyword { position });
        }
        let (value, after) = match value.strip_prefix('\'') {
            Some(quoted) => quoted_value(quoted)
                .ok_or_else(|| ConninfoError::UnterminatedQuote { keyword: keyword.to_owned() })?,
            None => plain_value(value),
        };
        pairs.push((keyword.to_owned(), value));
        rest = after.trim_start_matches(is_blank);
    }
    Ok(pairs)
}

/// The value up to the closing quote, and what follows the quote; `None` when there is none.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((value, &text[at + 1..])),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    None
}

/// The value up to the next blank, and what follows. A backslash at the very end counts for nothing.
fn plain_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ if is_blank(c) => return (value, &text[at..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

fn parse_uri(text: &str) -> Result<Pairs, ConninfoError> {
    let (userinfo, rest) = match text.find(['@', '/']) {
        Some(at) if text[at..].starts_with('@') => (Some(&text[..at]), &text[at + 1..]),
        _ => (None, text),
    };
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = before_query.split_once('/').unwrap_or((before_query, ""));

    let mut pairs = Pairs::new();
    let mut add = |keyword: &str, value: String| {
        if !value.is_empty() {
            pairs.push((keyword.to_owned(), value));
        }
    };
    if let Some(userinfo) = userinfo {
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        add("user", decode(user, "user")?);
        add("password", decode(password, "password")?);
    }
    let (hosts, ports) = parse_hosts(hosts)?;
    add("host", hosts);
    add("port", ports);
    add("dbname", decode(database, "database")?);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        pairs.push(parse_query_part(part)?);
    }
    Ok(pairs)
}

/// The hosts and the ports, each as libpq's list with commas; a list of nothing but commas is empty.
fn parse_hosts(text: &str) -> Result<(String, String), ConninfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for part in text.split(',') {
        let (host, port) = match part.strip_prefix('[') {
            Some(bracketed) => {
                let (address, after) = bracketed.split_once(']').ok_or(ConninfoError::BadBrackets)?;
                let port = if after.is_empty() { Some("") } else { after.strip_prefix(':') };
                match port {
                    Some(port) if !address.is_empty() => (address, port),
                    _ => return Err(ConninfoError::BadBrackets),
                }
            }
            None => part.split_once(':').unwrap_or((part, "")),
        };
        hosts.push(decode(host, "host")?);
        ports.push(decode(port, "port")?);
    }
    let list = |parts: Vec<String>| match parts.iter().all(String::is_empty) {
        true => String::new(),
        false => parts.join(","),
    };
    Ok((list(hosts), list(ports)))
}

fn parse_query_part(part: &str) -> Result<(String, String), ConninfoError> {
    let (keyword, value) = part.split_once('=').ok_or(ConninfoError::BadQuery)?;
    if keyword.is_empty() || value.contains('=') {
        return Err(ConninfoError::BadQuery);
    }
    let (keyword, value) = (decode(keyword, "query")?, decode(value, "query")?);
    Ok(match (keyword.as_str(), value.as_str()) {
        // JDBC's spelling, which libpq understands too.
        ("ssl", "true") => ("sslmode".to_owned(), "require".to_owned()),
        _ => (keyword, value),
    })
}

fn decode(text: &str, part: &'static str) -> Result<String, ConninfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: u8| (byte as char).to_digit(16);
                let (high, low) =
                    digit(*high).zip(digit(*low)).ok_or(ConninfoError::BadPercentEncoding { part })?;
                bytes.push((high * 16 + low) as u8);
                after
            }
            (b'%', _) => return Err(ConninfoError::BadPercentEncoding { part }),
            _ => {
                bytes.push(*byte);
                after
            }
        };
    }
    if bytes.contains(&0) {
        return Err(ConninfoError::NotText { part });
    }
    String::from_utf8(bytes).map_err(|_| ConninfoError::NotText { part })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(list: &[(&str, &str)]) -> Result<Pairs, ConninfoError> {
        Ok(list.iter().map(|(keyword, value)| (keyword.to_string(), value.to_string())).collect())
    }

    #[test]
    fn keywords_are_read_with_libpqs_quoting() {
        assert_eq!(parse(""), pairs(&[]));
        assert_eq!(parse("  \n "), pairs(&[]));
        assert_eq!(
            parse(r"host = localhost port=5433 password='it\'s \\ a secret'user=a\ b dbname="),
            pairs(&[
                ("host", "localhost"),
                ("port", "5433"),
                ("password", r"it's \ a secret"),
                ("user", "a b"),
                ("dbname", "")
            ])
        );
        // An empty value swallows the blanks after "=" and then the next word, as libpq's does.
        assert_eq!(parse("dbname= user=x"), pairs(&[("dbname", "user=x")]));
        assert_eq!(parse(r"user=x\"), pairs(&[("user", "x")]));
    }

    #[test]
    fn broken_strings_are_refused_without_quoting_them() {
        assert_eq!(parse("password=open sesame"), Err(ConninfoError::MissingEquals { position: 15 }));
        assert_eq!(parse("a=b =c"), Err(ConninfoError::MissingKeyword { position: 5 }));
        assert_eq!(
            parse(r"password='abc\'"),
            Err(ConninfoError::UnterminatedQuote { keyword: "password".to_owned() })
        );
    }

    #[test]
    fn uris_are_read_in_all_their_parts() {
        assert_eq!(parse("postgresql://"), pairs(&[]));
        assert_eq!(parse("postgres:///shop"), pairs(&[("dbname", "shop")]));
        assert_eq!(
            parse(
                "postgresql://me:p%40ss@db.example.org:5433/shop?sslmode=verify-full&application_name=a%26b"
            ),
            pairs(&[
                ("user", "me"),
                ("password", "p@ss"),
                ("host", "db.example.org"),
                ("port", "5433"),
                ("dbname", "shop"),
                ("sslmode", "verify-full"),
                ("application_name", "a&b")
            ])
        );
        assert_eq!(
            parse("postgresql://a,[::1]:5433,b:1/?ssl=true"),
            pairs(&[("host", "a,::1,b"), ("port", ",5433,1"), ("sslmode", "require")])
        );
        assert_eq!(
            parse("postgresql://%2Fvar%2Frun%2Fpostgresql/shop"),
            pairs(&[("host", "/var/run/postgresql"), ("dbname", "shop")])
        );
        assert_eq!(parse("postgresql://?host=/run&user=me"), pairs(&[("host", "/run"), ("user", "me")]));
    }

    #[test]
    fn broken_uris_are_refused() {
        use ConninfoError::*;
        for (uri, error) in [
            ("postgres://a%2", BadPercentEncoding { part: "host" }),
            ("postgres://%zz@a", BadPercentEncoding { part: "user" }),
            ("postgres://u:%00@a", NotText { part: "password" }),
            ("postgres://u:%FF@a", NotText { part: "password" }),
            ("postgres://[::1", BadBrackets),
            ("postgres://[]", BadBrackets),
            ("postgres://[::1]5432", BadBrackets),
            ("postgres://a/b?c", BadQuery),
            ("postgres://a/b?c=d=e", BadQuery),
            ("postgres://a/b?=d", BadQuery),
        ] {
            assert_eq!(parse(uri), Err(error), "{uri}");
        }
    }

    /// `value` as it has to be written in a connection string.
    fn quoted(value: &str) -> String {
        format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*", uri in "postgres://[-a-z0-9:/?&=@%,\\[\\]]*") {
            let _ = parse(&text);
            let _ = parse(&uri);
        }

        #[test]
        fn quoting_keeps_any_value(values in prop::collection::vec(("[a-z_]{1,12}", "[^\0]*"), 0..5)) {
            let text: Vec<_> = values.iter().map(|(key, value)| format!("{key} ={}", quoted(value))).collect();
            prop_assert_eq!(parse(&text.join(" ")), Ok(values));
        }

        #[test]
        fn percent_encoding_keeps_any_value(value in "[^\0]+") {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(
                parse(&format!("postgres://u:{encoded}@h")),
                pairs(&[("user", "u"), ("password", &value), ("host", "h")])
            );
        }
    }
}
