//! Tests of the log as a whole: writers over a simulated disk, crashes, and recovery.

mod corruption;
mod crashes;
mod recovery;
mod rig;
mod writer;
