//! The request to stop: SIGTERM or SIGINT. The first one stops the server in order; a second one
//! ends the process at once, for a stop that takes too long.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// What a shell adds to a signal's number to make an exit code.
pub const EXIT_CODE_BASE: i32 = 128;

/// Listens from now on, on the current tokio runtime. The future completes at the first signal;
/// one that arrives while nobody awaits it is not lost.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn requested() -> io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::install()?;
    let (request, requested) = oneshot::channel();
    tokio::spawn(async move {
        let first = signals.next().await;
        tracing::info!(signal = first.as_raw_value(), "stopping; a second signal ends at once");
        // Nobody waits any more if the server is ending by itself; then there is only the second.
        let _ = request.send(());
        let second = signals.next().await;
        tracing::warn!(signal = second.as_raw_value(), "ended by a second signal");
        end_at_once(second);
    });
    Ok(async {
        // The task holds its end until it has sent, so an error means that the runtime is ending.
        let _ = requested.await;
    })
}

/// Ends the process as the signal would have.
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "a second signal is the wish not to wait for anything"
)]
pub fn end_at_once(signal: SignalKind) -> ! {
    std::process::exit(EXIT_CODE_BASE + signal.as_raw_value())
}

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them over, on the current tokio runtime.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn install() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next of either.
    pub async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Lines};
    use std::process::{Child, ChildStdout, Command, Stdio};

    use super::*;

    /// Set for the child of the test below.
    const CHILD_VARIABLE: &str = "SHUTDOWN_TEST_CHILD";

    fn wait_for(lines: &mut Lines<BufReader<ChildStdout>>, word: &str) {
        assert!(lines.any(|line| line.unwrap().ends_with(word)), "no {word}");
    }

    fn kill(signal: &str, child: &Child) {
        let command = format!("kill -{signal} {}", child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }

    #[test]
    fn the_first_signal_requests_and_the_second_ends() {
        for (first, second, code) in [("TERM", "INT", 130), ("INT", "TERM", 143)] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "shutdown::tests::child", "--ignored", "--nocapture"])
                .env(CHILD_VARIABLE, "yes")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // Waiting for the child would close it, and the child end by itself.
            let _stdin = child.stdin.take();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            wait_for(&mut lines, "listening");
            kill(first, &child);
            wait_for(&mut lines, "requested");
            kill(second, &child);
            assert_eq!(child.wait().unwrap().code(), Some(code));
        }
    }

    #[test]
    #[ignore = "run by the test above, as a process of its own"]
    #[expect(clippy::disallowed_methods, reason = "tells the child from a run of all tests")]
    fn child() {
        if std::env::var_os(CHILD_VARIABLE).is_none() {
            return;
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let requested = requested().unwrap();
            println!("listening");
            requested.await;
            println!("requested");
            // A stop that takes for ever; but not longer than the parent lives.
            tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new()))
                .await
                .unwrap()
                .unwrap();
        });
    }
}
