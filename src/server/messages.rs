//! The server's messages, as far as they are bytes.
//!
//! Follows PostgreSQL's documentation, "Message Formats" and "Error and Notice Message Fields". Numbers are
//! big-endian, texts end with a zero byte. Every length is checked against what is there: a malformed message is
//! [`Malformed`], never a panic.

use std::fmt;

/// A message that does not have the form its tag promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads a message's body from front to back.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N).map(|bytes| bytes.try_into().expect("as many bytes as were asked for"))
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// Everything up to the next zero byte, which is passed over.
    pub fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(Malformed)?;
        let text = self.bytes(end)?;
        self.bytes(1).map(|_| text)
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A DataRow's columns; `None` is SQL's null.
pub fn columns(body: &[u8]) -> Result<Vec<Option<&[u8]>>, Malformed> {
    let mut fields = Fields::new(body);
    let count = fields.u16()?;
    let column = |_| match fields.i32()? {
        -1 => Ok(None),
        length => fields.bytes(usize::try_from(length).map_err(|_| Malformed)?).map(Some),
    };
    (0..count).map(column).collect()
}

/// A message of ours: its tag, its length, and `parts` one after the other.
pub fn request(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let counted = u32::try_from(length + 4).expect("what we send is short");
    let mut message = Vec::with_capacity(length + 5);
    message.push(tag);
    message.extend(counted.to_be_bytes());
    message.extend(parts.iter().copied().flatten());
    message
}

/// The wish for TLS, which has no tag: a length and a number that can be no protocol's version.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];

/// The first message of a connection, which has no tag: protocol 3.0 and the parameters.
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for text in parameters.iter().flat_map(|(name, value)| [name, value]) {
        body.extend(text.bytes());
        body.push(0);
    }
    body.push(0);
    request(0, &[&body]).split_off(1)
}

/// What the server says in an ErrorResponse or a NoticeResponse.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerMessage {
    /// `ERROR`, `FATAL`, `WARNING` …, in English whatever the server's language.
    pub severity: String,
    pub sqlstate: String,
    /// In the server's language.
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl ServerMessage {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut message = Self::default();
        let mut fields = Fields::new(body);
        loop {
            let field = fields.u8()?;
            if field == 0 {
                return Ok(message);
            }
            let text = String::from_utf8_lossy(fields.text()?).into_owned();
            match field {
                b'V' => message.severity = text,
                b'C' => message.sqlstate = text,
                b'M' => message.message = text,
                b'D' => message.detail = Some(text),
                b'H' => message.hint = Some(text),
                _ => {}
            }
        }
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({})", detail.trim_end_matches('.'))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_row_has_texts_and_nulls() {
        let body = b"\0\x03\0\0\0\x02ab\xFF\xFF\xFF\xFF\0\0\0\0";
        assert_eq!(columns(body), Ok(vec![Some(&b"ab"[..]), None, Some(&b""[..])]));
        for end in 0..body.len() {
            assert_eq!(columns(&body[..end]), Err(Malformed), "cut at {end}");
        }
        assert_eq!(columns(b"\0\x01\xFF\xFF\xFF\xFE"), Err(Malformed));
        assert_eq!(columns(b"\0\x01\x7F\xFF\xFF\xFF"), Err(Malformed));
    }

    #[test]
    fn an_error_is_read_field_by_field() {
        let body = b"SFEHLER\0VERROR\0C28P01\0Mno\0Dwhy.\0RClientAuthentication\0\0";
        let message = ServerMessage::parse(body).unwrap();
        assert_eq!((message.severity.as_str(), message.sqlstate.as_str()), ("ERROR", "28P01"));
        assert_eq!(message.to_string(), "no (why)");
        for end in 0..body.len() {
            assert_eq!(ServerMessage::parse(&body[..end]), Err(Malformed), "cut at {end}");
        }
    }

    #[test]
    fn requests_carry_their_length() {
        assert_eq!(request(b'p', &[b"ab", b"\0"]), b"p\0\0\0\x07ab\0");
        assert_eq!(startup(&[("user", "me")]), b"\0\0\0\x11\0\x03\0\0user\0me\0\0");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body: Vec<u8>) {
            let _ = columns(&body);
            let _ = ServerMessage::parse(&body);
        }
    }
}
