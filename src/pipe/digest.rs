//! SHA-256 of what is stored, as `sha256sum` writes it.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use sha2::Digest as _;

/// A SHA-256; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

/// What is known of stored bytes without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredDigest {
    pub sha256: Sha256,
    pub size_bytes: u64,
}

/// Digests what is written to it.
#[derive(Debug, Clone, Default)]
pub struct Digester {
    state: sha2::Sha256,
    size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a SHA-256 (64 hexadecimal digits)")]
pub struct NotASha256(String);

impl Digester {
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.size_bytes += bytes.len() as u64;
    }

    pub fn finish(self) -> StoredDigest {
        StoredDigest { sha256: Sha256(self.state.finalize().into()), size_bytes: self.size_bytes }
    }
}

impl Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl FromStr for Sha256 {
    type Err = NotASha256;

    fn from_str(text: &str) -> Result<Self, NotASha256> {
        let parse = || {
            let digits = text.as_bytes();
            let mut bytes = [0; 32];
            if digits.len() != 2 * bytes.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&text[2 * i..][..2], 16).ok()?;
            }
            Some(Self(bytes))
        };
        parse().ok_or_else(|| NotASha256(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_as_sha256sum_does() {
        assert_eq!(Digester::default().finish().sha256.to_string(), EMPTY);
        let mut digester = Digester::default();
        io::copy(&mut &b"pgbak\n"[..], &mut digester).unwrap();
        let found = digester.finish();
        assert_eq!(found.size_bytes, 6);
        assert_eq!(
            found.sha256.to_string(),
            "1fc65e5f7eb4024b051b19b5db96ed895033d52104cfcd90a52d9e6e330de786"
        );
    }

    #[test]
    fn text_round_trips() {
        let sha256: Sha256 = EMPTY.parse().unwrap();
        assert_eq!(sha256.to_string(), EMPTY);
        for text in ["", &EMPTY[1..], &EMPTY.replace('e', "+"), &EMPTY.replace("e3", "é")] {
            assert!(text.parse::<Sha256>().is_err(), "{text}");
        }
    }
}
