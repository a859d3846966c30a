//! Sites, well and unwell.
