//! The `cutwater` binary: hands the arguments and the environment to [`cli`], which owns everything
//! that a program does and a library must not: printing, reading the environment, handling signals
//! and choosing the exit code.

mod cli;
mod interrupt;
mod shutdown;
mod telemetry;

use std::process::ExitCode;

/// Shards allocate and free small values all the time, each on its own thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(std::env::args_os(), std::env::vars_os())
}
