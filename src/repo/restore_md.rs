//! The page that lies in every repository: how to restore without pgbak.

pub const TEXT: &str = include_str!("RESTORE.md");
