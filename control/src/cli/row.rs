//! One snapshot as the command line shows it, whether a server or a store told of it: fields in
//! their order, as JSON or as text. Pure.

use std::fmt::Write as _;

use cutwater_control::listing::{self, Field, PINNED_FIELD, REMOTE_FIELD};
use cutwater_engine::resp::Value;
use cutwater_snapshot::catalog::Entry;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;

/// Fields that every snapshot has; null where it is not known.
const REQUIRED: [&str; 5] = ["id", "begin_lsn", "end_lsn", "kind", "state"];
/// Fields that are whole numbers, however the protocol carries them.
const NUMBERS: [&str; 8] = [
    "id",
    "begin_lsn",
    "end_lsn",
    "data_bytes",
    "entries",
    "parent_id",
    "last_end_lsn",
    "archived_to_lsn",
];
/// Fields that are lists of maps.
const LISTS: [&str; 1] = ["verifications"];
/// The columns of a list: field and heading.
const COLUMNS: [(&str, &str); 9] = [
    ("id", "ID"),
    ("kind", "KIND"),
    ("state", "STATE"),
    ("created_at", "CREATED"),
    ("data_bytes", "BYTES"),
    ("entries", "ENTRIES"),
    ("begin_lsn", "BEGIN_LSN"),
    ("end_lsn", "END_LSN"),
    ("parent_id", "PARENT"),
];
/// What stands for a field without a value.
const NOTHING: &str = "-";

/// Why a reply is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The reply has another shape.
    #[error("a list of snapshots was expected")]
    NotList,
    /// An element has another shape.
    #[error("a map of fields was expected")]
    NotMap,
    /// A field is not there.
    #[error("a snapshot without the field {0}")]
    Missing(&'static str),
    /// A field that must be a number is none.
    #[error("a snapshot whose field {0} is no number")]
    NotNumber(String),
}

/// The fields of one snapshot, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Vec<(String, Json)>);

impl Row {
    /// The snapshot in a map of fields: a RESP3 map, or a RESP2 array of names and values.
    ///
    /// # Errors
    /// [`RowError`].
    pub fn from_reply(reply: &Value) -> Result<Self, RowError> {
        let row = Self::of_fields(reply)?;
        let has = |name: &&str| row.0.iter().any(|(own, _)| own == *name);
        match REQUIRED.iter().find(|name| !has(name)) {
            Some(name) => Err(RowError::Missing(name)),
            None => Ok(row),
        }
    }

    /// Any map of fields.
    ///
    /// # Errors
    /// [`RowError`].
    pub fn of_fields(reply: &Value) -> Result<Self, RowError> {
        let fields: Vec<(String, Json)> = reply
            .pairs()
            .ok_or(RowError::NotMap)?
            .into_iter()
            .map(|(name, value)| {
                let name = name.as_str().ok_or(RowError::NotMap)?;
                Ok((name.to_owned(), field(name, value)?))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self(fields))
    }

    /// Any map of fields, if it is one.
    pub fn of_map(reply: &Value) -> Option<Self> {
        Self::fields_of(reply).ok()
    }

    fn fields_of(reply: &Value) -> Result<Self, RowError> {
        let field = |(name, value): (&Value, &Value)| {
            let name = name.as_str().ok_or(RowError::NotMap)?;
            Ok((name.to_owned(), field(name, value)?))
        };
        let pairs = reply.pairs().ok_or(RowError::NotMap)?.into_iter();
        Ok(Self(pairs.map(field).collect::<Result<_, _>>()?))
    }

    /// A snapshot of a store that was opened here.
    pub fn from_entry(entry: &Entry) -> Self {
        let fields = listing::fields(entry).into_iter();
        Self(fields.map(|(name, field)| (name.to_owned(), field_json(field))).collect())
    }

    /// The snapshots in a list of maps.
    ///
    /// # Errors
    /// [`RowError`].
    pub fn list_from_reply(reply: &Value) -> Result<Vec<Self>, RowError> {
        reply.as_array().ok_or(RowError::NotList)?.iter().map(Self::from_reply).collect()
    }

    /// A field's value; `None` if it is absent or null.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value).filter(|v| !v.is_null())
    }

    /// A line a field.
    pub fn to_lines(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in &self.0 {
            let _ = writeln!(text, "{:width$}  {}", clean(name), cell(Some(value)));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Snapshots as a table with headings.
pub fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no snapshots".to_owned();
    }
    // Only a server with a remote store tells of it.
    let has_remote = rows.iter().any(|row| row.get(REMOTE_FIELD).is_some());
    let remote = has_remote.then_some((REMOTE_FIELD, "REMOTE"));
    let has_pin = rows.iter().any(|row| row.get(PINNED_FIELD).is_some());
    let pinned = has_pin.then_some((PINNED_FIELD, "PINNED"));
    let columns: Vec<(&str, &str)> = COLUMNS.into_iter().chain(pinned).chain(remote).collect();
    let headings = columns.iter().map(|(_, heading)| (*heading).to_owned()).collect();
    let cells = |row: &Row| columns.iter().map(|(name, _)| cell(row.get(name))).collect();
    let lines: Vec<Vec<String>> = std::iter::once(headings).chain(rows.iter().map(cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn field(name: &str, value: &Value) -> Result<Json, RowError> {
    if LISTS.contains(&name) {
        let rows = value.as_array().ok_or(RowError::NotList)?.iter().map(Row::of_fields);
        let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
        return Ok(rows.into_iter().map(|row| Json::from_iter(row.0)).collect());
    }
    if !NUMBERS.contains(&name) {
        return Ok(json(value));
    }
    // An LSN may be beyond the signed integers of the protocol, and then comes as its digits.
    let number = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        other => other.as_str().and_then(|digits| digits.parse().ok()),
    };
    match number {
        Some(number) => Ok(Json::from(number)),
        None if value.is_null() || value.as_str() == Some("") => Ok(Json::Null),
        None => Err(RowError::NotNumber(name.to_owned())),
    }
}

fn field_json(field: Field) -> Json {
    match field {
        Field::Number(number) => Json::from(number),
        Field::Text(text) => Json::from(text),
        Field::List(rows) => {
            let row = |row: Vec<(&str, Field)>| -> Json {
                row.into_iter().map(|(name, field)| (name, field_json(field))).collect()
            };
            rows.into_iter().map(row).collect()
        }
        Field::Nothing => Json::Null,
    }
}

/// Any value as JSON; maps come as such only in RESP3.
fn json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(number) => Json::from(*number),
        Value::Boolean(boolean) => Json::from(*boolean),
        Value::Double(number) => Json::from(*number),
        Value::Array(values) | Value::Set(values) | Value::Push(values) => {
            values.iter().map(json).collect()
        }
        Value::Map(pairs) => pairs.iter().map(|(name, value)| (text(name), json(value))).collect(),
        Value::Attribute { value, .. } => json(value),
        other => Json::from(text(other)),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Error(message) => message.clone(),
        Value::Integer(number) => number.to_string(),
        other => String::from_utf8_lossy(other.as_bytes().unwrap_or_default()).into_owned(),
    }
}

fn cell(value: Option<&Json>) -> String {
    match value {
        None | Some(Json::Null) => NOTHING.to_owned(),
        Some(Json::String(text)) => clean(text),
        Some(other) => clean(&other.to_string()),
    }
}

/// What a server sends must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.as_bytes().to_vec())
    }

    fn fields() -> Vec<(&'static str, Value)> {
        vec![
            ("id", Value::Integer(7)),
            ("begin_lsn", bulk("7161234567890123456")),
            ("end_lsn", bulk("18446744073709551615")),
            ("kind", bulk("base")),
            ("state", Value::Simple("published".to_owned())),
            ("created_at", bulk("2026-01-02T03:04:05Z")),
            ("parent_id", Value::Null),
            ("cores", Value::Array(vec![Value::Integer(1), Value::Boolean(true)])),
        ]
    }

    fn map(fields: Vec<(&str, Value)>) -> Value {
        Value::Map(fields.into_iter().map(|(name, value)| (bulk(name), value)).collect())
    }

    fn flat(fields: Vec<(&str, Value)>) -> Value {
        Value::Array(fields.into_iter().flat_map(|(name, value)| [bulk(name), value]).collect())
    }

    #[test]
    fn both_protocols_give_the_same_json() {
        let row = Row::from_reply(&map(fields())).unwrap();
        assert_eq!(Row::from_reply(&flat(fields())).unwrap(), row);
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            "{\"id\":7,\"begin_lsn\":7161234567890123456,\"end_lsn\":18446744073709551615,\
             \"kind\":\"base\",\"state\":\"published\",\"created_at\":\"2026-01-02T03:04:05Z\",\
             \"parent_id\":null,\"cores\":[1,true]}"
        );
        let list = Value::Array(vec![map(fields()), flat(fields())]);
        assert_eq!(Row::list_from_reply(&list).unwrap(), [row.clone(), row]);
    }

    #[test]
    fn other_replies_are_refused() {
        for name in REQUIRED {
            let mut fields = fields();
            fields.retain(|(own, _)| *own != name);
            assert_eq!(Row::from_reply(&map(fields)), Err(RowError::Missing(name)));
        }
        let mut wrong = fields();
        wrong[0].1 = bulk("seven");
        let error = Row::from_reply(&map(wrong)).unwrap_err();
        assert_eq!(error.to_string(), "a snapshot whose field id is no number");
        assert_eq!(Row::from_reply(&bulk("x")), Err(RowError::NotMap));
        assert_eq!(Row::from_reply(&Value::Array(vec![Value::Null; 2])), Err(RowError::NotMap));
        assert_eq!(Row::list_from_reply(&Value::Null), Err(RowError::NotList));
    }

    #[test]
    fn text_for_people() {
        let mut fields = fields();
        fields[3].1 = bulk("ba\x1b[2Jse");
        let row = Row::from_reply(&map(fields)).unwrap();
        assert_eq!(table(&[]), "no snapshots");
        assert_eq!(
            table(std::slice::from_ref(&row)),
            "ID  KIND      STATE      CREATED               BYTES  ENTRIES  \
             BEGIN_LSN            END_LSN               PARENT\n\
             7   ba?[2Jse  published  2026-01-02T03:04:05Z  -      -        \
             7161234567890123456  18446744073709551615  -"
        );
        let lines = row.to_lines();
        assert!(lines.starts_with("id          7\nbegin_lsn   716"), "{lines}");
        assert!(lines.ends_with("parent_id   -\ncores       [1,true]"), "{lines}");
    }
}
