//! The `cutwater` binary.
fn main() {}
