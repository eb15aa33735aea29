//! How far a data directory's log is archived: what the archiver remembers over restarts, in a
//! small file of the data directory. Pure; reading and writing the file is left to the caller.
//!
//! The *ceiling* is made durable before an object is put that ends there, and rises for nothing
//! else: a remote head above it means that the disk is older than its archive. A start gives no LSN
//! at or below it or the end ([`Cursor::floor`]): that lies higher after a gap.

use cutwater_engine::log::recovery::{Coverage, Part};
use cutwater_engine::types::{Lsn, Position, StartId};
use serde::{Deserialize, Serialize};

use super::header::WalNumber;
use crate::error::Flaw;
use crate::ident::{DatabaseId, HistoryId};
use crate::msgpack::{self, CrcField};

/// The format of cursors that this code writes, and the only one that it reads.
pub const CURSOR_VERSION: u32 = 1;

/// How far a log is archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The database.
    pub database: DatabaseId,
    /// The history.
    pub history: HistoryId,
    /// The newest object of this history; 0 before the first.
    pub number: WalNumber,
    /// The next object begins here.
    pub to: Lsn,
    /// No object ends above this.
    pub ceiling: Lsn,
    /// Since when the archive has no hole.
    pub run_from: Lsn,
    /// Where in the logs everything above `to` stands; `None`: in all logs since the first start.
    pub coverage: Option<Coverage>,
    /// The last gap, if there was one: everything above the first and at or below the second LSN
    /// was given up, because the backlog had grown past its limit.
    pub gap: Option<(Lsn, Lsn)>,
}

/// A cursor as stored. Field order is the stored order; `crc32c` must stay last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RawCursor {
    format_version: u32,
    database_id: DatabaseId,
    history_id: HistoryId,
    number: u64,
    to: Lsn,
    ceiling: Lsn,
    run_from: Lsn,
    start: Option<StartId>,
    parts: Vec<(Lsn, Position)>,
    gap: Option<(Lsn, Lsn)>,
    crc32c: CrcField,
}

impl Cursor {
    /// Every LSN that a start gives is above this: what lies at or below it is archived, or given
    /// up.
    pub fn floor(&self) -> Lsn {
        self.ceiling.max(self.to)
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let parts = self.coverage.iter().flat_map(|coverage| &coverage.parts);
        msgpack::encode(&RawCursor {
            format_version: CURSOR_VERSION,
            database_id: self.database,
            history_id: self.history,
            number: self.number.0,
            to: self.to,
            ceiling: self.ceiling,
            run_from: self.run_from,
            start: self.coverage.as_ref().map(|coverage| coverage.start),
            parts: parts.map(|part| (part.watermark, part.position)).collect(),
            gap: self.gap,
            crc32c: CrcField::default(),
        })
    }

    /// The cursor that these bytes hold.
    ///
    /// # Errors
    /// [`Flaw`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let raw: RawCursor = msgpack::decode(bytes)?;
        if raw.format_version != CURSOR_VERSION {
            return Err(Flaw::Version(raw.format_version.into()));
        }
        let part = |(watermark, position): (Lsn, Position)| Part { watermark, position };
        let parts: Vec<Part> = raw.parts.into_iter().map(part).collect();
        Ok(Self {
            database: raw.database_id,
            history: raw.history_id,
            number: WalNumber(raw.number),
            to: raw.to,
            ceiling: raw.ceiling,
            run_from: raw.run_from,
            coverage: raw.start.map(|start| Coverage { start, parts }),
            gap: raw.gap,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_and_every_byte() {
        let part = Part { watermark: Lsn(7), position: Position(9) };
        let coverage = Some(Coverage { start: StartId(3), parts: vec![part, part] });
        let cursor = Cursor {
            database: DatabaseId([1; 16]),
            history: HistoryId([2; 16]),
            number: WalNumber(5),
            to: Lsn(7),
            ceiling: Lsn(8),
            run_from: Lsn(4),
            coverage,
            gap: Some((Lsn(2), Lsn(4))),
        };
        let bytes = cursor.encode();
        assert_eq!(Cursor::decode(&bytes), Ok(cursor.clone()));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x21;
            assert!(Cursor::decode(&bad).is_err(), "{at}");
            assert!(Cursor::decode(&bytes[..at]).is_err(), "{at}");
        }
        let none = Cursor { coverage: None, gap: None, ..cursor };
        assert_eq!(Cursor::decode(&none.encode()), Ok(none));
    }
}
