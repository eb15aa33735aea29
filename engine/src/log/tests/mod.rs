//! Tests of the log as a whole: writers over a simulated disk, crashes, and recovery.

mod corruption;
mod crashes;
mod follow;
mod real_files;
mod recovery;
mod rig;
mod sealed;
mod writer;
