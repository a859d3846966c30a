//! Private key files: what can be told of one without its passphrase.
//!
//! ```text
//! -----BEGIN OPENSSH PRIVATE KEY-----   base64 of: "openssh-key-v1\0" cipher:string kdf:string options:string
//!                                       count:u32 public:string private:string      (OpenSSH's PROTOCOL.key)
//! -----BEGIN ENCRYPTED PRIVATE KEY-----                                             (PKCS #8)
//! -----BEGIN … PRIVATE KEY-----         with "Proc-Type: 4,ENCRYPTED" if so         (PEM)
//! ```

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use openssl::base64::{decode_block, encode_block};

use super::known_hosts;

/// Far more than any key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A private key, still locked if it has a passphrase.
pub struct PrivateKey {
    pub path: PathBuf,
    pub pem: String,
    pub is_encrypted: bool,
    /// As on the wire; `None` where the file does not show it without its passphrase.
    pub public: Option<Vec<u8>>,
}

impl fmt::Debug for PrivateKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("could not read the key {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },

    #[error("the key {} can be read by others (mode {mode:04o})", path.display())]
    Exposed { path: PathBuf, mode: u32 },

    #[error("{} is not a private key", path.display())]
    NotAKey { path: PathBuf },
}

impl KeyFileError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed { path, .. } => Some(format!("Run `chmod 600 {}`.", path.display())),
            Self::NotAKey { .. } => Some("Make one with `ssh-keygen -t ed25519`.".into()),
            Self::Unreadable { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!("Make one with `ssh-keygen -t ed25519 -N '' -f {}`.", path.display()))
            }
            Self::Unreadable { path, .. } => Some(format!(
                "Give it to the user that runs pgbak, as root: `chown USER {}`.",
                path.display()
            )),
        }
    }
}

impl PrivateKey {
    /// Refuses, as ssh does, a file of ours that others can read.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let unreadable = |source| KeyFileError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 && metadata.uid() == rustix::process::geteuid().as_raw() {
            return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
        let pem = String::from_utf8(bytes).ok().filter(|pem| !pem.contains('\0'));
        pem.and_then(|pem| parse(path, pem)).ok_or_else(|| KeyFileError::NotAKey { path: path.to_owned() })
    }

    /// What lets it in, where the file shows it.
    pub fn authorized_keys_line(&self) -> Option<String> {
        let public = self.public.as_ref()?;
        Some(format!("{} {}", known_hosts::key_type(public), encode_block(public)))
    }
}

fn parse(path: &Path, pem: String) -> Option<PrivateKey> {
    let begin = pem.lines().find(|line| line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY"))?;
    let (is_encrypted, public) = match begin {
        "-----BEGIN OPENSSH PRIVATE KEY-----" => openssh(&pem)?,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----" => (true, None),
        _ => (pem.contains("Proc-Type: 4,ENCRYPTED"), None),
    };
    Some(PrivateKey { path: path.to_owned(), pem, is_encrypted, public })
}

fn openssh(pem: &str) -> Option<(bool, Option<Vec<u8>>)> {
    let lines = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
    let base64: String = lines.take_while(|line| !line.starts_with('-')).map(str::trim).collect();
    let bytes = decode_block(&base64).ok()?;
    let rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let (cipher, rest) = string(rest)?;
    let (_kdf, rest) = string(rest)?;
    let (_options, rest) = string(rest)?;
    let (_count, rest) = rest.split_at_checked(4)?;
    let (public, _) = string(rest)?;
    Some((cipher != b"none", Some(public.to_owned())))
}

fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    /// The envelope of a key; what is sealed in it is nothing.
    fn envelope(cipher: &str) -> String {
        let mut bytes = b"openssh-key-v1\0".to_vec();
        for field in [cipher, "bcrypt", "options"] {
            bytes.extend((field.len() as u32).to_be_bytes());
            bytes.extend(field.as_bytes());
        }
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 6]);
        bytes.extend(b"public");
        let base64 = openssl::base64::encode_block(&bytes);
        let (first, second) = base64.split_at(30);
        let name = "OPENSSH PRIVATE KEY";
        format!("-----BEGIN {name}-----\n{first}\n{second}\n-----END {name}-----\n")
    }

    #[test]
    fn a_key_shows_its_public_half_and_whether_it_is_locked() {
        let plain = parse(Path::new("k"), envelope("none")).unwrap();
        assert!(!plain.is_encrypted && plain.public.as_deref() == Some(b"public"));
        let locked = parse(Path::new("k"), envelope("aes256-ctr")).unwrap();
        assert!(locked.is_encrypted && locked.public.is_some());
        let pem = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
        assert!(parse(Path::new("k"), pem.to_owned()).unwrap().is_encrypted);
        assert!(parse(Path::new("k"), "ssh-ed25519 AAAA a public key\n".to_owned()).is_none());
        assert!(!format!("{plain:?}").contains("BEGIN"));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("id");
        std::fs::write(&path, envelope("none")).unwrap();
        for (mode, is_accepted) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let read = PrivateKey::read(&path);
            assert_eq!(read.is_ok(), is_accepted, "{mode:o}");
            if let Err(error) = read {
                assert_eq!(error.hint().unwrap(), format!("Run `chmod 600 {}`.", path.display()));
            }
        }
        assert!(matches!(
            PrivateKey::read(&scratch.path().join("gone")),
            Err(KeyFileError::Unreadable { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let pem = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{text}\n-----END OPENSSH PRIVATE KEY-----\n");
            let _ = parse(Path::new("k"), pem);
        }
    }
}
