//! Why a command is refused, with the words that Redis 7.2 has for it. The text is the reply.

use super::context::MAX_STRING_BYTES;

/// A refusal. The command has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Options that do not exist, do not go together, or lack their value.
    #[error("ERR syntax error")]
    Syntax,
    /// A number of arguments that the table's arity does not rule out, but the command does.
    #[error("ERR wrong number of arguments for '{0}' command")]
    ArgumentCount(&'static str),
    /// An argument or a value should be an integer of 64 bits.
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    /// An argument should be an integer of 32 bits.
    #[error("ERR value is out of range, value must between {} and {}", i32::MIN, i32::MAX)]
    NotInteger32,
    /// An argument or a value should be a number.
    #[error("ERR value is not a valid float")]
    NotFloat,
    /// The key holds a value of another type.
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    /// The sum does not fit into 64 bits.
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    /// DECRBY by a number whose negative does not fit into 64 bits.
    #[error("ERR decrement would overflow")]
    DecrementOverflow,
    /// INCRBYFLOAT beyond all finite numbers.
    #[error("ERR increment would produce NaN or Infinity")]
    NotFinite,
    /// A time that is not positive where it must be, or beyond 64 bits of milliseconds.
    #[error("ERR invalid expire time in '{0}' command")]
    ExpireTime(&'static str),
    /// An option of EXPIRE and its relatives that does not exist.
    #[error("ERR Unsupported option {0}")]
    ExpireOption(String),
    /// NX excludes the other conditions of EXPIRE.
    #[error("ERR NX and XX, GT or LT options at the same time are not compatible")]
    ExpireNxAndOther,
    /// GT and LT exclude each other.
    #[error("ERR GT and LT options at the same time are not compatible")]
    ExpireGtAndLt,
    /// SETRANGE at a negative offset.
    #[error("ERR offset is out of range")]
    Offset,
    /// The value would be longer than [`MAX_STRING_BYTES`].
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    TooLong,
    /// RENAME of a key that does not exist.
    #[error("ERR no such key")]
    NoSuchKey,
    /// COPY of a key onto itself.
    #[error("ERR source and destination objects are the same")]
    SameObject,
    /// COPY into a database that does not exist.
    #[error("ERR DB index is out of range")]
    Database,
    /// A SCAN cursor that is no number.
    #[error("ERR invalid cursor")]
    Cursor,
    /// CLUSTER COUNTKEYSINSLOT of a slot that does not exist.
    #[error("ERR Invalid slot")]
    Slot,
    /// CLUSTER GETKEYSINSLOT of a slot that does not exist, or of a negative number of keys.
    #[error("ERR Invalid slot or number of keys")]
    SlotOrCount,
}

/// What every command returns: its reply was written, or this is it.
pub type Outcome = Result<(), CommandError>;

/// Checks the length of a value that is about to be made.
pub(super) fn check_len(offset: usize, len: usize) -> Outcome {
    match offset.checked_add(len) {
        Some(end) if end <= MAX_STRING_BYTES => Ok(()),
        _ => Err(CommandError::TooLong),
    }
}
