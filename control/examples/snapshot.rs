//! A snapshot of a running database, and its restore into a new directory.
//!
//! `cargo run --example snapshot [DIRECTORY]`

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use cutwater_control::Database;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "snapshot-data".to_owned());
    print!("{}", run(Path::new(&directory)).await?);
    Ok(())
}

/// Takes a snapshot of a database in `folder/bank`, restores it into `folder/restored`, which must
/// not exist, and says what it saw.
pub async fn run(folder: &Path) -> Result<String, Box<dyn Error>> {
    let mut told = String::new();
    let database = Database::open_dir(folder.join("bank")).await?;
    let client = database.client();
    client.mset(&[("account:1", "60"), ("account:2", "40")])?;

    // Writes go on while it is taken; it holds one moment of the whole database.
    let snapshot = database.snapshot().await?;
    writeln!(told, "took {}", snapshot.name())?;
    client.mset(&[("account:1", "0"), ("account:2", "0")])?;

    for entry in database.list().await? {
        database.verify(entry.id).await?;
        writeln!(told, "snapshot {} is whole", entry.id)?;
    }
    database.restore(snapshot.id(), &folder.join("restored")).await?;
    database.close().await?;

    // A database of its own, with the data of that moment and a history that begins there.
    let restored = Database::open_dir(folder.join("restored")).await?;
    let mut balance = 0;
    for account in restored.client().mget(&["account:1", "account:2"])? {
        balance += String::from_utf8(account.unwrap_or_default())?.parse::<i64>()?;
    }
    writeln!(told, "balance: {balance}")?;
    restored.close().await?;
    Ok(told)
}
