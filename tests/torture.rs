//! pgbak broken on purpose, at length: seeded campaigns. `tests/run.sh --torture` runs them in full; otherwise each
//! is shortened to what fits in every run of the tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a campaign says its seed and how far it went")]

mod support;

mod torture {
    mod campaign;
    mod clock;
    mod concurrency;
    mod corpus;
    mod damage;
    mod death;
    mod deed;
    mod dice;
    mod disk;
    mod hostile;
    mod interposer;
    mod length;
    mod network;
    mod parsers;
    mod power;
    mod pretender;
    mod scene;
    mod secrets;
    mod short;
    mod strace;
}
