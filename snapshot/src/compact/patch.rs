//! Positional writes onto one value, merged: runs that neither overlap nor touch.

use std::collections::BTreeMap;

/// What was written where.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    runs: BTreeMap<u64, Vec<u8>>,
}

impl Patch {
    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Puts bytes over what is there. Appending to the last run, and overwriting inside of one,
    /// cost what the bytes cost.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len() as u64);
        // The run that begins at or before the offset, if it reaches it.
        let below = self.runs.range_mut(..=offset).next_back();
        let below = below.filter(|(at, run)| **at + run.len() as u64 >= offset);
        let Some((&at, run)) = below else {
            let run = bytes.to_vec();
            let merged = self.swallow(offset, end, run);
            self.runs.insert(offset, merged);
            return;
        };
        let (from, reaches) = ((offset - at) as usize, at + run.len() as u64);
        if end <= reaches {
            run[from..from + bytes.len()].copy_from_slice(bytes);
            return;
        }
        run.truncate(from);
        run.extend_from_slice(bytes);
        if self.runs.range(at + 1..=end).next().is_some() {
            let run = self.runs.remove(&at).expect("it was just looked at");
            let merged = self.swallow(at, end, run);
            self.runs.insert(at, merged);
        }
    }

    /// What was written, by offset.
    pub fn runs(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.runs.iter().map(|(at, run)| (*at, run.as_slice()))
    }

    /// Takes out the runs that begin behind `at` and at or before `end`, where `run` ends, and
    /// appends what of the last of them lies beyond.
    fn swallow(&mut self, at: u64, end: u64, mut run: Vec<u8>) -> Vec<u8> {
        let inside: Vec<u64> = self.runs.range(at + 1..=end).map(|(at, _)| *at).collect();
        for at in inside {
            let other = self.runs.remove(&at).expect("it was just listed");
            let covered = (end - at) as usize;
            if let Some(beyond) = other.get(covered..) {
                run.extend_from_slice(beyond);
            }
        }
        run
    }
}
