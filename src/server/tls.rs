//! TLS as the connection settings want it: one place for the replication client and the SQL session.
//!
//! Follows PostgreSQL `src/interfaces/libpq/fe-secure-openssl.c` (`initialize_SSL`): wherever root certificates are
//! given, the server's certificate has to be signed by one of them, also with `sslmode=require` and weaker ones;
//! without them nothing is checked, and `verify-ca` and `verify-full` fail. Only `verify-full` checks the name.
//!
//! A setting that cannot be kept to is an error, never a weaker connection.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    ConnectConfiguration, SslConnector, SslConnectorBuilder, SslFiletype, SslMethod, SslRef, SslVerifyMode,
    SslVersion,
};
use openssl::x509::X509;
use openssl::x509::store::{X509Lookup, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;

use super::settings::{RootCertificates, SslMode, TlsSettings, TlsVersion};

/// Why the settings for TLS cannot be kept to.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("sslmode={mode} needs root certificates, and none are given")]
    NoRoots { mode: &'static str },
    #[error("the {what} {} cannot be used: {reason}", .path.display())]
    File { what: &'static str, path: PathBuf, reason: String },
    #[error("the private key {} has no place of its own: sslkey is not given", .certificate.display())]
    NoKey { certificate: PathBuf },
    #[error("the private key {} can be read by others", .path.display())]
    KeyReadableByOthers { path: PathBuf },
    #[error("{0}")]
    Library(#[from] ErrorStack),
}

impl TlsError {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoRoots { .. } => {
                "Put the certificate authority's certificate into ~/.postgresql/root.crt or \
                name it with sslrootcert; `sslrootcert=system` takes those that the operating system trusts."
                    .to_owned()
            }
            Self::KeyReadableByOthers { path } => format!(
                "Run `chmod 0600 {}`; a key that belongs to root may be readable by its group (0640).",
                path.display()
            ),
            Self::NoKey { .. } => {
                "Put the key into ~/.postgresql/postgresql.key or name it with sslkey.".to_owned()
            }
            Self::File { .. } | Self::Library(_) => return None,
        })
    }
}

/// A connector with the settings' certificates, keys and rules.
pub fn connector(settings: &TlsSettings) -> Result<SslConnector, TlsError> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(version(settings.version_min)))?;
    builder.set_max_proto_version(settings.version_max.map(version))?;
    // One system call for a record instead of two.
    builder.set_read_ahead(true);
    set_verification(&mut builder, settings)?;
    if let Some(certificate) = &settings.certificate {
        set_client_certificate(&mut builder, settings, certificate)?;
    }
    Ok(builder.build())
}

/// What has to be said for each connection rather than once.
pub fn configure(configuration: &mut ConnectConfiguration, settings: &TlsSettings) {
    configuration.set_verify_hostname(settings.mode == SslMode::VerifyFull);
    configuration.set_use_server_name_indication(settings.server_name_indication);
}

/// The `tls-server-end-point` channel binding of RFC 5929: a digest of the server's certificate.
///
/// `None` when the certificate's signature names no digest (Ed25519, RSA-PSS): then there is no such binding.
pub fn server_end_point(ssl: &SslRef) -> Option<Vec<u8>> {
    let certificate = ssl.peer_certificate()?;
    let signature = certificate.signature_algorithm().object().nid().signature_algorithms()?;
    let digest = match signature.digest {
        Nid::UNDEF => return None,
        Nid::MD5 | Nid::SHA1 => MessageDigest::sha256(),
        digest => MessageDigest::from_nid(digest)?,
    };
    certificate.digest(digest).ok().map(|digest| digest.to_vec())
}

fn version(version: TlsVersion) -> SslVersion {
    match version {
        TlsVersion::V1_0 => SslVersion::TLS1,
        TlsVersion::V1_1 => SslVersion::TLS1_1,
        TlsVersion::V1_2 => SslVersion::TLS1_2,
        TlsVersion::V1_3 => SslVersion::TLS1_3,
    }
}

fn set_verification(builder: &mut SslConnectorBuilder, settings: &TlsSettings) -> Result<(), TlsError> {
    let mut store = X509StoreBuilder::new()?;
    match (&settings.roots, settings.mode) {
        (RootCertificates::System, _) => store.set_default_paths()?,
        (RootCertificates::File(path), _) => {
            for certificate in read_roots(path)? {
                store.add_cert(certificate)?;
            }
        }
        (RootCertificates::None, SslMode::VerifyCa) => return Err(TlsError::NoRoots { mode: "verify-ca" }),
        (RootCertificates::None, SslMode::VerifyFull) => {
            return Err(TlsError::NoRoots { mode: "verify-full" });
        }
        (RootCertificates::None, _) => {
            builder.set_verify(SslVerifyMode::NONE);
            return Ok(());
        }
    }
    add_revocations(&mut store, settings)?;
    builder.set_cert_store(store.build());
    builder.set_verify(SslVerifyMode::PEER);
    Ok(())
}

fn read_roots(path: &Path) -> Result<Vec<X509>, TlsError> {
    let unusable =
        |reason: String| TlsError::File { what: "root certificate file", path: path.to_owned(), reason };
    let content = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let roots = X509::stack_from_pem(&content).map_err(|error| unusable(error.to_string()))?;
    if roots.is_empty() {
        return Err(unusable("it holds no certificate in PEM form".to_owned()));
    }
    Ok(roots)
}

fn add_revocations(store: &mut X509StoreBuilder, settings: &TlsSettings) -> Result<(), TlsError> {
    if let Some(path) = &settings.revocations {
        let load = store.add_lookup(X509Lookup::file())?.load_crl_file(path, SslFiletype::PEM);
        load.map_err(|error| TlsError::File {
            what: "certificate revocation list",
            path: path.clone(),
            reason: error.to_string(),
        })?;
    }
    if let Some(path) = &settings.revocations_directory {
        let unusable = |reason: String| TlsError::File {
            what: "directory of certificate revocation lists",
            path: path.clone(),
            reason,
        };
        let name = path.to_str().ok_or_else(|| unusable("its name is not UTF-8".to_owned()))?;
        if !path.is_dir() {
            return Err(unusable("there is no such directory".to_owned()));
        }
        store.add_lookup(X509Lookup::hash_dir())?.add_dir(name, SslFiletype::PEM)?;
    }
    if settings.revocations.is_some() || settings.revocations_directory.is_some() {
        store.set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL)?;
    }
    Ok(())
}

fn set_client_certificate(
    builder: &mut SslConnectorBuilder,
    settings: &TlsSettings,
    certificate: &Path,
) -> Result<(), TlsError> {
    builder.set_certificate_chain_file(certificate).map_err(|error| TlsError::File {
        what: "client certificate",
        path: certificate.to_owned(),
        reason: error.to_string(),
    })?;
    let key = settings.key.as_ref().ok_or_else(|| TlsError::NoKey { certificate: certificate.to_owned() })?;
    builder.set_private_key(&*read_key(key, settings)?)?;
    builder.check_private_key()?;
    Ok(())
}

fn read_key(path: &Path, settings: &TlsSettings) -> Result<PKey<Private>, TlsError> {
    let unusable = |reason: String| TlsError::File { what: "private key", path: path.to_owned(), reason };
    let metadata = fs::metadata(path).map_err(|error| unusable(error.to_string()))?;
    if !metadata.is_file() {
        return Err(unusable("it is not a plain file".to_owned()));
    }
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(TlsError::KeyReadableByOthers { path: path.to_owned() });
    }
    let content = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let passphrase = settings.key_password.as_ref().map(|password| password.reveal().as_bytes());
    // Without this callback OpenSSL would ask for the passphrase on the terminal.
    let mut asked_for_passphrase = false;
    let from_pem = PKey::private_key_from_pem_callback(&content, |buffer| {
        asked_for_passphrase = true;
        let passphrase = passphrase.filter(|passphrase| passphrase.len() <= buffer.len()).unwrap_or_default();
        buffer[..passphrase.len()].copy_from_slice(passphrase);
        Ok(passphrase.len())
    });
    from_pem.or_else(|error| PKey::private_key_from_der(&content).map_err(|_| error)).map_err(|error| {
        unusable(match (asked_for_passphrase, passphrase) {
            (true, None) => "it is encrypted, and sslpassword is not given".to_owned(),
            (true, Some(_)) => "sslpassword does not decrypt it".to_owned(),
            (false, _) => error.to_string(),
        })
    })
}
