//! The real binary on a machine that does not let it: it says what is missing in one sentence, and
//! ends.

use std::process::{Command, Output};
use std::time::Duration;

use cutwater_bench::{server, tools};

/// How long a start that is refused may take.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);

/// Forbids io_uring_setup(2) (425 on every architecture) with EPERM, as a container's seccomp
/// profile does, and becomes the program that the arguments name.
const WITHOUT_IO_URING: &str = r"
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
filters = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *step) for step in code))
program = ctypes.create_string_buffer(struct.pack('@HP', len(code), ctypes.addressof(filters)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit(99)
os.execv(sys.argv[1], sys.argv[1:])
";

/// Starts a server by another program, and gives what it ended with.
fn serve_by(launcher: &str, arguments: &[&str]) -> std::io::Result<Output> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(launcher);
    tools::hide_variables(&mut command);
    command.args(arguments).arg(server::binary()?).args(["serve", "--port", "0", "--data-dir"]);
    tools::run(command.arg(dir.path().join("data")), REFUSAL_LIMIT)
}

/// One sentence, after `error:` or the like, and nothing of a start.
fn assert_refused(output: &Output, sentence: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{stderr}");
    assert!(stderr.contains(sentence), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn too_little_locked_memory() {
    if server::is_stand_in() {
        return;
    }
    let output = serve_by("sh", &["-c", "ulimit -l 64 && exec \"$@\"", "sh"]).unwrap();
    assert_refused(&output, "Cutwater needs to lock 512 KiB of memory, and the limit is 64 KiB");
}

#[test]
fn io_uring_that_a_seccomp_filter_forbids() {
    if server::is_stand_in() {
        return;
    }
    let output = match serve_by("python3", &["-c", WITHOUT_IO_URING]) {
        Err(error) => {
            return tools::skip("io_uring_that_a_seccomp_filter_forbids", &error.to_string());
        }
        Ok(output) if output.status.code() == Some(99) => {
            return tools::skip(
                "io_uring_that_a_seccomp_filter_forbids",
                "no seccomp filters here",
            );
        }
        Ok(output) => output,
    };
    assert_refused(&output, "io_uring is not permitted here (Operation not permitted");
    assert_refused(&output, "set the sysctl kernel.io_uring_disabled to 0");
}
