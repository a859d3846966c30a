//! How PostgreSQL's words are written in a record: serde adapters, so that `pg` need not know of records.

/// Whatever has a text form of its own, as that text. A system identifier is one of them: TOML's integers have a
/// sign, and half of all identifiers would not fit.
pub mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

pub mod timeline {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::pg::Timeline;

    pub fn serialize<S: Serializer>(timeline: &Timeline, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(timeline.get())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timeline, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Timeline::new(number).ok_or_else(|| de::Error::custom("0 is not a timeline"))
    }
}

pub mod server_version {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::pg::ServerVersion;

    pub fn serialize<S: Serializer>(version: &ServerVersion, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(version.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ServerVersion, D::Error> {
        u32::deserialize(deserializer).map(ServerVersion)
    }
}

pub mod segment_size {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::pg::SegmentSize;

    pub fn serialize<S: Serializer>(size: &SegmentSize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(size.bytes())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SegmentSize, D::Error> {
        let bytes = u64::deserialize(deserializer)?;
        let refused = || format!("{bytes} is not a WAL segment size (a power of two from 1 MiB to 1 GiB)");
        SegmentSize::from_bytes(bytes).ok_or_else(|| de::Error::custom(refused()))
    }
}
