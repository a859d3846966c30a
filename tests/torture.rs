//! Broken on purpose: death, power loss, failing disks, bad networks, crowds, damage. Long with `PGBAK_TORTURE` set.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

mod torture {
    mod campaign;
    mod concurrency;
    mod death;
    mod disk;
    mod length;
    mod network;
    mod power;
    mod scene;
    mod strace;
}
