//! Waiting for an archive, with a limit that says what it waited for.

use std::time::{Duration, Instant};

use cutwater_control::Database;
use cutwater_control::coordinator::archive::ArchiveStatus;

/// How long anything that is waited for may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the archive stands so.
pub async fn wait(database: &Database, what: &str, so: impl Fn(&ArchiveStatus) -> bool) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = database.coordinator().status().await.unwrap().archive.unwrap();
        if so(&status) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
