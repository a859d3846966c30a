//! The packets of SFTP, version 3, as far as a repository needs them. Pure: bytes in, values out.
//!
//! Follows draft-ietf-secsh-filexfer-02 and, for the extensions, OpenSSH's `PROTOCOL` file. A packet is
//!
//! ```text
//! packet := length:u32 type:u8 body          length counts the type and the body
//! body   := id:u32 fields                    except in INIT and VERSION, which carry a version number instead
//! string := length:u32 bytes
//! attrs  := flags:u32 [size:u64] [uid:u32 gid:u32] [permissions:u32] [atime:u32 mtime:u32]
//!           [count:u32 (string string){count}]
//! ```
//!
//! Nothing that a server sends can make parsing panic, or take more memory than its packet, whose length
//! [`PACKET_BYTES_MAX`] bounds.

use std::collections::HashMap;
use std::fmt;

/// No server sends more in one packet: OpenSSH stops at 256 KiB.
pub const PACKET_BYTES_MAX: usize = (256 << 10) + 1024;

/// What every server must take, and return, in one packet of data.
pub const DATA_BYTES_USUAL: usize = 32 << 10;

/// Where the request's number is in its packet.
pub const ID_AT: usize = 5;

const VERSION: u32 = 3;

mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const REALPATH: u8 = 16;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED: u8 = 200;
    pub const EXTENDED_REPLY: u8 = 201;
}

mod attribute {
    pub const SIZE: u32 = 0x1;
    pub const OWNER: u32 = 0x2;
    pub const PERMISSIONS: u32 = 0x4;
    pub const TIMES: u32 = 0x8;
    pub const EXTENDED: u32 = 0x8000_0000;
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Read,
    /// What exists, to read and to write.
    Update,
    /// A new file for the owner alone; one that exists is an error.
    CreateNew,
}

#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    Open {
        path: &'a str,
        mode: Mode,
    },
    Close {
        handle: &'a [u8],
    },
    Read {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    /// The head of a packet that `length` bytes of data follow.
    Write {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    Stat {
        path: &'a str,
    },
    /// Does not follow a symbolic link.
    Lstat {
        path: &'a str,
    },
    OpenDirectory {
        path: &'a str,
    },
    ReadDirectory {
        handle: &'a [u8],
    },
    Remove {
        path: &'a str,
    },
    /// For the owner alone.
    MakeDirectory {
        path: &'a str,
    },
    RemoveDirectory {
        path: &'a str,
    },
    RealPath {
        path: &'a str,
    },
    Rename {
        from: &'a str,
        to: &'a str,
    },
    Fsync {
        handle: &'a [u8],
    },
    StatVfs {
        path: &'a str,
    },
    Limits,
}

/// Writes one packet; its length is filled in at the end.
struct Packet(Vec<u8>);

impl Packet {
    fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn string(mut self, bytes: &[u8]) -> Self {
        self = self.u32(u32::try_from(bytes.len()).expect("names and handles are short"));
        self.0.extend_from_slice(bytes);
        self
    }

    /// `data_bytes` will follow.
    fn finish(mut self, data_bytes: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - 4).expect("names and handles are short") + data_bytes;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// The first packet, which has no number.
pub fn init() -> Vec<u8> {
    Packet::new(kind::INIT).u32(VERSION).finish(0)
}

impl Request<'_> {
    /// The packet, with the number 0 at [`ID_AT`]; of a write, all but its data.
    pub fn encode(&self) -> Vec<u8> {
        let packet = |kind| Packet::new(kind).u32(0);
        let path = |kind, path: &str| packet(kind).string(path.as_bytes()).finish(0);
        let handle = |kind, handle: &[u8]| packet(kind).string(handle).finish(0);
        let extended = |name: &str| packet(kind::EXTENDED).string(name.as_bytes());
        match *self {
            Self::Open { path, mode } => {
                let (flags, attributes) = match mode {
                    Mode::Read => (0x1, None),
                    Mode::Update => (0x1 | 0x2, None),
                    Mode::CreateNew => (0x1 | 0x2 | 0x8 | 0x20, Some(0o600)),
                };
                permissions(packet(kind::OPEN).string(path.as_bytes()).u32(flags), attributes).finish(0)
            }
            Self::Close { handle: of } => handle(kind::CLOSE, of),
            Self::Read { handle, offset, length } => {
                packet(kind::READ).string(handle).u64(offset).u32(length).finish(0)
            }
            Self::Write { handle, offset, length } => {
                packet(kind::WRITE).string(handle).u64(offset).u32(length).finish(length)
            }
            Self::Stat { path: of } => path(kind::STAT, of),
            Self::Lstat { path: of } => path(kind::LSTAT, of),
            Self::OpenDirectory { path: of } => path(kind::OPENDIR, of),
            Self::ReadDirectory { handle: of } => handle(kind::READDIR, of),
            Self::Remove { path: of } => path(kind::REMOVE, of),
            Self::MakeDirectory { path } => {
                permissions(packet(kind::MKDIR).string(path.as_bytes()), Some(0o700)).finish(0)
            }
            Self::RemoveDirectory { path: of } => path(kind::RMDIR, of),
            Self::RealPath { path: of } => path(kind::REALPATH, of),
            Self::Rename { from, to } => {
                packet(kind::RENAME).string(from.as_bytes()).string(to.as_bytes()).finish(0)
            }
            Self::Fsync { handle } => extended("fsync@openssh.com").string(handle).finish(0),
            Self::StatVfs { path } => extended("statvfs@openssh.com").string(path.as_bytes()).finish(0),
            Self::Limits => extended("limits@openssh.com").finish(0),
        }
    }

    /// How many bytes this moves, in one direction or the other.
    pub fn data_bytes(&self) -> u32 {
        match *self {
            Self::Read { length, .. } | Self::Write { length, .. } => length,
            _ => 0,
        }
    }
}

fn permissions(packet: Packet, permissions: Option<u32>) -> Packet {
    match permissions {
        None => packet.u32(0),
        Some(permissions) => packet.u32(attribute::PERMISSIONS).u32(permissions),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Status(Status),
    Handle(Vec<u8>),
    Data(Data),
    Names(Vec<Name>),
    Attributes(Attributes),
    Extended(Vec<u8>),
}

/// The packet that the data came in, so that it need not be copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    packet: Vec<u8>,
    start: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub name: Vec<u8>,
    pub attributes: Attributes,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    pub size_bytes: Option<u64>,
    /// With the file's type, as in `st_mode`.
    pub permissions: Option<u32>,
    /// Seconds since 1970, by the server's clock.
    pub modified_at: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Status {
    pub code: u32,
    /// The server's own words, which say no more than the code, and in part less.
    pub message: String,
}

impl Status {
    pub const OK: u32 = 0;
    pub const EOF: u32 = 1;
    pub const NO_SUCH_FILE: u32 = 2;
    pub const PERMISSION_DENIED: u32 = 3;
    pub const FAILURE: u32 = 4;
    pub const BAD_MESSAGE: u32 = 5;
    pub const UNSUPPORTED: u32 = 8;
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = match self.code {
            Status::NO_SUCH_FILE => "no such file",
            Status::PERMISSION_DENIED => "permission denied",
            Status::FAILURE => "failure",
            Status::BAD_MESSAGE => "bad message",
            Status::UNSUPPORTED => "operation unsupported",
            code if self.message.is_empty() => return write!(f, "status {code}"),
            _ => &self.message,
        };
        f.write_str(known)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    Regular,
    Directory,
    Other,
}

impl Attributes {
    /// `None` where the server does not say.
    pub fn file_type(&self) -> Option<FileType> {
        Some(match self.permissions? & 0o170_000 {
            0o100_000 => FileType::Regular,
            0o040_000 => FileType::Directory,
            _ => FileType::Other,
        })
    }
}

/// The extensions that a server offers, with their versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions(HashMap<Vec<u8>, Vec<u8>>);

impl Extensions {
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name.as_bytes())
    }
}

/// What `statvfs@openssh.com` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    pub available_bytes: u64,
    /// `None` where the file system does not count files.
    pub available_files: Option<u64>,
    pub is_read_only: bool,
}

/// What `limits@openssh.com` tells; 0 is "no limit known".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub read_bytes_max: u64,
    pub write_bytes_max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent a packet that is not SFTP")]
pub struct Malformed;

type Parsed<T> = Result<T, Malformed>;

/// What is left of a packet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Parsed<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes(bytes.try_into().expect("4 bytes were taken")))
    }

    fn u64(&mut self) -> Parsed<u64> {
        let bytes = self.take(8)?;
        Ok(u64::from_be_bytes(bytes.try_into().expect("8 bytes were taken")))
    }

    fn string(&mut self) -> Parsed<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Malformed)?)
    }

    fn attributes(&mut self) -> Parsed<Attributes> {
        let flags = self.u32()?;
        let mut attributes = Attributes::default();
        if flags & attribute::SIZE != 0 {
            attributes.size_bytes = Some(self.u64()?);
        }
        if flags & attribute::OWNER != 0 {
            self.take(8)?;
        }
        if flags & attribute::PERMISSIONS != 0 {
            attributes.permissions = Some(self.u32()?);
        }
        if flags & attribute::TIMES != 0 {
            self.take(4)?;
            attributes.modified_at = Some(self.u32()?);
        }
        if flags & attribute::EXTENDED != 0 {
            // Each takes at least eight bytes, so a count that lies ends with the packet.
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Ok(attributes)
    }

    fn names(&mut self) -> Parsed<Vec<Name>> {
        let mut names = Vec::new();
        for _ in 0..self.u32()? {
            let name = self.string()?.to_owned();
            // What `ls -l` would print, for people.
            self.string()?;
            names.push(Name { name, attributes: self.attributes()? });
        }
        Ok(names)
    }

    fn status(&mut self) -> Parsed<Status> {
        let code = self.u32()?;
        // Old servers end here.
        let message = if self.0.is_empty() { b"" } else { self.string()? };
        let message = String::from_utf8_lossy(message);
        let message = message.chars().filter(|c| !c.is_control()).take(200).collect();
        Ok(Status { code, message })
    }
}

/// The answer to [`init`], without its length: `version:u32 (name:string data:string)*`.
pub fn parse_version(packet: &[u8]) -> Parsed<Extensions> {
    let (&kind, body) = packet.split_first().ok_or(Malformed)?;
    let mut fields = Fields(body);
    if kind != kind::VERSION || fields.u32()? < VERSION {
        return Err(Malformed);
    }
    let mut extensions = Extensions::default();
    while !fields.0.is_empty() {
        let name = fields.string()?.to_owned();
        extensions.0.insert(name, fields.string()?.to_owned());
    }
    Ok(extensions)
}

impl Reply {
    /// A packet without its length, and the number of the request that it answers.
    pub fn parse(packet: Vec<u8>) -> Parsed<(u32, Self)> {
        let (&kind, body) = packet.split_first().ok_or(Malformed)?;
        let mut fields = Fields(body);
        let id = fields.u32()?;
        let reply = match kind {
            kind::STATUS => Self::Status(fields.status()?),
            kind::HANDLE => {
                let handle = fields.string()?;
                // The draft allows no more, and each request carries it.
                if handle.len() > 256 {
                    return Err(Malformed);
                }
                Self::Handle(handle.to_owned())
            }
            kind::DATA => {
                let length = fields.string()?.len();
                let start = packet.len() - fields.0.len() - length;
                let end = start + length;
                let mut packet = packet;
                packet.truncate(end);
                return Ok((id, Self::Data(Data { packet, start })));
            }
            kind::NAME => Self::Names(fields.names()?),
            kind::ATTRS => Self::Attributes(fields.attributes()?),
            kind::EXTENDED_REPLY => Self::Extended(fields.0.to_owned()),
            _ => return Err(Malformed),
        };
        Ok((id, reply))
    }
}

impl Data {
    pub fn bytes(&self) -> &[u8] {
        &self.packet[self.start..]
    }
}

impl FileSystem {
    pub fn parse(reply: &[u8]) -> Parsed<Self> {
        let mut fields = Fields(reply);
        // f_bsize, f_frsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_favail, f_fsid, f_flag, f_namemax
        let mut values = [0; 11];
        for value in &mut values {
            *value = fields.u64()?;
        }
        Ok(Self {
            available_bytes: values[4].saturating_mul(values[1]),
            available_files: (values[5] > 0).then_some(values[7]),
            is_read_only: values[9] & 1 != 0,
        })
    }
}

impl Limits {
    pub fn parse(reply: &[u8]) -> Parsed<Self> {
        let mut fields = Fields(reply);
        let _packet_bytes_max = fields.u64()?;
        Ok(Self { read_bytes_max: fields.u64()?, write_bytes_max: fields.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(kind: u8) -> Packet {
        Packet::new(kind).u32(7)
    }

    fn parse(packet: Packet) -> Parsed<(u32, Reply)> {
        Reply::parse(packet.0[4..].to_owned())
    }

    #[test]
    fn a_write_announces_the_data_that_follows_it() {
        let packet = Request::Write { handle: b"h\0\0\x01", offset: 1 << 40, length: 3 }.encode();
        let expected = b"\0\0\0\x1c\x06\0\0\0\0\0\0\0\x04h\0\0\x01\0\0\x01\0\0\0\0\0\0\0\0\x03";
        assert_eq!(packet, expected);
        assert_eq!(packet.len() + 3 - 4, 0x1c);
    }

    #[test]
    fn a_new_file_is_exclusive_and_for_its_owner_alone() {
        let packet = Request::Open { path: "/p", mode: Mode::CreateNew }.encode();
        assert_eq!(packet[9..], *b"\0\0\0\x02/p\0\0\0\x2b\0\0\0\x04\0\0\x01\x80");
    }

    #[test]
    fn extensions_are_known_by_name() {
        let version = Packet::new(kind::VERSION)
            .u32(3)
            .string(b"fsync@openssh.com")
            .string(b"1")
            .string(b"x")
            .string(b"");
        let extensions = parse_version(&version.0[4..]).unwrap();
        assert!(extensions.has("fsync@openssh.com") && extensions.has("x") && !extensions.has("y"));
        assert_eq!(parse_version(b"Welcome to this server"), Err(Malformed));
        let old = Packet::new(kind::VERSION).u32(2);
        assert_eq!(parse_version(&old.0[4..]), Err(Malformed));
    }

    #[test]
    fn each_reply_gives_what_it_holds() {
        let attributes = |packet: Packet| {
            packet
                .u32(0x8000_000F)
                .u64(5)
                .u32(1)
                .u32(1)
                .u32(0o100_600)
                .u32(8)
                .u32(9)
                .u32(1)
                .string(b"a")
                .string(b"b")
        };
        let expected = Attributes { size_bytes: Some(5), permissions: Some(0o100_600), modified_at: Some(9) };
        let found = parse(attributes(reply(kind::ATTRS)));
        assert_eq!(found, Ok((7, Reply::Attributes(expected))));
        assert_eq!(expected.file_type(), Some(FileType::Regular));

        let names = attributes(reply(kind::NAME).u32(1).string(b"n").string(b"-rw------- n"));
        let name = Name { name: b"n".to_vec(), attributes: expected };
        assert_eq!(parse(names), Ok((7, Reply::Names(vec![name]))));

        let (_, Reply::Data(data)) = parse(reply(kind::DATA).string(b"bytes").u32(1)).unwrap() else {
            panic!()
        };
        assert_eq!(data.bytes(), b"bytes");
        let status = Status { code: 4, message: "Failure".into() };
        let found = parse(reply(kind::STATUS).u32(4).string(b"Fail\x1Bure").string(b"en"));
        assert_eq!(found, Ok((7, Reply::Status(status))));
        let without_words = Status { code: 0, message: String::new() };
        assert_eq!(parse(reply(kind::STATUS).u32(0)), Ok((7, Reply::Status(without_words))));
    }

    #[test]
    fn a_file_system_says_how_much_is_free() {
        let values = [4096, 1024, 100, 60, 50, 10, 9, 8, 0, 1, 255];
        let packet = values.iter().fold(Packet(Vec::new()), |packet, &value| packet.u64(value));
        let expected = FileSystem { available_bytes: 50 << 10, available_files: Some(8), is_read_only: true };
        assert_eq!(FileSystem::parse(&packet.0), Ok(expected));
        assert_eq!(FileSystem::parse(&packet.0[1..]), Err(Malformed));
    }

    #[test]
    fn counts_that_lie_take_no_memory() {
        assert_eq!(parse(reply(kind::NAME).u32(u32::MAX)), Err(Malformed));
        assert_eq!(parse(reply(kind::ATTRS).u32(0x8000_0000).u32(u32::MAX)), Err(Malformed));
        assert_eq!(parse(reply(kind::DATA).u32(u32::MAX)), Err(Malformed));
        assert_eq!(parse(reply(kind::HANDLE).string(&[0; 257])), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(
            kind in prop::sample::select(vec![2u8, 101, 102, 103, 104, 105, 201]),
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let packet: Vec<u8> = std::iter::once(kind).chain(body.iter().copied()).collect();
            let _ = parse_version(&packet);
            let _ = FileSystem::parse(&body);
            let _ = Limits::parse(&body);
            if let Ok((_, Reply::Data(data))) = Reply::parse(packet) {
                prop_assert!(data.bytes().len() + 8 <= body.len());
            }
        }

        #[test]
        fn an_altered_reply_takes_no_more_memory_than_its_packet(
            count in 0u32..20,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let names = (0..count).fold(reply(kind::NAME).u32(count), |packet, i| {
                packet.string(&[b'n'; 5]).string(b"").u32(attribute::SIZE | attribute::TIMES).u64(i.into()).u32(1).u32(2)
            });
            let mut packet = names.0[4..].to_owned();
            for (at, byte) in changes {
                let at = at.index(packet.len());
                packet[at] = byte;
            }
            packet.truncate(packet.len() - cut.index(packet.len()) / 8);
            let packet_bytes = packet.len() as u64;
            let allocated = allocation_counter::measure(|| drop(Reply::parse(packet)));
            prop_assert!(allocated.bytes_max <= 1024 + 16 * packet_bytes, "{:?} for {}", allocated, packet_bytes);
        }

        #[test]
        fn a_truncated_reply_is_none(cut in 1usize..30) {
            let whole = reply(kind::NAME).u32(1).string(b"name").string(b"").u32(1).u64(5).0;
            let kept = whole.len() - cut.min(whole.len() - 4);
            prop_assert!(Reply::parse(whole[4..kept].to_owned()).is_err());
        }
    }
}
