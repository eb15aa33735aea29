//! Any moment of an archived server, on the real binary: writers, kills, restores to random moments
//! of two histories; then what is said of a hole, and of a time outside every window.
//!
//! `cargo run --release -p cutwater-bench --bin moments -- --minutes N --seed S` is the long run.

use std::fs;

use cutwater_bench::moments::stage::{Moment, Setting};
use cutwater_bench::moments::{Options, run};
use cutwater_bench::server;

use crate::support::refused;

#[test]
fn every_moment_holds_what_was_acknowledged_before_and_nothing_sent_after() {
    if server::is_stand_in() {
        return;
    }
    let setting = Setting::default();
    let options = Options { seconds: 6, moments: 4, outages: false, setting, seed: 11 };
    let (report, stage) = run(&options, &mut |_| {}).unwrap();
    assert!(report.writes > 100 && report.kills > 0 && report.moments >= 10, "{report:?}");

    // Times that nothing was archived of.
    let url = stage.url();
    let into = stage.path("never").display().to_string();
    let at = |time: &str| refused(&["restore", "--store", &url, "--into", &into, "--at", time], 3);
    for (time, near) in [("2001-02-03T04:05:06Z", true), ("2999-01-01T00:00:00Z", false)] {
        let error = at(time);
        assert!(error.contains("outside every window") && error.contains("nearest"), "{error}");
        let current = stage.current().unwrap();
        let last = Moment::new(current.windows.last().unwrap().1).text;
        assert!(near || error.contains(&last), "{last} {error}");
    }
    assert!(!stage.path("never").exists());
    let error = refused(&["restore", "--store", &url, "--into", &into, "--at", "noon"], 2);
    assert!(error.contains("is no moment"), "{error}");

    // A plan reads nothing but heads, and makes nothing.
    let plan = ["restore", "--store", &url, "--latest", "--dry-run"];
    let printed = server::subcommand(&plan).unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("base     snapshot"), "{printed}");

    // An object is lost: a hole with windows around it, or a window cut short.
    let current = stage.current().unwrap();
    let objects = stage.wal_objects().unwrap();
    let lost = &objects[objects.len() - 3];
    fs::remove_file(lost).unwrap();
    let cut = stage.current().unwrap();
    assert_eq!(cut.holes, current.holes + 1, "{}", stage.restorable().unwrap());
    let before: u64 = current.windows.iter().map(|(from, to)| to - from).sum();
    let after: u64 = cut.windows.iter().map(|(from, to)| to - from).sum();
    assert!(after < before);
    let end = cut
        .windows
        .iter()
        .map(|(_, to)| *to)
        .find(|to| current.windows.iter().any(|(from, last)| from <= to && to < last));
    let error = at(&Moment::new(end.unwrap() + 10).text);
    assert!(error.contains("hole") && error.contains("window"), "{error}");
}
