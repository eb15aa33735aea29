//! What `tracing` is told: every boot, recovery and snapshot is a span with its shard, its id and
//! its LSN.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use cutwater_control::{Database, DatabaseConfig};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

/// The fields of a span, as text.
type Fields = BTreeMap<&'static str, String>;

/// Remembers all spans of this process.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    spans: Vec<(&'static str, Fields)>,
    /// Where the one with this id is; a closed span's id is used again.
    places: HashMap<u64, usize>,
}

struct Text<'f>(&'f mut Fields);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, span: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut fields = Fields::new();
        span.record(&mut Text(&mut fields));
        let mut seen = self.0.lock().unwrap();
        let place = seen.spans.len();
        seen.places.insert(id.into_u64(), place);
        seen.spans.push((span.metadata().name(), fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut seen = self.0.lock().unwrap();
        let place = seen.places[&id.into_u64()];
        values.record(&mut Text(&mut seen.spans[place].1));
    }
}

impl Spans {
    /// The spans of a name so far.
    fn of(&self, name: &str) -> Vec<Fields> {
        let seen = self.0.lock().unwrap();
        seen.spans.iter().filter(|(it, _)| *it == name).map(|(_, fields)| fields.clone()).collect()
    }
}

/// Every span has an id and an LSN, and each of the shards has one.
fn assert_complete(found: &[Fields], shards: &[&str]) {
    let mut seen: Vec<&str> = Vec::new();
    for fields in found {
        assert!(fields.contains_key("id") && fields.contains_key("lsn"), "{found:?}");
        seen.extend(fields.get("shard").map(String::as_str));
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, shards, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boots_recoveries_and_snapshots_are_spans() {
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = DatabaseConfig::directory(dir.path()).unwrap();
        config.engine.shards = 2;
        config
    };
    let database = Database::open(config()).await.unwrap();
    database.client().mset(&[("a", "1"), ("b", "2"), ("c", "3")]).unwrap();
    let manifest = database.snapshot().await.unwrap();
    database.client().mset(&[("d", "4"), ("e", "5"), ("f", "6")]).unwrap();
    database.close().await.unwrap();

    for name in ["boot", "snapshot"] {
        assert_complete(&spans.of(name), &["0", "1"]);
    }
    let snapshots = spans.of("snapshot");
    let whole = snapshots.iter().find(|fields| !fields.contains_key("shard")).unwrap();
    assert_eq!(whole["id"], manifest.id().0.to_string());
    assert_eq!(whole["lsn"], manifest.meta().begin_lsn.0.to_string());

    let database = Database::open(config()).await.unwrap();
    database.close().await.unwrap();
    let found = spans.of("recovery");
    assert_complete(&found, &["0", "1"]);
    // Of the image, and of the log behind it.
    let ids: Vec<&str> = found.iter().map(|fields| fields["id"].as_str()).collect();
    assert!(ids.iter().any(|id| id.contains("snap")), "{ids:?}");
    assert!(ids.contains(&"000001-000") || ids.contains(&"000001-001"), "{ids:?}");
}
