//! The RESP protocol: decoding requests and encoding replies. Pure and incremental.
//!
//! On a write's journey this is the second stage, and the last: bytes from a socket become the
//! [`Args`] of one request ([`decode`]), and the outcome becomes bytes again ([`encode`]).
//! [`value`] is the other side, for the embedded client, the CLI and the tests: replies read into
//! owned values. Nothing here knows a socket, a command or a clock.

pub mod args;
pub mod decode;
pub mod encode;
pub mod number;
mod split;
pub mod value;

pub use args::{Args, ArgsBuf};
pub use decode::{Decoder, Limits, Progress, ProtocolError};
pub use encode::{Reply, RespVersion};
pub use value::{ReplyError, ReplyReader, Value};
