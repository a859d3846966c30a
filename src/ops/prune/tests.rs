//! Repositories in memory, pruned by runs that die.
