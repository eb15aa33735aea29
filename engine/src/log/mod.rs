//! The write-ahead log of one shard: from a record to durable bytes, and back after a crash.
//!
//! The journey of a write through these files, in order:
//!
//! 1. [`record`]: a change becomes a record, encoded straight into the writer's stream.
//! 2. [`writer`]: the stream is cut into frames and the frames into effects ("write this block
//!    there"); completions move the durable position. Pure: the shell owns the files. It consists
//!    of `stream` (what waits), `durability` (what is in flight) and the place in the segments.
//! 3. [`frame`] and [`segment`]: what the blocks of a segment file look like; [`buffer`] is the
//!    aligned memory that they travel in; [`sealing`] is what they are sealed with.
//! 4. [`disk`]: the blocking file operations that all of this needs, with the real implementation;
//!    [`sim_disk`] is the one in memory that crashes, tears and flips bits.
//!
//! And the way back, at a start:
//!
//! 5. [`reader`]: one log (over `segment_reader`, one file; errors in [`error`]), validated
//!    frame by frame; tells an unfinished commit from damage.
//! 6. [`start`]: what earlier starts decided, one small file each.
//! 7. [`recovery`]: all logs together: which transactions are whole, where each log ends, what the
//!    image does not hold yet; then the replay. [`resolve`] holds its rule, without any I/O, and
//!    [`files`] knows which files nothing needs any more.
//!
//! And while the server runs:
//!
//! 8. [`follow`]: what the logs hold behind a place, for deltas and for the archive.
//!
//! One log is a stream of record bytes; [`crate::types::Position`] is an offset in it. Frames carry
//! arbitrary slices of that stream, so a record may span frames and segments. The layouts, byte by
//! byte, are in `FORMAT.md` beside this crate.

pub mod buffer;
pub mod disk;
mod durability;
pub mod error;
pub mod files;
pub mod follow;
pub mod frame;
pub mod reader;
pub mod record;
pub mod recovery;
pub mod resolve;
pub mod sealing;
pub mod segment;
mod segment_reader;
pub mod sim_disk;
pub mod start;
mod stream;
pub mod writer;

pub use buffer::AlignedBuffer;
pub use disk::{FileDisk, FileEntry, LogDisk, LogFile};
pub use error::{Fault, LogError};
pub use files::obsolete_files;
pub use follow::{LogMark, LogRange, Running};
pub use reader::{Cut, Expected, LogFiles, LogReader, Scanned};
pub use record::{Record, RecordError, TxnPart};
pub use recovery::{Coverage, NewStart, Part, Recovery, RecoveryError, Resolution, ResolvedLog};
pub use sealing::{LogKeys, Refusal, SegmentSealing, StartIdentity, StartSeal};
pub use segment::{SegmentHeader, SegmentIdentity, SegmentIndex};
pub use sim_disk::SimDisk;
pub use start::{KeptBelow, LogEnd, StartRecord};
pub use writer::{LogEffect, LogWriter, Recorder, SyncId, WriteId, WriterConfig};

#[cfg(test)]
mod tests;
