//! One snapshot of a catalog as named fields: what `SNAPSHOT LIST` and `SNAPSHOT SHOW` answer, and
//! what the command line shows of a store without a server. One list, so that both agree. Pure.

use std::time::{Duration, UNIX_EPOCH};

use cutwater_snapshot::catalog::{Entry, EntryState};
use cutwater_snapshot::manifest::{CorePart, SnapshotKind};

/// The first microsecond of the year 10000, with which RFC 3339 ends.
const RFC_3339_END_US: u64 = 253_402_300_800_000_000;

/// The field that says where a snapshot is in the remote store, of a server that has one.
pub const REMOTE_FIELD: &str = "remote";

/// The field that says why a snapshot never gets there, of one that does not.
pub const REMOTE_REASON_FIELD: &str = "remote_reason";

/// The field that says since when a snapshot is pinned, of one that is.
pub const PINNED_FIELD: &str = "pinned_at";

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A whole number. An LSN may be beyond the signed integers of RESP: then send its digits.
    Number(u64),
    /// A word, a name or a time.
    Text(String),
    /// Several things, each with fields of its own.
    List(Vec<Vec<(&'static str, Field)>>),
    /// Not known, or not there.
    Nothing,
}

/// The fields of a snapshot in the order in which they are shown: `id`, `name`, `kind`, `state`,
/// `begin_lsn`, `end_lsn`, `created_at` (RFC 3339), `data_bytes`, `entries`, `parent_id`, and
/// `reason` or `pinned_at` where there is one. All but the last are always there,
/// [`Field::Nothing`] where not known.
pub fn fields(entry: &Entry) -> Vec<(&'static str, Field)> {
    let meta = entry.manifest().map(|manifest| manifest.meta());
    let number = |number: Option<u64>| number.map_or(Field::Nothing, Field::Number);
    let entries = entry.manifest().map(|manifest| sum_entries(manifest.cores()));
    let kind = meta.map(|meta| kind_name(meta.kind));
    let created_at_us = match &entry.state {
        EntryState::Tombstone(tombstone) => Some(tombstone.created_at_us),
        _ => meta.map(|meta| meta.created_at_us),
    };
    let mut fields = vec![
        ("id", Field::Number(entry.id.0)),
        ("name", text(entry.name)),
        ("kind", text(kind)),
        ("state", text(Some(entry.state_name()))),
        ("begin_lsn", number(entry.name.map(|name| name.begin_lsn.0))),
        ("end_lsn", number(meta.map(|meta| meta.end_lsn.0))),
        ("created_at", text(created_at_us.and_then(rfc_3339))),
        ("data_bytes", Field::Number(meta.map_or(entry.stored_bytes, |meta| meta.data_bytes))),
        ("entries", number(entries)),
        ("parent_id", number(meta.and_then(|meta| meta.parent_id).map(|id| id.0))),
    ];
    match &entry.state {
        EntryState::Tombstone(tombstone) => {
            fields.push(("reason", text(Some(&tombstone.reason))));
        }
        EntryState::Unreadable { reason } => fields.push(("reason", text(Some(reason)))),
        EntryState::Published(manifest) => {
            if let Some(at_us) = manifest.pinned_at_us() {
                fields.push((PINNED_FIELD, text(rfc_3339(at_us))));
            }
        }
        EntryState::Unfinished => {}
    }
    fields
}

/// The word for a kind.
pub fn kind_name(kind: SnapshotKind) -> &'static str {
    match kind {
        SnapshotKind::Base => "base",
        SnapshotKind::Delta => "delta",
    }
}

/// A moment in UTC, to the microsecond; `None` after the year 9999.
pub fn rfc_3339(unix_us: u64) -> Option<String> {
    (unix_us < RFC_3339_END_US).then(|| {
        humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(unix_us)).to_string()
    })
}

fn text(value: Option<impl ToString>) -> Field {
    value.map_or(Field::Nothing, |value| Field::Text(value.to_string()))
}

fn sum_entries(cores: &[CorePart]) -> u64 {
    cores.iter().fold(0, |sum, part| sum.saturating_add(part.entries))
}

#[cfg(test)]
mod tests {
    use cutwater_engine::types::{Lsn, SnapshotId};
    use cutwater_snapshot::ident::{DatabaseId, SnapshotUuid};
    use cutwater_snapshot::manifest::{State, Tombstone};
    use cutwater_snapshot::paths::SnapshotName;

    use super::*;

    #[test]
    fn times() {
        assert_eq!(rfc_3339(0).unwrap(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc_3339(1_709_210_096_000_007).unwrap(), "2024-02-29T12:34:56.000007Z");
        assert!(rfc_3339(RFC_3339_END_US - 1).unwrap().starts_with("9999-12-31T23:59:59"));
        assert_eq!((rfc_3339(RFC_3339_END_US), rfc_3339(u64::MAX)), (None, None));
    }

    #[test]
    fn what_is_not_published_has_the_same_fields() {
        let (id, begin_lsn) = (SnapshotId(7), Lsn(9));
        let name = SnapshotName { id, begin_lsn };
        let unreadable = EntryState::Unreadable { reason: "why".to_owned() };
        let tombstone = EntryState::Tombstone(Tombstone {
            name,
            database: DatabaseId::default(),
            snapshot_uuid: SnapshotUuid::default(),
            state: State::Deleted,
            reason: "asked".to_owned(),
            created_at_us: 0,
            end_lsn: begin_lsn,
        });
        for (state, word, length) in [
            (EntryState::Unfinished, "unfinished", 10),
            (unreadable, "unreadable", 11),
            (tombstone, "deleted", 11),
        ] {
            let entry = Entry { id, name: Some(name), state, stored_bytes: 5 };
            let fields = fields(&entry);
            assert_eq!(fields.len(), length);
            assert_eq!(fields[0], ("id", Field::Number(7)));
            assert_eq!(fields[3], ("state", Field::Text(word.to_owned())));
            assert_eq!(
                fields[4..6],
                [("begin_lsn", Field::Number(9)), ("end_lsn", Field::Nothing)]
            );
            assert_eq!(fields[7], ("data_bytes", Field::Number(5)));
        }
    }
}
