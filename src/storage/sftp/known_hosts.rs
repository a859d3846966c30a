//! The host keys on file: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT". Pure.
//!
//! ```text
//! line     := [marker] patterns keytype base64-key [comment]
//! marker   := "@revoked" | "@cert-authority"
//! patterns := pattern ("," pattern)* | "|1|" base64-salt "|" base64-hmac-sha1
//! pattern  := ["!"] name, with "*" and "?" as wildcards; a port other than 22 as "[host]:port"
//! ```
//!
//! A line that cannot be read is passed over, as ssh does. Certificates are not supported: a host that is known by
//! its authority alone is unknown here.

use openssl::base64::{decode_block, encode_block};
use openssl::hash::MessageDigest;
use openssl::memcmp;
use openssl::pkey::PKey;
use openssl::sign::Signer;

/// What the file says of one host.
#[derive(Debug, Default)]
pub struct HostKeys {
    /// Type and key.
    known: Vec<(String, Vec<u8>)>,
    /// Without its port: these vouch for the host, but say nothing against it.
    known_without_port: Vec<(String, Vec<u8>)>,
    revoked: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Known,
    Unknown,
    /// The host is on file, with other keys.
    Changed,
    Revoked,
}

/// How ssh names a host in the file.
pub fn name_on_file(host: &str, port: u16) -> String {
    match port {
        22 => host.to_lowercase(),
        _ => format!("[{}]:{port}", host.to_lowercase()),
    }
}

impl HostKeys {
    pub fn find(file: &str, host: &str, port: u16) -> Self {
        let (name, plain) = (name_on_file(host, port), host.to_lowercase());
        let mut found = Self::default();
        for line in file.lines() {
            let mut words = line.split_whitespace().peekable();
            let marker = words.next_if(|word| word.starts_with('@'));
            let (Some(patterns), Some(kind), Some(key)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let Some(key) = decode(key).filter(|_| !patterns.starts_with('#')) else { continue };
            let (is_it, is_plain) = (matches(patterns, &name), matches(patterns, &plain));
            match marker {
                Some("@revoked") if is_it || is_plain => found.revoked.push(key),
                None if is_it => found.known.push((kind.to_owned(), key)),
                None if is_plain => found.known_without_port.push((kind.to_owned(), key)),
                _ => {}
            }
        }
        found
    }

    pub fn check(&self, key: &[u8]) -> Verdict {
        let holds = |keys: &[(String, Vec<u8>)]| keys.iter().any(|(_, known)| known == key);
        match () {
            () if self.revoked.iter().any(|revoked| revoked == key) => Verdict::Revoked,
            () if holds(&self.known) || holds(&self.known_without_port) => Verdict::Known,
            () if self.known.is_empty() => Verdict::Unknown,
            () => Verdict::Changed,
        }
    }

    /// All algorithms for host keys, those for which a key is on file first: the server picks by our order, and a key
    /// of another type than the one on file would look like a changed one.
    pub fn algorithms(&self) -> String {
        const ALL: &[&str] = &[
            "ssh-ed25519",
            "ecdsa-sha2-nistp256",
            "ecdsa-sha2-nistp384",
            "ecdsa-sha2-nistp521",
            "rsa-sha2-512",
            "rsa-sha2-256",
            "ssh-rsa",
        ];
        let is_known = |algorithm: &&&str| {
            let kind = if algorithm.starts_with("rsa-") { "ssh-rsa" } else { algorithm };
            self.known.iter().chain(&self.known_without_port).any(|(known, _)| known == kind)
        };
        let (mut first, rest): (Vec<&str>, Vec<&str>) = ALL.iter().partition(|algorithm| is_known(algorithm));
        first.extend(rest);
        first.join(",")
    }
}

/// As `ssh-keygen -l` shows it.
pub fn fingerprint(key: &[u8]) -> String {
    let digest = openssl::sha::sha256(key);
    format!("SHA256:{}", encode_block(&digest).trim_end_matches('='))
}

/// The type of a key: its first string.
pub fn key_type(key: &[u8]) -> &str {
    let (length, rest) = key.split_at_checked(4).unwrap_or_default();
    let length = length.try_into().map_or(0, u32::from_be_bytes) as usize;
    rest.get(..length).and_then(|kind| str::from_utf8(kind).ok()).unwrap_or("unknown")
}

fn decode(text: &str) -> Option<Vec<u8>> {
    decode_block(text).ok().filter(|bytes| !bytes.is_empty())
}

fn matches(patterns: &str, name: &str) -> bool {
    if let Some(hashed) = patterns.strip_prefix("|1|") {
        return matches_hash(hashed, name).unwrap_or(false);
    }
    let mut is_match = false;
    for pattern in patterns.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches_wildcards(&pattern.to_lowercase(), name) => return false,
            Some(_) => {}
            None => is_match |= matches_wildcards(&pattern.to_lowercase(), name),
        }
    }
    is_match
}

fn matches_hash(salt_and_hash: &str, name: &str) -> Option<bool> {
    let (salt, hash) = salt_and_hash.split_once('|')?;
    let (salt, hash) = (decode(salt)?, decode(hash)?);
    let key = PKey::hmac(&salt).ok()?;
    let mut signer = Signer::new(MessageDigest::sha1(), &key).ok()?;
    let found = signer.sign_oneshot_to_vec(name.as_bytes()).ok()?;
    Some(found.len() == hash.len() && memcmp::eq(&found, &hash))
}

/// `*` is any number of characters, `?` one. Each `*` is tried from where the last one left off, so the work is at
/// most the product of both lengths.
fn matches_wildcards(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut in_name) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                last_star = Some((at, in_name));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((star, from)) = last_star else { return false };
                last_star = Some((star, from + 1));
                (at, in_name) = (star + 1, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Keys in form only: base64 of the bytes A, B and C.
    const A: &str = "QUFB";
    const B: &str = "QkJC";

    fn verdict(file: &str, host: &str, port: u16) -> Verdict {
        HostKeys::find(file, host, port).check(b"AAA")
    }

    #[test]
    fn a_key_must_be_on_file_for_its_host_and_port() {
        let file = format!("# a remark\nhost,other ssh-ed25519 {A} a comment\n[far]:2222 ssh-rsa {A}\n");
        assert_eq!(verdict(&file, "host", 22), Verdict::Known);
        assert_eq!(verdict(&file, "HOST", 22), Verdict::Known);
        assert_eq!(verdict(&file, "other", 22), Verdict::Known);
        assert_eq!(verdict(&file, "far", 2222), Verdict::Known);
        assert_eq!(verdict(&file, "far", 22), Verdict::Unknown);
        assert_eq!(verdict(&file, "nowhere", 22), Verdict::Unknown);
        assert_eq!(
            verdict(&file, "host", 2222),
            Verdict::Known,
            "a line without port vouches for every port"
        );
        let changed = format!("host ssh-ed25519 {B}\n");
        assert_eq!(verdict(&changed, "host", 22), Verdict::Changed);
        assert_eq!(verdict(&changed, "host", 2222), Verdict::Unknown, "but speaks against none");
        assert_eq!(verdict(&format!("{changed}host ssh-ed25519 {A}"), "host", 22), Verdict::Known);
    }

    #[test]
    fn a_revoked_key_is_refused_even_if_it_is_known_too() {
        let file = format!("host ssh-ed25519 {A}\n@revoked * ssh-ed25519 {A}\n");
        assert_eq!(verdict(&file, "host", 22), Verdict::Revoked);
        let authority = format!("@cert-authority * ssh-ed25519 {A}\n");
        assert_eq!(verdict(&authority, "host", 22), Verdict::Unknown);
    }

    #[test]
    fn a_hashed_name_is_found() {
        // Made by `ssh-keygen -H` of `[backup.example]:2222`.
        let file = format!("|1|5KgG0eTZB76QnLA3uoiRTp3H35Y=|WfsNC62Qt1jNEKSGe8QdTLr8o/A= ssh-ed25519 {A}\n");
        assert_eq!(verdict(&file, "backup.example", 2222), Verdict::Known);
        assert_eq!(verdict(&file, "backup.example", 22), Verdict::Unknown);
        assert_eq!(verdict(&format!("|1|x|y ssh-rsa {A}\n|1| ssh-rsa {A}"), "x", 22), Verdict::Unknown);
    }

    #[test]
    fn wildcards_and_exceptions_count() {
        let file = format!("*.example,!bad.example,192.168.?.1 ssh-ed25519 {A}\n");
        for (host, expected) in [
            ("good.example", Verdict::Known),
            ("bad.example", Verdict::Unknown),
            ("example", Verdict::Unknown),
            ("192.168.7.1", Verdict::Known),
            ("192.168.77.1", Verdict::Unknown),
        ] {
            assert_eq!(verdict(&file, host, 22), expected, "{host}");
        }
    }

    #[test]
    fn the_types_on_file_are_asked_for_first() {
        let rsa = HostKeys::find(&format!("host ssh-rsa {A}"), "host", 22).algorithms();
        assert!(rsa.starts_with("rsa-sha2-512,rsa-sha2-256,ssh-rsa,ssh-ed25519,"), "{rsa}");
        let none = HostKeys::default().algorithms();
        assert!(none.starts_with("ssh-ed25519,") && none.len() == rsa.len(), "{none}");
    }

    #[test]
    fn a_fingerprint_is_written_as_ssh_keygen_writes_it() {
        let key = decode("AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl").unwrap();
        assert_eq!(key_type(&key), "ssh-ed25519");
        assert_eq!(fingerprint(&key), "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
        assert_eq!(key_type(b"\xFF\xFF\xFF\xFFx"), "unknown");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(file in "\\PC{0,200}", host in "[a-z*?\\[\\]|]{0,9}") {
            let _ = HostKeys::find(&file, &host, 2222).check(b"AAA");
        }

        #[test]
        fn a_star_matches_whatever_stands_in_its_place(before in "[ab]{0,4}", middle in "[ab]{0,4}", after in "[ab]{0,4}") {
            let name = format!("{before}{middle}{after}");
            let pattern = format!("{before}*{after}");
            prop_assert!(matches_wildcards(&pattern, &name));
        }
    }
}
