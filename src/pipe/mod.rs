//! Bytes through stages: digest, framed parallel compression, tar framing, fan-out.

mod codec;

pub use codec::{Codec, Compression, NotACompression};
