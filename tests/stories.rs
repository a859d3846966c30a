//! What pgbak does for an operator, told on real clusters. Each test is one story about one site.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

mod stories {
    mod archive;
    mod backup;
    mod bad_input;
    mod container;
    mod dying;
    mod fixture;
    mod network;
    mod prune;
    mod restore;
    mod slow_link;
    mod ssh;
    mod status;
    mod stream;
    mod verify;
    mod versions;
    mod wal_sync;
}
