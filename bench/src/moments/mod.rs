//! Restores to any moment, against a server that is killed while it writes: writers note when each
//! of their writes was sent and when it was acknowledged; afterwards random moments are restored
//! from the archive, on one, two and five shards, and each must hold every write that was
//! acknowledged before it and none that was sent after it.
//!
//! | file | what |
//! |---|---|
//! | [`ledger`] | what a writer knows, and what that allows at a moment |
//! | [`stage`] | server, store, windows and restores |
//!
//! The test suite runs it for seconds, `--bin moments` for minutes.

pub mod ledger;
pub mod stage;

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::reply::Reply;
use crate::server::field;
use crate::sim::rng::Rng;
use ledger::{Ledger, WRITERS};
use stage::{Setting, Stage, Windows};

/// Numbers of shards that are served and restored onto.
const SHARDS: [u16; 3] = [1, 2, 5];

/// Kinds of snapshots, more often the one that is mostly taken.
const KINDS: [&str; 3] = ["BASE", "DELTA", "DELTA"];

/// How long a server is written to before it is killed, on average.
const ROUND_SECONDS: u64 = 2;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long is written before the restore in the middle, and after it.
    pub seconds: u64,
    /// How many moments are restored of each history.
    pub moments: usize,
    /// Whether the store goes away now and then.
    pub outages: bool,
    /// Which store, and how things are written to it.
    pub setting: Setting,
    /// Where all chance comes from.
    pub seed: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Times that the server was killed.
    pub kills: u64,
    /// Times that the store went away.
    pub outages: u64,
    /// Bases that were published while a client waited for them.
    pub bases: u64,
    /// The same of deltas.
    pub deltas: u64,
    /// Moments that were restored and are right.
    pub moments: u64,
    /// How many of them were restored from a base with deltas on top of it.
    pub from_deltas: u64,
}

/// Runs it.
///
/// # Errors
/// What is wrong, with the seed.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> io::Result<(Report, Stage)> {
    let seed = options.seed;
    let outcome = play(options, say);
    outcome.map_err(|error| io::Error::other(format!("seed {seed}: {error}")))
}

fn play(options: &Options, say: &mut dyn FnMut(&str)) -> io::Result<(Report, Stage)> {
    let mut rng = Rng::new(options.seed);
    let mut report = Report::default();
    let stage = Stage::new(options.setting)?;
    let mut first = vec![Ledger::default(); WRITERS];
    write_for(&stage, "data", options, &mut rng, &mut first, &mut report)?;
    let history = stage.current()?;
    say(&format!("history {}: {} writes", history.id, report.writes));
    check(&stage, &history, &first, options.moments, &mut rng, &mut report)?;

    // The middle of what there is, written on from there.
    let middle = history.moment(&mut rng).ok_or_else(|| io::Error::other("there is no window"))?;
    stage.restore(&["--at", &middle.text, "--history", &history.id], "branch", 2)?;
    let mut second: Vec<Ledger> = first.iter().map(|ledger| ledger.fork(middle.micros)).collect();
    write_for(&stage, "branch", options, &mut rng, &mut second, &mut report)?;
    let branch = stage.current()?;
    if branch.id == history.id {
        return Err(io::Error::other("the restored directory has begun no history"));
    }
    say(&format!("history {}: {} writes", branch.id, report.writes));
    check(&stage, &branch, &second, options.moments, &mut rng, &mut report)?;
    // The first history is as it was.
    let again = stage.windows(&history.id)?;
    check(&stage, &again, &first, options.moments.div_ceil(2), &mut rng, &mut report)?;
    Ok((report, stage))
}

/// Serves a directory for a while, on changing numbers of shards, writes, takes snapshots, kills
/// the server and lets the store go away; stops it in order at the end.
fn write_for(
    stage: &Stage,
    dir: &str,
    options: &Options,
    rng: &mut Rng,
    ledgers: &mut [Ledger],
    report: &mut Report,
) -> io::Result<()> {
    // Rounds, not a deadline: how long a start takes on a busy machine must not shorten the
    // writing.
    let rounds = options.seconds.div_ceil(ROUND_SECONDS).max(2);
    for round in 1..=rounds {
        let is_last = round == rounds;
        let mut server = stage.serve(dir, *rng.pick(&SHARDS))?;
        for ledger in ledgers.iter_mut() {
            ledger.settle(&mut server.client()?)?;
        }
        let share = Duration::from_millis(rng.between(1_200, ROUND_SECONDS * 2_000 - 1_200));
        let until = Instant::now() + share;
        // The last round ends with everything archived: there is something of it to restore.
        let outage = options.outages && !is_last && rng.chance(40);
        let outage_kind = rng.any();
        let kinds: Vec<&str> = (0..rng.below(4)).map(|_| *rng.pick(&KINDS)).collect();
        thread::scope(|scope| -> io::Result<()> {
            let address = server.address();
            for (writer, ledger) in ledgers.iter_mut().enumerate() {
                scope.spawn(move || ledger.write_until(address, writer, until));
            }
            let snapshots = scope.spawn(move || take_snapshots(address, &kinds));
            if outage {
                stage.outage(share / 3, outage_kind)?;
                report.outages += 1;
            }
            thread::sleep(until.saturating_duration_since(Instant::now()));
            if !is_last {
                server.kill9()?;
                report.kills += 1;
            }
            let taken = snapshots.join().map_err(|_| io::Error::other("a thread panicked"))??;
            report.deltas += taken.iter().filter(|kind| *kind == "delta").count() as u64;
            report.bases += taken.iter().filter(|kind| *kind == "base").count() as u64;
            Ok(())
        })?;
        if is_last {
            stage::wait_archived(&server)?;
            server.terminate()?;
        }
    }
    report.writes += ledgers.iter().map(Ledger::take_count).sum::<u64>();
    Ok(())
}

/// Takes one snapshot after the other, until the server is killed; the kinds of those that were
/// published while this waited.
fn take_snapshots(address: SocketAddr, kinds: &[&str]) -> io::Result<Vec<String>> {
    let mut taken = Vec::new();
    for kind in kinds {
        let Ok(mut client) = Client::connect(address) else { break };
        match client.call(&["SNAPSHOT", "CREATE", kind]) {
            Err(_) => break,
            // One is under way by itself.
            Ok(Reply::Error(text)) if text.starts_with("BUSY") => {}
            Ok(Reply::Error(text)) => return Err(io::Error::other(format!("{kind}: {text}"))),
            Ok(reply) => {
                let kind = field(&reply, "kind").and_then(Reply::bytes).unwrap_or_default();
                taken.push(String::from_utf8_lossy(kind).into_owned());
            }
        }
    }
    Ok(taken)
}

/// Restores random moments of a history and compares each with what the writers know.
fn check(
    stage: &Stage,
    history: &Windows,
    ledgers: &[Ledger],
    moments: usize,
    rng: &mut Rng,
    report: &mut Report,
) -> io::Result<()> {
    for n in 0..moments {
        let moment = history.moment(rng).ok_or_else(|| io::Error::other("there is no window"))?;
        let (written, served) = (*rng.pick(&SHARDS), *rng.pick(&SHARDS));
        let name = format!("restored-{}-{n}", &history.id[..6]);
        let wish = ["--at", &moment.text, "--history", &history.id];
        let (into, has_deltas) = stage.restore_and_tell(&wish, &name, written)?;
        let server = stage.serve_alone(&into, served)?;
        let mut client = server.client()?;
        let mut wrong = String::new();
        for (writer, ledger) in ledgers.iter().enumerate() {
            for error in ledger.compare(&mut client, writer, moment.micros)? {
                let _ = writeln!(wrong, "{error}");
            }
        }
        if !wrong.is_empty() {
            return Err(io::Error::other(format!(
                "{} of history {} on {written} shards is wrong:\n{wrong}",
                moment.text, history.id
            )));
        }
        report.moments += 1;
        report.from_deltas += u64::from(has_deltas);
        drop(server);
        std::fs::remove_dir_all(&into)?;
    }
    Ok(())
}
