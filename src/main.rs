//! The process: hands the clock, the environment and the standard streams to [`pgbak::cli`].

fn main() {}
