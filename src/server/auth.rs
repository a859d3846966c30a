//! Authentication: the client's side of a login, as answers to the server's requests.
//!
//! Follows PostgreSQL's documentation, "Start-up" and "SASL Authentication", and
//! `src/interfaces/libpq/fe-auth.c` (`pg_fe_sendauth`). Pure: bytes in, bytes out. Trust, password, MD5 and
//! SCRAM-SHA-256(-PLUS) are done; GSSAPI, SSPI and what else there may be are refused by name.
//!
//! What always holds: a login that has begun SCRAM ends only when the server, too, has proven that it knows the
//! password; with `channel_binding=require` nothing but SCRAM-SHA-256-PLUS answers, and never with the password
//! itself.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};

use super::error::{Error, Result};
use super::messages::{self, Fields, Malformed};
use super::settings::{ChannelBinding, Password};

/// One login in progress.
pub struct Authenticator<'a> {
    pub server: &'a str,
    pub user: &'a str,
    pub password: Option<Password>,
    pub channel_binding: ChannelBinding,
    /// The TLS connection's `tls-server-end-point`, if there is such a thing.
    pub server_end_point: Option<Vec<u8>>,
    pub progress: Progress,
}

/// How far SCRAM has come.
pub enum Progress {
    NotBegun,
    InScram {
        scram: Box<ScramSha256>,
        is_bound: bool,
    },
    /// The server has proven that it knows the password.
    Proven {
        is_bound: bool,
    },
}

pub enum Answer {
    Send(Vec<u8>),
    /// Nothing to say yet.
    Wait,
    /// We are in.
    Done,
}

impl Authenticator<'_> {
    /// Answers an authentication request, which is the body of a message with tag `R`.
    pub fn answer(&mut self, body: &[u8]) -> Result<Answer> {
        let mut fields = Fields::new(body);
        let request = fields.i32().map_err(|malformed| self.malformed(malformed))?;
        match request {
            0 => self.finish(),
            3 => {
                let password = self.revealed_password()?;
                Ok(password_message(password.reveal()))
            }
            5 => {
                let salt = fields.bytes(4).map_err(|malformed| self.malformed(malformed))?;
                let salt = salt.try_into().expect("four bytes were asked for");
                let password = self.revealed_password()?;
                let hash = md5_hash(self.user.as_bytes(), password.reveal().as_bytes(), salt);
                Ok(password_message(&hash))
            }
            10 => self.begin_scram(fields),
            11 => self.continue_scram(fields.rest()),
            12 => self.finish_scram(fields.rest()),
            other => {
                let name = match other {
                    2 => "Kerberos V5".to_owned(),
                    6 => "SCM credential".to_owned(),
                    7 | 8 => "GSSAPI".to_owned(),
                    9 => "SSPI".to_owned(),
                    number => format!("unknown (number {number})"),
                };
                Err(self.unsupported(name))
            }
        }
    }

    fn finish(&self) -> Result<Answer> {
        match (&self.progress, self.channel_binding) {
            (Progress::InScram { .. }, _) => Err(self.protocol("a welcome before SCRAM was complete")),
            (Progress::Proven { is_bound: true }, _) => Ok(Answer::Done),
            (_, ChannelBinding::Require) => Err(self.binding_missing()),
            (Progress::NotBegun | Progress::Proven { .. }, _) => Ok(Answer::Done),
        }
    }

    fn begin_scram(&mut self, mut mechanisms: Fields<'_>) -> Result<Answer> {
        let (mut plain, mut plus, mut others) = (false, false, Vec::new());
        loop {
            match mechanisms.text().map_err(|malformed| self.malformed(malformed))? {
                b"" => break,
                name if name == sasl::SCRAM_SHA_256.as_bytes() => plain = true,
                name if name == sasl::SCRAM_SHA_256_PLUS.as_bytes() => plus = true,
                name => others.push(String::from_utf8_lossy(name).into_owned()),
            }
        }
        let end_point = match self.channel_binding {
            ChannelBinding::Disable => None,
            ChannelBinding::Prefer | ChannelBinding::Require => self.server_end_point.take(),
        };
        let (mechanism, binding) = match end_point {
            Some(end_point) if plus => {
                (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(end_point))
            }
            _ if self.channel_binding == ChannelBinding::Require => return Err(self.binding_missing()),
            // "We could, but believe that you cannot": somebody who took PLUS out of the list is found out.
            Some(_) if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            None if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
            _ => return Err(self.unsupported(format!("SASL ({})", others.join(", ")))),
        };
        let password = self.password.clone().ok_or_else(|| self.password_missing())?;
        let scram = ScramSha256::new(password.reveal().as_bytes(), binding);
        let length = u32::try_from(scram.message().len()).expect("SCRAM's first message is short");
        let answer =
            messages::request(b'p', &[mechanism.as_bytes(), b"\0", &length.to_be_bytes(), scram.message()]);
        let is_bound = mechanism == sasl::SCRAM_SHA_256_PLUS;
        self.progress = Progress::InScram { scram: Box::new(scram), is_bound };
        Ok(Answer::Send(answer))
    }

    fn continue_scram(&mut self, challenge: &[u8]) -> Result<Answer> {
        let Progress::InScram { scram, .. } = &mut self.progress else {
            return Err(self.protocol("a SASL challenge without SASL"));
        };
        let updated = scram.update(challenge).map(|()| scram.message().to_vec());
        let answer = updated.map_err(|error| self.not_authentic(&error.to_string()))?;
        Ok(Answer::Send(messages::request(b'p', &[&answer])))
    }

    fn finish_scram(&mut self, proof: &[u8]) -> Result<Answer> {
        let Progress::InScram { scram, is_bound } = &mut self.progress else {
            return Err(self.protocol("a SASL outcome without SASL"));
        };
        let (outcome, is_bound) = (scram.finish(proof), *is_bound);
        outcome.map_err(|error| self.not_authentic(&error.to_string()))?;
        self.progress = Progress::Proven { is_bound };
        Ok(Answer::Wait)
    }

    /// The password, for methods that show it (or a hash of it) to whoever asks.
    fn revealed_password(&self) -> Result<Password> {
        match self.channel_binding {
            ChannelBinding::Require => Err(self.binding_missing()),
            ChannelBinding::Disable | ChannelBinding::Prefer => {
                self.password.clone().ok_or_else(|| self.password_missing())
            }
        }
    }

    fn malformed(&self, _: Malformed) -> Error {
        self.protocol("a malformed authentication request")
    }

    fn protocol(&self, found: &str) -> Error {
        Error::Protocol { server: self.server.to_owned(), found: found.to_owned() }
    }

    fn binding_missing(&self) -> Error {
        Error::ChannelBindingMissing { server: self.server.to_owned() }
    }

    fn password_missing(&self) -> Error {
        Error::PasswordMissing { server: self.server.to_owned(), user: self.user.to_owned() }
    }

    fn unsupported(&self, method: String) -> Error {
        Error::UnsupportedAuthentication { server: self.server.to_owned(), method }
    }

    fn not_authentic(&self, reason: &str) -> Error {
        let (server, user) = (self.server.to_owned(), self.user.to_owned());
        Error::ServerNotAuthentic { server, user, reason: reason.to_owned() }
    }
}

/// A PasswordMessage; no password holds a zero byte.
fn password_message(text: &str) -> Answer {
    Answer::Send(messages::request(b'p', &[text.as_bytes(), b"\0"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCRAM: &[u8] = b"\0\0\0\x0ASCRAM-SHA-256\0\0";
    const SCRAM_AND_PLUS: &[u8] = b"\0\0\0\x0ASCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

    fn authenticator(channel_binding: ChannelBinding, end_point: Option<&[u8]>) -> Authenticator<'static> {
        Authenticator {
            server: "server",
            user: "me",
            password: Some(Password::new("secret".to_owned())),
            channel_binding,
            server_end_point: end_point.map(<[u8]>::to_vec),
            progress: Progress::NotBegun,
        }
    }

    fn sent(authenticator: &mut Authenticator<'_>, body: &[u8]) -> Vec<u8> {
        match authenticator.answer(body) {
            Ok(Answer::Send(bytes)) => bytes,
            Ok(Answer::Wait | Answer::Done) => panic!("nothing was sent"),
            Err(error) => panic!("{error}"),
        }
    }

    fn refused(authenticator: &mut Authenticator<'_>, body: &[u8]) -> Error {
        authenticator.answer(body).err().expect("must be refused")
    }

    #[test]
    fn a_password_is_hashed_when_the_server_asks_for_md5() {
        let mut login = authenticator(ChannelBinding::Prefer, None);
        let answer = sent(&mut login, b"\0\0\0\x05abcd");
        // concat('md5', md5(concat(md5('secretme'), 'abcd')))
        assert_eq!(answer, b"p\0\0\0\x28md5144b723776673e7e3ec447c5b47dd7a5\0");
        assert_eq!(sent(&mut login, b"\0\0\0\x03"), b"p\0\0\0\x0Bsecret\0");
    }

    #[test]
    fn channel_binding_is_used_where_both_sides_can() {
        use ChannelBinding::*;
        let first = |binding, end_point, offer: &[u8]| {
            let answer = sent(&mut authenticator(binding, end_point), offer);
            let text = String::from_utf8_lossy(&answer[5..]).into_owned();
            let (mechanism, rest) = text.split_once('\0').unwrap();
            let header = rest[4..].split(',').next().unwrap().to_owned();
            (mechanism.to_owned(), header)
        };
        let pair = |mechanism: &str, header: &str| (mechanism.to_owned(), header.to_owned());
        let bound = pair("SCRAM-SHA-256-PLUS", "p=tls-server-end-point");
        assert_eq!(first(Prefer, Some(b"x"), SCRAM_AND_PLUS), bound);
        assert_eq!(first(Require, Some(b"x"), SCRAM_AND_PLUS), bound);
        assert_eq!(first(Prefer, Some(b"x"), SCRAM), pair("SCRAM-SHA-256", "y"));
        assert_eq!(first(Prefer, None, SCRAM_AND_PLUS), pair("SCRAM-SHA-256", "n"));
        assert_eq!(first(Disable, Some(b"x"), SCRAM_AND_PLUS), pair("SCRAM-SHA-256", "n"));
    }

    #[test]
    fn required_channel_binding_answers_nothing_weaker() {
        let required = |end_point| authenticator(ChannelBinding::Require, end_point);
        let requests: [&[u8]; 4] = [b"\0\0\0\0", b"\0\0\0\x03", b"\0\0\0\x05abcd", SCRAM];
        for request in requests {
            let error = refused(&mut required(Some(b"x")), request);
            assert!(matches!(error, Error::ChannelBindingMissing { .. }), "{error}");
        }
        let error = refused(&mut required(None), SCRAM_AND_PLUS);
        assert!(matches!(error, Error::ChannelBindingMissing { .. }), "{error}");
    }

    #[test]
    fn a_server_cannot_skip_its_own_proof() {
        let mut login = authenticator(ChannelBinding::Prefer, None);
        sent(&mut login, SCRAM);
        assert!(matches!(refused(&mut login, b"\0\0\0\0"), Error::Protocol { .. }));
        let forged = refused(&mut login, b"\0\0\0\x0Br=other,s=QUJD,i=4096");
        assert!(matches!(forged, Error::ServerNotAuthentic { .. }), "{forged}");
        let before = refused(&mut authenticator(ChannelBinding::Prefer, None), b"\0\0\0\x0Cv=AAAA");
        assert!(matches!(before, Error::Protocol { .. }), "{before}");
    }

    #[test]
    fn other_methods_are_refused_by_name() {
        for (number, name) in [(2, "Kerberos V5"), (7, "GSSAPI"), (9, "SSPI"), (77, "unknown (number 77)")] {
            let error = refused(&mut authenticator(ChannelBinding::Prefer, None), &[0, 0, 0, number]);
            assert!(error.to_string().contains(name), "{error}");
        }
        let oauth = refused(&mut authenticator(ChannelBinding::Prefer, None), b"\0\0\0\x0AOAUTHBEARER\0\0");
        assert!(oauth.to_string().contains("OAUTHBEARER"), "{oauth}");
    }

    proptest! {
        #[test]
        fn any_request_is_answered_or_refused(requests: Vec<(u8, Vec<u8>)>) {
            let mut login = authenticator(ChannelBinding::Prefer, None);
            for (number, rest) in requests {
                let _ = login.answer(&[&[0, 0, 0, number % 16], &rest[..]].concat());
            }
        }
    }
}
