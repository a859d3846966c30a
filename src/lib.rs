//! pgbak keeps a PostgreSQL cluster restorable: base backups over the replication protocol, continuous WAL
//! archiving, and recovery to any moment in between.
//!
//! # The layers
//!
//! Each module uses only what is to the right of it; `tests/tidy.rs` holds the arrows.
//!
//! ```text
//! main ─► cli ─► ops ─┬─► plan ──────────► catalog ─► pg
//!                     ├─► repo ─┬─► catalog
//!                     │         ├─► storage
//!                     │         └─► pipe
//!                     ├─► server ──────────────────► pg
//!                     └─► config
//! ```
//!
//! | module | owns | knows nothing of |
//! |---|---|---|
//! | [`pg`] | PostgreSQL's own words as types: LSN, timeline, segment names, WAL pages, control file, manifest | I/O, repositories |
//! | [`storage`] | bytes under keys: five verbs, a written contract, one suite that every backend passes | PostgreSQL, compression |
//! | [`pipe`] | bytes through stages: digest, framed parallel compression, tar, fan-out | storage, PostgreSQL |
//! | [`server`] | a running PostgreSQL: connection settings, replication client, SQL session | repositories |
//! | [`catalog`] | what one repository holds, as plain values | how it is stored |
//! | [`plan`] | decisions as pure functions: catalog, request and `now` in, plan out | I/O |
//! | [`repo`] | what keys mean: layout, writing, reading, leases | commands |
//! | [`digest_line`] | the last line of a stored text, which vouches for those above it | what the text says |
//! | [`config`] | the configuration as checked values | what is done with it |
//! | [`ops`] | one module per command: carries the plan out, returns a report, prints nothing | flags, output formats |
//! | [`cli`] | flags, words, rendering, exit codes | storage, server |
//!
//! Everything is synchronous: threads and bounded channels. The clock, the environment and the standard streams
//! enter in `main`. The wish to stop travels down in an [`interrupt::Interrupt`], progress up in a [`meter::Meter`].
//!
//! # Glossary
//!
//! * **Base backup**: a copy of the data directory and all tablespaces, taken while the server runs, with the WAL
//!   that makes it consistent.
//! * **Cluster**: what one `initdb` made and one server runs; known for life by its *system identifier*.
//! * **LSN**: a byte position in the WAL.
//! * **Segment**: one of the files of equal size, usually 16 MiB, into which the WAL is cut.
//! * **Timeline**: a branch of a cluster's history; a promotion starts a new one, and its *history file* says where
//!   it left the old.
//! * **Recovery target**: where recovery stops: a time, an LSN, a transaction, a restore point.
//! * **Manifest**: the server's own list of a backup's files, with sizes and checksums.
//! * **Repository**: a place that holds one cluster's backups and WAL. **Object**: one file in it, under its *key*.
//! * **Record**: `backup_info.toml`, written last; a backup exists if and only if it does.
//! * **Lease**: what tells a backup in progress from what a dead run left.
//! * **Frame**: a piece of an archive that is compressed on its own.
//! * **Finding**: something that is wrong and does not stop the command.

// Those links lead on where the pages are made with --document-private-items.
#![allow(rustdoc::private_intra_doc_links)]

pub mod catalog;
pub mod cli;
pub mod config;
pub mod digest_line;
pub mod interrupt;
pub mod meter;
pub mod ops;
pub mod pg;
pub mod pipe;
pub mod plan;
pub mod repo;
pub mod server;
pub mod storage;
