//! Signals during a command that takes its time: the first one asks it to stop and to leave nothing
//! behind, a second one ends the process at once. (A server's signals are in [`crate::shutdown`].)

use std::io;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::watch;

use crate::shutdown::{Signals, end_at_once};

/// The signal that a command was told to stop with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// Its number.
    pub signal: i32,
}

impl Interrupted {
    /// What a shell expects of a command that a signal ended.
    pub fn exit_code(self) -> u8 {
        u8::try_from(crate::shutdown::EXIT_CODE_BASE + self.signal).unwrap_or(u8::MAX)
    }
}

/// What tells of a signal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Interrupts {
    received: watch::Receiver<Option<Interrupted>>,
}

impl Interrupts {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the thread or the handlers cannot be made.
    pub fn listen() -> io::Result<Self> {
        let (sender, received) = watch::channel(None);
        let (ready, is_ready) = std::sync::mpsc::channel();
        // A thread of its own: it hears the second signal whatever the command is at.
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            runtime.block_on(async {
                let mut signals = match Signals::install() {
                    Ok(signals) => signals,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let _ = ready.send(Ok(()));
                let first = signals.next().await.as_raw_value();
                sender.send_replace(Some(Interrupted { signal: first }));
                end_at_once(signals.next().await)
            })
        })?;
        is_ready.recv().map_err(|_| io::Error::other("the thread for signals has ended"))??;
        Ok(Self { received })
    }

    /// The signal, if one has come.
    pub fn received(&self) -> Option<Interrupted> {
        *self.received.borrow()
    }

    /// Completes when a signal has come.
    pub async fn next(&self) -> Interrupted {
        let mut received = self.received.clone();
        match received.wait_for(Option::is_some).await {
            Ok(signal) => signal.expect("waited for"),
            Err(_) => std::future::pending().await,
        }
    }
}
