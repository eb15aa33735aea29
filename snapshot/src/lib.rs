//! Snapshot objects of Cutwater.
