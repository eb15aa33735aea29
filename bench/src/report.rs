//! Measurements of two servers side by side: medians, ratios, and a Markdown table for README.

use std::fmt::Write as _;

/// The middle of the values; the mean of the two middle ones if their number is even.
///
/// # Panics
/// If there are none.
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "no measurements");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

/// One line of a comparison: what was measured, and every round of both servers.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured, with its unit last.
    pub what: String,
    /// The rounds of Cutwater.
    pub ours: Vec<f64>,
    /// The rounds of the peer.
    pub theirs: Vec<f64>,
}

impl Row {
    /// A row without rounds yet.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), ours: Vec::new(), theirs: Vec::new() }
    }
}

/// A Markdown table of the medians, their ratio, and the spread of the rounds.
pub fn table(peer: &str, rows: &[Row]) -> String {
    let mut text = format!("| | Cutwater | {peer} | ratio | rounds, lowest to highest |\n");
    text.push_str("|---|---:|---:|---:|---|\n");
    for row in rows {
        let (ours, theirs) = (median(&row.ours), median(&row.theirs));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.2} | {}; {} |",
            row.what,
            number(ours),
            number(theirs),
            ours / theirs,
            spread(&row.ours),
            spread(&row.theirs)
        );
    }
    text
}

fn spread(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} - {}", number(low), number(high))
}

/// Three digits that count, and thousands apart.
fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_bits(), 2f64.to_bits());
        assert_eq!(median(&[4.0, 1.0]).to_bits(), 2.5f64.to_bits());
        assert_eq!(number(1.234), "1.23");
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(-1234.0), "-1,234");
        let row = Row { what: "SET".into(), ours: vec![2.0, 4.0], theirs: vec![6.0] };
        assert!(table("Valkey", &[row]).contains("| SET | 3.00 | 6.00 | 0.50 | 2.00 - 4.00;"));
    }
}
