//! A keyspace as a plain map, filled by ops: what a snapshot and a log say, without the code that
//! applies them in a shard.

use std::collections::BTreeMap;

use cutwater_engine::entry::{DecodeError, Op};
use cutwater_engine::slot::slot_of;

use super::model::Value;

/// Keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image(pub BTreeMap<Vec<u8>, Value>);

impl Image {
    /// Applies encoded ops.
    ///
    /// # Errors
    /// The bytes are no ops.
    pub fn apply(&mut self, mut ops: &[u8]) -> Result<(), DecodeError> {
        while !ops.is_empty() {
            match Op::decode(&mut ops)? {
                Op::Put { key, expires_at_ms, value, .. } => {
                    let value = Value { bytes: value.to_vec(), expires_at_ms };
                    self.0.insert(key.to_vec(), value);
                }
                Op::Delete { key, .. } => {
                    self.0.remove(key);
                }
                Op::Expire { key, expires_at_ms, .. } => {
                    if let Some(value) = self.0.get_mut(key) {
                        value.expires_at_ms = expires_at_ms;
                    }
                }
                Op::Write { key, offset, bytes, .. } => {
                    let empty = || Value { bytes: Vec::new(), expires_at_ms: None };
                    let value = &mut self.0.entry(key.to_vec()).or_insert_with(empty).bytes;
                    let end = offset as usize + bytes.len();
                    value.resize(value.len().max(end), 0);
                    value[offset as usize..end].copy_from_slice(bytes);
                }
                Op::Clear { first, last, .. } => {
                    self.0.retain(|key, _| !(first..=last).contains(&slot_of(key)));
                }
            }
        }
        Ok(())
    }

    /// The values of these keys, in order.
    pub fn values(&self, names: &[Vec<u8>]) -> Vec<Option<Value>> {
        names.iter().map(|name| self.0.get(name).cloned()).collect()
    }
}
