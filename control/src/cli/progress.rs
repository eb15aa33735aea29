//! How far a long command is: a bar on a terminal, plain lines otherwise, always on standard error.
//!
//! What is shown is made here from bytes and a clock; the libraries only count. A short command
//! shows nothing: the first line comes when there is something to wait for.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::output;
use crate::interrupt::{Interrupted, Interrupts};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a command looks how far it is.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Without a terminal: how long nothing is said at first, and at least between two lines.
const QUIET: Duration = Duration::from_secs(1);
/// Without a terminal: after how long a line comes though there is hardly anything new.
const SILENCE: Duration = Duration::from_secs(5);
/// Without a terminal: a line for so many percent.
const STEP_PERCENT: u64 = 10;
/// Over how long the rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// The steps of a bar: its length in thousandths.
const BAR_STEPS: u64 = 1_000;

/// How far something is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub label: String,
    /// Bytes that are done.
    pub done_bytes: u64,
    /// Bytes in all, where that is known.
    pub total_bytes: Option<u64>,
    /// Whether the total is an estimate.
    pub is_estimate: bool,
}

impl Progress {
    fn thousandths(&self) -> u64 {
        let Some(total) = self.total_bytes.filter(|total| *total > 0) else { return 0 };
        (u128::from(self.done_bytes) * 1_000 / u128::from(total)).min(1_000) as u64
    }
}

/// Shows progress.
pub struct Meter {
    output: Output,
    rate: Rate,
}

enum Output {
    Bar(ProgressBar),
    Lines(Lines),
}

impl Meter {
    /// A meter on standard error.
    pub fn new() -> Self {
        let output = match io::stderr().is_terminal() && knows_codes() {
            true => Output::Bar(bar()),
            false => Output::Lines(Lines::new(Instant::now())),
        };
        Self { output, rate: Rate::default() }
    }

    /// Shows how far it is.
    pub fn show(&mut self, progress: &Progress) {
        let now = Instant::now();
        let rate = self.rate.at(now, progress);
        match &mut self.output {
            Output::Bar(bar) => {
                bar.set_position(progress.thousandths());
                bar.set_message(text(progress, rate));
            }
            Output::Lines(lines) => {
                if lines.is_due(now, progress) {
                    // Nobody needs it.
                    let _ = writeln!(io::stderr().lock(), "{}", text(progress, rate));
                }
            }
        }
    }
}

impl Drop for Meter {
    /// A bar goes; what came of the command is said in its place.
    fn drop(&mut self) {
        if let Output::Bar(bar) = &self.output {
            bar.finish_and_clear();
        }
    }
}

/// Whether a terminal can do more than to print one line below the other.
#[expect(clippy::disallowed_methods, reason = "what the terminal can do is in the environment")]
fn knows_codes() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Text on standard output that is renewed: in its place on a terminal, else below the old one.
pub struct LiveText {
    bar: Option<ProgressBar>,
}

impl LiveText {
    /// Nothing yet.
    pub fn new() -> Self {
        let is_terminal = io::stdout().is_terminal() && knows_codes();
        let bar = is_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            let style = ProgressStyle::with_template("{msg}");
            bar.with_style(style.expect("the template is sound"))
        });
        Self { bar }
    }

    /// Shows another text.
    pub fn show(&self, text: &str) -> Result<(), Failure> {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => output::print(&format!("{text}\n"))?,
        }
        Ok(())
    }
}

impl Drop for LiveText {
    /// The last text stays.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

/// Waits for work, and shows how far it is meanwhile; what comes first, its result or a signal.
///
/// # Errors
/// The signal. The work is as far as it was: go on with it, or drop it.
pub async fn follow<T>(
    work: impl Future<Output = T> + Unpin,
    gauge: impl Fn() -> Option<Progress>,
    interrupts: &Interrupts,
) -> Result<T, Interrupted> {
    let mut meter = Meter::new();
    let mut work = work;
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            result = &mut work => return Ok(result),
            signal = interrupts.next() => return Err(signal),
            _ = look.tick() => {
                if let Some(progress) = gauge() {
                    meter.show(&progress);
                }
            }
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(BAR_STEPS), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("[{bar:24}] {msg}");
    bar.set_style(style.expect("the template is sound").progress_chars("=> "));
    bar
}

/// When a line is due.
struct Lines {
    last_at: Instant,
    last_step: u64,
    last_label: String,
}

impl Lines {
    fn new(now: Instant) -> Self {
        Self { last_at: now, last_step: 0, last_label: String::new() }
    }

    fn is_due(&mut self, now: Instant, progress: &Progress) -> bool {
        let waited = now.saturating_duration_since(self.last_at);
        let step = progress.thousandths() / (STEP_PERCENT * 10);
        let is_news = step != self.last_step || progress.label != self.last_label;
        let is_due = waited >= SILENCE || (waited >= QUIET && is_news);
        if is_due {
            (self.last_at, self.last_step) = (now, step);
            self.last_label.clone_from(&progress.label);
        }
        is_due
    }
}

/// Bytes a second, over the last few seconds.
#[derive(Default)]
struct Rate {
    label: String,
    seen: VecDeque<(Instant, u64)>,
}

impl Rate {
    fn at(&mut self, now: Instant, progress: &Progress) -> Option<u64> {
        // Another phase counts anew.
        if self.label != progress.label {
            self.label.clone_from(&progress.label);
            self.seen.clear();
        }
        self.seen.push_back((now, progress.done_bytes));
        while self.seen.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_WINDOW) {
            self.seen.pop_front();
        }
        let (since, before) = *self.seen.front()?;
        let elapsed = now.duration_since(since).as_secs_f64();
        let done = progress.done_bytes.saturating_sub(before);
        (elapsed > 0.0).then(|| (done as f64 / elapsed) as u64)
    }
}

/// One line: what, how far, how fast, how long still.
fn text(progress: &Progress, rate: Option<u64>) -> String {
    let done = HumanBytes(progress.done_bytes);
    let mut text = match progress.total_bytes {
        None => format!("{}: {done}", progress.label),
        Some(total) => {
            let about = if progress.is_estimate { "about " } else { "" };
            let percent = progress.thousandths() / 10;
            format!("{}: {percent}%, {done} of {about}{}", progress.label, HumanBytes(total))
        }
    };
    if let Some(rate) = rate {
        text.push_str(&format!(", {}/s", HumanBytes(rate)));
        let left = progress.total_bytes.map(|total| total.saturating_sub(progress.done_bytes));
        if let Some(seconds) = left.filter(|left| *left > 0).and_then(|left| left.checked_div(rate))
        {
            text.push_str(&format!(", {} left", duration(seconds)));
        }
    }
    text
}

/// Seconds for people.
pub fn duration(seconds: u64) -> String {
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(done_bytes: u64, total_bytes: Option<u64>) -> Progress {
        Progress { label: "snapshot 7".to_owned(), done_bytes, total_bytes, is_estimate: false }
    }

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let half = at(50 << 20, Some(100 << 20));
        assert_eq!(text(&half, None), "snapshot 7: 50%, 50.00 MiB of 100.00 MiB");
        assert_eq!(
            text(&Progress { is_estimate: true, ..half }, Some(10 << 20)),
            "snapshot 7: 50%, 50.00 MiB of about 100.00 MiB, 10.00 MiB/s, 5 s left"
        );
        assert_eq!(text(&at(1 << 10, None), Some(0)), "snapshot 7: 1.00 KiB, 0 B/s");
        assert_eq!(text(&at(0, Some(5)), Some(0)), "snapshot 7: 0%, 0 B of 5 B, 0 B/s");
        assert_eq!(text(&at(0, Some(0)), None), "snapshot 7: 0%, 0 B of 0 B");
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3_600, "1 h 00 min")]
        {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn lines_come_every_tenth_but_not_in_a_row() {
        let begun = Instant::now();
        let mut lines = Lines::new(begun);
        let mut due = |millis: u64, done: u64| {
            lines.is_due(begun + Duration::from_millis(millis), &at(done, Some(100)))
        };
        assert!(!due(0, 0) && !due(900, 50));
        assert!(due(1_000, 51) && !due(2_500, 59));
        assert!(due(2_600, 60) && !due(3_000, 90));
        assert!(due(7_600, 90) && due(12_600, 90));
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_of_one_phase() {
        let begun = Instant::now();
        let mut rate = Rate::default();
        let mut seen = |seconds: u64, progress: Progress| {
            rate.at(begun + Duration::from_secs(seconds), &progress)
        };
        assert_eq!(seen(0, at(0, None)), None);
        assert_eq!(seen(1, at(100, None)), Some(100));
        assert_eq!(seen(2, at(300, None)), Some(150));
        assert_eq!(seen(9, at(1_000, None)), Some(100));
        assert_eq!(seen(10, Progress { label: "other".to_owned(), ..at(5, None) }), None);
    }
}
