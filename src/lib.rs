//! pgbak keeps a PostgreSQL cluster restorable.

pub mod catalog;
pub mod cli;
pub mod config;
pub mod interrupt;
pub mod meter;
pub mod ops;
pub mod pg;
pub mod pipe;
pub mod plan;
pub mod repo;
pub mod server;
pub mod storage;
