//! From a connection's bytes to commands, several requests ahead: while one request of a pipeline
//! is executed, the memory that the next ones need is already on its way from RAM.
//!
//! A look-up misses the cache up to three times, each miss depending on the one before: the slot,
//! its bucket, the entry. So the requests of a window are decoded first, then each of these steps
//! is done for all of them as a prefetch, and only then are they executed one after the other.

use crate::keyspace::PreparedKey;
use crate::resp::{Decoder, Limits, Progress};

use super::connection::Connection;
use super::core::ShardCore;

/// Requests that are decoded before the first of them is executed.
const WINDOW: usize = 16;
/// Below this much memory of keys and values the caches hold them anyway.
const PREFETCH_FROM_BYTES: usize = 1 << 20;
/// Input buffers above this are not kept.
const KEPT_INPUT_BYTES: usize = 64 << 10;
/// No more than this is reserved for an argument before it begins to arrive.
const MAX_RESERVED_BYTES: usize = 1 << 20;

/// The requests of one window. Kept by the shard for its memory.
#[derive(Debug, Default)]
pub struct Window {
    /// The decoder of each request holds its arguments.
    decoders: Vec<Decoder>,
    requests: Vec<Decoded>,
    keys: Vec<PreparedKey>,
}

/// Where a decoded request stands in the input.
#[derive(Clone, Copy, Debug)]
struct Decoded {
    start: usize,
    end: usize,
}

/// How the input goes on behind a window.
enum Behind {
    /// There may be more whole requests.
    More,
    /// A request that is not whole yet; the connection's decoder has its state.
    Incomplete,
    /// No request; the error is the reply.
    Broken(String),
}

impl ShardCore {
    /// Handles new bytes of a connection, and what it had left over.
    pub(super) fn read(&mut self, connection: &mut Connection, bytes: &[u8]) {
        if connection.closing || self.stopping {
            return;
        }
        // The usual case: whole requests in the network's buffer, and nothing left over.
        if connection.input.is_empty() && !connection.must_wait() {
            let consumed = self.run_requests(connection, bytes);
            connection.input.extend_from_slice(&bytes[consumed..]);
            return;
        }
        connection.input.extend_from_slice(bytes);
        if connection.must_wait() {
            return;
        }
        let mut input = std::mem::take(&mut connection.input);
        let consumed = self.run_requests(connection, &input);
        if consumed == input.len() {
            input.clear();
            input.shrink_to(KEPT_INPUT_BYTES);
        } else {
            input.drain(..consumed);
        }
        connection.input = input;
    }

    /// Runs whole requests from the front of `input`; answers how many bytes they were.
    fn run_requests(&mut self, connection: &mut Connection, input: &[u8]) -> usize {
        let mut window = std::mem::take(&mut self.window);
        let mut consumed = 0;
        while !connection.must_wait() && consumed < input.len() {
            if self.journal.is_full() {
                // Memory is bounded: the rest waits until the disk has taken something.
                self.starve(connection);
                break;
            }
            let (end, behind) = window.fill(connection, input, consumed);
            self.prefetch(&mut window, connection, input);
            let Some(done) = self.run_window(&window, connection, input) else {
                consumed = end;
                match behind {
                    Behind::More => continue,
                    Behind::Incomplete => break,
                    Behind::Broken(text) => {
                        connection.error(&text);
                        connection.closing = true;
                        consumed = input.len();
                        break;
                    }
                }
            };
            // The rest of the window is decoded again when the connection may go on.
            connection.decoder = Decoder::new();
            consumed = done.max(consumed);
            break;
        }
        self.window = window;
        consumed
    }

    /// Executes the requests of a window. If one has to wait, answers where it begins.
    fn run_window(
        &mut self,
        window: &Window,
        connection: &mut Connection,
        input: &[u8],
    ) -> Option<usize> {
        for (decoder, request) in window.decoders.iter().zip(&window.requests) {
            let args = decoder.args(&input[request.start..request.end]);
            // A barrier that has to wait for earlier replies is not begun.
            if connection.must_wait() || !self.command(connection, args) {
                return Some(request.start);
            }
        }
        None
    }

    /// Brings what the window's look-ups will read closer, one step of all of them at a time.
    fn prefetch(&mut self, window: &mut Window, connection: &Connection, input: &[u8]) {
        let Window { decoders, requests, keys } = window;
        keys.clear();
        if requests.len() < 2 || self.keyspace.memory_bytes() < PREFETCH_FROM_BYTES {
            return;
        }
        for (decoder, request) in decoders.iter().zip(&*requests) {
            // Nearly every command's first argument is its key; a wrong guess costs nothing else.
            if let Some(key) = decoder.args(&input[request.start..request.end]).get(1) {
                keys.extend(self.keyspace.prepare(connection.session.db, key));
            }
        }
        keys.iter().for_each(|key| self.keyspace.prefetch_slot(*key));
        keys.iter().for_each(|key| self.keyspace.prefetch_bucket(*key));
        keys.iter().for_each(|key| self.keyspace.prefetch_entry(*key));
    }
}

impl Window {
    /// Decodes requests from `begin` on; answers where the decoded ones end.
    fn fill(&mut self, connection: &mut Connection, input: &[u8], begin: usize) -> (usize, Behind) {
        self.requests.clear();
        // What a client may send can change with AUTH, so nothing is decoded ahead of it.
        let (limits, most) = if connection.session.authenticated {
            (&Limits::FULL, WINDOW)
        } else {
            (&Limits::UNAUTHENTICATED, 1)
        };
        let mut end = begin;
        while self.requests.len() < most && end < input.len() {
            let at = self.requests.len();
            if self.decoders.len() == at {
                self.decoders.push(Decoder::new());
            }
            let decoder = &mut self.decoders[at];
            // The first may be one of which a part was seen before.
            std::mem::swap(decoder, &mut connection.decoder);
            match decoder.decode(&input[end..], limits) {
                Ok(Progress::Request { consumed }) => {
                    self.requests.push(Decoded { start: end, end: end + consumed });
                    end += consumed;
                }
                Ok(Progress::Empty { consumed }) => end += consumed,
                Ok(Progress::Incomplete { needed_bytes_hint }) => {
                    std::mem::swap(decoder, &mut connection.decoder);
                    connection.input.reserve(needed_bytes_hint.min(MAX_RESERVED_BYTES));
                    return (end, Behind::Incomplete);
                }
                Err(error) => {
                    *decoder = Decoder::new();
                    return (end, Behind::Broken(format!("ERR {error}")));
                }
            }
        }
        (end, Behind::More)
    }
}
