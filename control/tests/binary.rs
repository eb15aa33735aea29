//! The binary runs at all. Being an integration test of the package, this also makes
//! `cargo test --workspace` build the binary that the end-to-end tests of `bench` drive.

use std::process::Command;

#[test]
fn the_binary_tells_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_cutwater")).arg("--version").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
