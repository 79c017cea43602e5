//! The fake backend.
