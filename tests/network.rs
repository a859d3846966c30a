//! The fixture's own tests: a real OpenSSH server, and a network that can be made bad.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

mod network {
    mod proxy;
    mod sshd;
}
