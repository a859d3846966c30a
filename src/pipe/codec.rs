//! Which codec, at which level.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    Zstd,
    Gzip,
    Lz4,
    None,
    /// A few lines that are left readable, and one more with their digest: nobody chooses it.
    Text,
}

/// A codec and its level, written `zstd:3`; a level is left out where the codec has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    codec: Codec,
    level: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a compression (zstd, zstd:1 to zstd:22, gzip, gzip:1 to gzip:9, lz4 or none)")]
pub struct NotACompression(String);

impl Codec {
    /// Those that one can choose.
    pub const ALL: [Self; 4] = [Self::Zstd, Self::Gzip, Self::Lz4, Self::None];

    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::None => "none",
            Self::Text => "text",
        }
    }

    /// What is appended to a file's name, with its dot: `.zst`, `.gz`, `.lz4`, or nothing.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
            Self::Lz4 => ".lz4",
            Self::None | Self::Text => "",
        }
    }

    /// Whether what is stored differs from what is in it.
    pub fn compresses(self) -> bool {
        match self {
            Self::Zstd | Self::Gzip | Self::Lz4 => true,
            Self::None | Self::Text => false,
        }
    }

    /// Splits a stored file's name into the name of what is in it and the codec that its suffix names.
    pub fn of_file(name: &str) -> (&str, Self) {
        let compressed = [Self::Zstd, Self::Gzip, Self::Lz4];
        let with_suffix =
            compressed.into_iter().find_map(|codec| Some((name.strip_suffix(codec.suffix())?, codec)));
        with_suffix.unwrap_or((name, Self::None))
    }
}

impl Compression {
    /// `level` as in the configuration; `None` is the codec's usual one.
    pub fn new(codec: Codec, level: Option<i32>) -> Result<Self, NotACompression> {
        let (allowed, usual) = match codec {
            Codec::Zstd => (1..=22, 3),
            Codec::Gzip => (1..=9, 6),
            Codec::Lz4 | Codec::None | Codec::Text => (0..=0, 0),
        };
        let level = level.unwrap_or(usual);
        let valid = allowed.contains(&level);
        valid
            .then_some(Self { codec, level })
            .ok_or_else(|| NotACompression(format!("{}:{level}", codec.name())))
    }

    pub fn codec(self) -> Codec {
        self.codec
    }

    pub fn level(self) -> i32 {
        self.level
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self { codec: Codec::Zstd, level: 3 }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.codec {
            Codec::Zstd | Codec::Gzip => write!(f, "{}:{}", self.codec.name(), self.level),
            Codec::Lz4 | Codec::None | Codec::Text => f.write_str(self.codec.name()),
        }
    }
}

impl FromStr for Codec {
    type Err = NotACompression;

    fn from_str(text: &str) -> Result<Self, NotACompression> {
        let found = Self::ALL.into_iter().find(|codec| codec.name() == text);
        found.ok_or_else(|| NotACompression(text.to_owned()))
    }
}

impl FromStr for Compression {
    type Err = NotACompression;

    fn from_str(text: &str) -> Result<Self, NotACompression> {
        let parse = || {
            let (codec, level) = match text.split_once(':') {
                Some((codec, level)) => (codec, Some(level.parse().ok()?)),
                None => (text, None),
            };
            Self::new(codec.parse().ok()?, level).ok()
        };
        parse().ok_or_else(|| NotACompression(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_is_written_as_it_is_read() {
        for text in ["zstd:3", "zstd:22", "gzip:1", "lz4", "none"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        for text in ["", "zstd:", "zstd:0", "zstd:23", "gzip:10", "lz4:1", "brotli", "ZSTD"] {
            assert!(text.parse::<Compression>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_stored_name_tells_its_codec() {
        assert_eq!(Codec::of_file("base.tar.zst"), ("base.tar", Codec::Zstd));
        assert_eq!(Codec::of_file("00000002.history"), ("00000002.history", Codec::None));
    }
}
