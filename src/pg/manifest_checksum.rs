//! The checksums that a backup manifest gives for its files.
//!
//! Follows PostgreSQL `src/common/checksum_helper.c`: the algorithms' names, and CRC-32C written as the bytes of
//! the number in the order of a little-endian machine.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// What `MANIFEST_CHECKSUMS` may say, but for `NONE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    Crc32c,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a checksum algorithm (CRC32C, SHA224, SHA256, SHA384 or SHA512)")]
pub struct NotAnAlgorithm(String);

/// A file's checksum, of the length that its algorithm has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Checksum {
    algorithm: ChecksumAlgorithm,
    bytes: Vec<u8>,
}

/// A checksum being computed.
#[derive(Debug, Clone)]
pub struct Checksummer(State);

#[derive(Debug, Clone)]
enum State {
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl ChecksumAlgorithm {
    const ALL: [Self; 5] = [Self::Crc32c, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// As the server and its manifests write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "CRC32C",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    pub fn length_bytes(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

impl FromStr for ChecksumAlgorithm {
    type Err = NotAnAlgorithm;

    /// The server takes upper and lower case alike.
    fn from_str(text: &str) -> Result<Self, NotAnAlgorithm> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| NotAnAlgorithm(text.to_owned()))
    }
}

impl Checksum {
    /// Reads the hexadecimal digits that a manifest gives; `None` unless they are of `algorithm`'s length.
    pub fn from_hex(algorithm: ChecksumAlgorithm, digits: &str) -> Option<Self> {
        let bytes = bytes_of_hex(digits)?;
        (bytes.len() == algorithm.length_bytes()).then_some(Self { algorithm, bytes })
    }

    /// The value, where this is a CRC-32C.
    pub fn crc32c(&self) -> Option<u32> {
        let bytes = <[u8; 4]>::try_from(self.bytes.as_slice()).ok()?;
        (self.algorithm == ChecksumAlgorithm::Crc32c).then(|| u32::from_le_bytes(bytes))
    }

    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }
}

/// `CRC32C a8ef0c4c`, with the digits as a manifest writes them.
impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.algorithm.name())?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Checksummer {
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        Self(match algorithm {
            ChecksumAlgorithm::Crc32c => State::Crc32c(0),
            ChecksumAlgorithm::Sha224 => State::Sha224(Sha224::new()),
            ChecksumAlgorithm::Sha256 => State::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha384 => State::Sha384(Sha384::new()),
            ChecksumAlgorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Crc32c(value) => *value = crc32c::crc32c_append(*value, bytes),
            State::Sha224(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha384(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    pub fn finish(self) -> Checksum {
        let (algorithm, bytes) = match self.0 {
            State::Crc32c(value) => (ChecksumAlgorithm::Crc32c, value.to_le_bytes().to_vec()),
            State::Sha224(state) => (ChecksumAlgorithm::Sha224, state.finalize().to_vec()),
            State::Sha256(state) => (ChecksumAlgorithm::Sha256, state.finalize().to_vec()),
            State::Sha384(state) => (ChecksumAlgorithm::Sha384, state.finalize().to_vec()),
            State::Sha512(state) => (ChecksumAlgorithm::Sha512, state.finalize().to_vec()),
        };
        Checksum { algorithm, bytes }
    }
}

/// Two digits a byte, upper or lower case.
pub(super) fn bytes_of_hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let bytes = pairs.iter().map(|&[high, low]| Some(value(high)? << 4 | value(low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Checksum {
        let mut checksummer = Checksummer::new(algorithm);
        checksummer.update(bytes);
        checksummer.finish()
    }

    /// The check values of the algorithms' definitions; CRC-32C of "123456789" is 0xE3069283.
    #[test]
    fn each_algorithm_is_what_its_name_says() {
        let crc = of(ChecksumAlgorithm::Crc32c, b"123456789");
        assert_eq!(crc.to_string(), "CRC32C 839206e3");
        for (algorithm, first_digits) in [
            (ChecksumAlgorithm::Sha224, "23097d22"),
            (ChecksumAlgorithm::Sha256, "ba7816bf"),
            (ChecksumAlgorithm::Sha384, "cb00753f"),
            (ChecksumAlgorithm::Sha512, "ddaf35a1"),
        ] {
            let text = of(algorithm, b"abc").to_string();
            assert!(text.starts_with(&format!("{} {first_digits}", algorithm.name())), "{text}");
        }
    }

    #[test]
    fn digits_of_another_length_are_no_checksum() {
        for digits in ["", "0", "000", "0000000", "000000000", "0000000g", "+1234567", "éé11"] {
            assert_eq!(Checksum::from_hex(ChecksumAlgorithm::Crc32c, digits), None, "{digits}");
        }
        assert_eq!("crc32c".parse(), Ok(ChecksumAlgorithm::Crc32c));
        assert!("NONE".parse::<ChecksumAlgorithm>().is_err());
    }

    proptest! {
        #[test]
        fn checksums_round_trip_and_do_not_depend_on_the_pieces(bytes: Vec<u8>, cut: prop::sample::Index) {
            for algorithm in ChecksumAlgorithm::ALL {
                let whole = of(algorithm, &bytes);
                let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
                let mut pieces = Checksummer::new(algorithm);
                pieces.update(first);
                pieces.update(second);
                prop_assert_eq!(&pieces.finish(), &whole);
                let text = whole.to_string();
                let digits = text.split_once(' ').unwrap().1;
                prop_assert_eq!(Checksum::from_hex(algorithm, digits), Some(whole));
            }
        }
    }
}
