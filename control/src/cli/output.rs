//! The two streams of a command: results on standard output, errors on standard error.

use std::io::{self, Write};

use super::failure::Failure;

/// Writes a result and a line end. A reader that has closed the pipe has seen enough.
///
/// # Errors
/// [`Failure::Output`] for any other reason.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Writes something that is no result, on standard error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes what happened and where, and below it what to do.
pub fn print_failure(failure: &Failure) {
    // If standard error is closed too, the exit code is all that is left.
    match failure {
        Failure::Interrupted { what, .. } if what.is_empty() => {}
        Failure::Interrupted { what, .. } => note(&format!("interrupted: {what}")),
        _ => note(&format!("error: {failure}\n  {}", failure.remedy())),
    }
}
