//! A durable database inside a program: open a directory, call it from anywhere, open it again.
//!
//! `cargo run --example embedded [DIRECTORY]`

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use cutwater_control::{Database, DatabaseConfig};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "embedded-data".to_owned());
    print!("{}", run(Path::new(&directory)).await?);
    Ok(())
}

/// Uses the database of a directory, and says what it saw.
pub async fn run(directory: &Path) -> Result<String, Box<dyn Error>> {
    let mut told = String::new();

    // The directory is made, locked, and recovered if there was something. No listeners.
    let mut config = DatabaseConfig::directory(directory)?;
    config.engine.shards = 2;
    let database = Database::open(config).await?;

    // A client is cheap to clone, and works on any thread and on any runtime. When a write answers,
    // it is on disk.
    let client = database.client();
    let threads: Vec<_> = (0..2)
        .map(|n| {
            let client = client.clone();
            std::thread::spawn(move || {
                client.set(format!("user:{n}"), "somebody")?;
                client.incr("visits")
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread has panicked")??;
    }
    // Any command, without blocking this thread.
    let visits = client.execute_async(&["INCR", "visits"]).await?;
    writeln!(told, "visits: {}", visits.as_integer().unwrap_or_default())?;

    // Several commands in one go; MULTI makes them one transaction.
    let replies = client.batch(&[
        vec!["MULTI"],
        vec!["SET", "from", "10"],
        vec!["SET", "to", "20"],
        vec!["EXEC"],
    ])?;
    writeln!(told, "replies of the batch: {}", replies.len())?;

    // An error reply is a reply; `Err` would mean that the database has stopped.
    let reply = client.execute(&["INCR", "user:0"])?;
    writeln!(told, "an error reply: {}", reply.as_error().unwrap_or("none"))?;

    database.close().await?;

    // Everything that was acknowledged is there again.
    let database = Database::open_dir(directory).await?;
    let user = database.client().get("user:1")?.unwrap_or_default();
    writeln!(told, "user:1 is {}", String::from_utf8_lossy(&user))?;
    database.close().await?;
    Ok(told)
}
