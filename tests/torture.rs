//! pgbak broken on purpose, at length: seeded campaigns. `tests/run.sh --torture` runs them in full; otherwise each
//! is shortened to what fits in every run of the tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "a campaign says its seed and how far it went")]

mod support;

mod torture {
    mod clock;
    mod corpus;
    mod damage;
    mod dice;
    mod hostile;
    mod length;
    mod parsers;
    mod pretender;
    mod secrets;
}
