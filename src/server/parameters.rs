//! libpq's connection parameters: which exist, which variable sets them, and what pgbak makes of them.
//!
//! Follows PostgreSQL 18's `src/interfaces/libpq/fe-connect.c` (`PQconninfoOptions`).

/// One of libpq's parameters.
#[derive(Debug)]
pub struct Parameter {
    pub keyword: &'static str,
    /// The environment variable that gives its value when nothing nearer does; empty for none.
    pub variable: &'static str,
    pub treatment: Treatment,
}

#[derive(Debug)]
pub enum Treatment {
    /// pgbak does what it says.
    Used,
    /// It makes no difference to what pgbak does.
    Ignored,
    /// Only these values and the empty one can be kept to; to ignore any other would break what it promises.
    Only(&'static [&'static str]),
}

use Treatment::{Ignored, Only, Used};

const fn parameter(keyword: &'static str, variable: &'static str, treatment: Treatment) -> Parameter {
    Parameter { keyword, variable, treatment }
}

pub const PARAMETERS: &[Parameter] = &[
    parameter("service", "PGSERVICE", Used),
    parameter("servicefile", "PGSERVICEFILE", Used),
    parameter("host", "PGHOST", Used),
    parameter("hostaddr", "PGHOSTADDR", Used),
    parameter("port", "PGPORT", Used),
    parameter("user", "PGUSER", Used),
    parameter("password", "PGPASSWORD", Used),
    parameter("passfile", "PGPASSFILE", Used),
    parameter("dbname", "PGDATABASE", Used),
    parameter("options", "PGOPTIONS", Used),
    parameter("application_name", "PGAPPNAME", Used),
    parameter("fallback_application_name", "", Ignored),
    parameter("connect_timeout", "PGCONNECT_TIMEOUT", Used),
    parameter("keepalives", "", Used),
    parameter("keepalives_idle", "", Used),
    parameter("keepalives_interval", "", Used),
    parameter("keepalives_count", "", Used),
    parameter("tcp_user_timeout", "", Used),
    parameter("target_session_attrs", "PGTARGETSESSIONATTRS", Used),
    parameter("sslmode", "PGSSLMODE", Used),
    parameter("sslrootcert", "PGSSLROOTCERT", Used),
    parameter("sslcert", "PGSSLCERT", Used),
    parameter("sslkey", "PGSSLKEY", Used),
    parameter("sslpassword", "", Used),
    parameter("sslcertmode", "PGSSLCERTMODE", Only(&["allow", "disable"])),
    parameter("sslcrl", "PGSSLCRL", Used),
    parameter("sslcrldir", "PGSSLCRLDIR", Used),
    parameter("sslsni", "PGSSLSNI", Used),
    parameter("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Used),
    parameter("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Used),
    parameter("channel_binding", "PGCHANNELBINDING", Used),
    // The encoding is always UTF-8, the protocol always version 3.0, the hosts are tried in the order given.
    parameter("client_encoding", "PGCLIENTENCODING", Ignored),
    parameter("max_protocol_version", "PGMAXPROTOCOLVERSION", Ignored),
    parameter("load_balance_hosts", "PGLOADBALANCEHOSTS", Ignored),
    parameter("replication", "", Ignored),
    // Without GSSAPI these have nothing to say; `gssencmode=require` has.
    parameter("gssencmode", "PGGSSENCMODE", Only(&["disable", "prefer"])),
    parameter("gssdelegation", "PGGSSDELEGATION", Ignored),
    parameter("gsslib", "PGGSSLIB", Ignored),
    parameter("krbsrvname", "PGKRBSRVNAME", Ignored),
    parameter("sslcompression", "PGSSLCOMPRESSION", Ignored),
    parameter("sslkeylogfile", "", Ignored),
    parameter("sslnegotiation", "PGSSLNEGOTIATION", Only(&["postgres"])),
    parameter("min_protocol_version", "PGMINPROTOCOLVERSION", Only(&["3.0"])),
    parameter("require_auth", "PGREQUIREAUTH", Only(&[])),
    parameter("requirepeer", "PGREQUIREPEER", Only(&[])),
    parameter("scram_client_key", "", Only(&[])),
    parameter("scram_server_key", "", Only(&[])),
    parameter("oauth_issuer", "", Only(&[])),
    parameter("oauth_client_id", "", Only(&[])),
    parameter("oauth_client_secret", "", Only(&[])),
    parameter("oauth_scope", "", Only(&[])),
];

pub fn find(keyword: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.keyword == keyword)
}

/// The known keyword that `keyword` looks most like, if any does.
pub fn nearest(keyword: &str) -> Option<&'static str> {
    // Long words are far from all others.
    PARAMETERS
        .iter()
        .filter(|_| keyword.len() <= 64)
        .map(|parameter| (strsim::levenshtein(keyword, parameter.keyword), parameter.keyword))
        .filter(|&(distance, known)| distance <= known.len() / 3)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen_are_recognised() {
        assert_eq!(nearest("hots"), None);
        assert_eq!(nearest("sslmod"), Some("sslmode"));
        assert_eq!(nearest("aplication_name"), Some("application_name"));
        assert_eq!(nearest("database"), None);
        assert_eq!(nearest(&"x".repeat(1000)), None);
    }
}
