//! The engine's own snapshots as a way back: streams become an image in memory, the log that it
//! covers is let go, and the engine starts from it again, on other numbers of shards.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutwater_engine::engine::snapshot::CHUNK_QUEUE_BYTES;
use cutwater_engine::engine::{OpenError, PartEvent, log_dir};
use cutwater_engine::entry::Op;
use cutwater_engine::log::{
    Coverage, FileDisk, LogError, LogMark, LogRange, Part, Record, Running,
};
use cutwater_engine::types::{Lsn, Position};
use cutwater_engine::{Engine, EngineConfig, ImageSource};
use futures::executor::block_on;

/// No test waits longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The chunks of a part's image, and the ops of its tail.
type StoredPart = (Vec<Vec<u8>>, Vec<Vec<u8>>);

/// A snapshot in memory.
#[derive(Clone)]
struct Image {
    name: &'static str,
    coverage: Option<Coverage>,
    end_lsn: Lsn,
    /// Chunks and tail of each part.
    parts: Arc<Vec<StoredPart>>,
    /// Reading it fails in the middle.
    damaged: bool,
}

impl ImageSource for Image {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn coverage(&self) -> Option<Coverage> {
        self.coverage.clone()
    }

    fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    fn parts(&self, _layer: usize) -> usize {
        self.parts.len()
    }

    fn read(
        &self,
        _layer: usize,
        part: usize,
        with_tail: bool,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let (chunks, tail) = &self.parts[part];
        for chunk in chunks {
            sink(chunk)?;
            if self.damaged {
                return Err("a flipped bit".to_owned());
            }
        }
        if with_tail { tail.iter().try_for_each(|ops| sink(ops)) } else { Ok(()) }
    }
}

/// Takes a snapshot, part by part and thread by thread.
fn image_of(engine: &Engine, name: &'static str) -> (Image, Vec<Position>) {
    let streams = block_on(engine.create_snapshot(None)).unwrap();
    let coverage = Coverage {
        start: engine.start(),
        parts: streams
            .parts
            .iter()
            .map(|part| Part { watermark: part.watermark, position: part.position })
            .collect(),
    };
    let before = streams.parts.iter().map(|part| part.position).collect();
    let parts = streams.parts.into_iter().map(|mut part| {
        std::thread::spawn(move || {
            let mut chunks = Vec::new();
            loop {
                match part.next_blocking().unwrap() {
                    PartEvent::Chunk(chunk) => chunks.push(chunk.as_ref().to_vec()),
                    PartEvent::End { tail, .. } => {
                        return (chunks, tail.into_iter().map(|(_, ops)| ops).collect());
                    }
                }
            }
        })
    });
    let threads: Vec<_> = parts.collect();
    let parts = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let (end_lsn, parts) = (streams.end_lsn, Arc::new(parts));
    (Image { name, coverage: Some(coverage), end_lsn, parts, damaged: false }, before)
}

fn config(dir: &Path, shards: u16, images: &[&Image]) -> EngineConfig {
    let mut config = EngineConfig::directory(dir);
    config.shards = shards;
    config.segment_bytes = 256 << 10;
    for image in images {
        config.images.push(Box::new((*image).clone()));
    }
    config
}

fn segments(dir: &Path) -> usize {
    let files = std::fs::read_dir(log_dir(dir)).unwrap().map(|file| file.unwrap().file_name());
    files.filter(|name| name.to_string_lossy().ends_with(".seg")).count()
}

fn fill(engine: &Engine, name: &str) {
    for n in 0..300 {
        let value = format!("{name}{n}").repeat(300);
        engine.client().set(format!("{name}:{n}"), value).unwrap();
    }
}

fn check(engine: &Engine, names: &[&str]) {
    for name in names {
        for n in 0..300 {
            let value = engine.client().get(format!("{name}:{n}")).unwrap();
            assert_eq!(value, Some(format!("{name}{n}").repeat(300).into_bytes()), "{name}:{n}");
        }
    }
    let keys = engine.client().execute(&["DBSIZE"]).unwrap().as_integer();
    assert_eq!(keys, Some(300 * names.len() as i64));
}

#[test]
fn an_image_and_the_rest_of_the_log_on_other_numbers_of_shards() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(config(dir.path(), 2, &[])).unwrap();
    fill(&engine, "a");
    fill(&engine, "b");
    // Writes go on while the snapshot is taken; it has them whole or not at all.
    let stop = AtomicBool::new(false);
    let count = Mutex::new(0u64);
    let (image, before) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                *count.lock().unwrap() += 1;
                let n = count.lock().unwrap().to_string();
                engine.client().mset(&[("left", &n), ("right", &n)]).unwrap();
            }
        });
        let taken = image_of(&engine, "first");
        stop.store(true, Ordering::Relaxed);
        taken
    });
    engine.client().del(&["left", "right"]).unwrap();
    let full = segments(dir.path());
    engine.release_log(&before).unwrap();
    fill(&engine, "c");
    check(&engine, &["a", "b", "c"]);
    engine.close().unwrap();
    assert!(full >= 4, "the log was several segments: {full}");

    // The log alone no longer reaches back.
    let error = Engine::open(config(dir.path(), 2, &[])).unwrap_err();
    assert!(matches!(error, OpenError::Recovery(_)), "{error}");
    let mut names = vec!["a", "b", "c"];
    for (shards, name) in [(3, "d"), (1, "e"), (4, "f")] {
        let engine = Engine::open(config(dir.path(), shards, &[&image])).unwrap();
        assert_eq!(engine.recovered().image.as_deref(), Some("first"));
        check(&engine, &names);
        fill(&engine, name);
        names.push(name);
        engine.close().unwrap();
    }
}

/// The newest image is damaged: the one before is taken, since the log reaches back to it.
#[test]
fn a_damaged_image_gives_way_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(config(dir.path(), 2, &[])).unwrap();
    fill(&engine, "a");
    let (first, _) = image_of(&engine, "first");
    fill(&engine, "b");
    let (mut second, _) = image_of(&engine, "second");
    engine.close().unwrap();
    second.damaged = true;
    let both = Engine::open(config(dir.path(), 2, &[&second, &first])).unwrap();
    assert_eq!(both.recovered().image.as_deref(), Some("first"));
    check(&both, &["a", "b"]);
    both.close().unwrap();
    // Nothing but damage: refused, and the directory is free afterwards.
    let error = Engine::open(config(dir.path(), 2, &[&second])).unwrap_err();
    assert!(matches!(&error, OpenError::Image { name, .. } if name == "second"), "{error}");
    Engine::open(config(dir.path(), 2, &[&first])).unwrap().close().unwrap();
}

/// A new directory begins with an image: its tail is part of it, its log does not continue ours.
#[test]
fn an_image_in_a_new_directory_and_in_memory() {
    let mut source = EngineConfig::memory();
    source.shards = 3;
    let engine = Engine::open(source).unwrap();
    fill(&engine, "a");
    let (mut image, _) = image_of(&engine, "one");
    image.coverage = None;
    engine.close().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(config(dir.path(), 2, &[&image])).unwrap();
    check(&engine, &["a"]);
    engine.close().unwrap();
    let mut config = EngineConfig::memory();
    config.images.push(Box::new(image));
    let engine = Engine::open(config).unwrap();
    check(&engine, &["a"]);
    engine.close().unwrap();
}

/// An image of layers: each over the one before, whatever shard owns the slots now.
struct Layers(Vec<Image>);

impl ImageSource for Layers {
    fn name(&self) -> String {
        "layers".to_owned()
    }

    fn coverage(&self) -> Option<Coverage> {
        None
    }

    fn end_lsn(&self) -> Lsn {
        self.0.last().map_or(Lsn::ZERO, |last| last.end_lsn)
    }

    fn layers(&self) -> usize {
        self.0.len()
    }

    fn parts(&self, layer: usize) -> usize {
        self.0[layer].parts(0)
    }

    fn read(
        &self,
        layer: usize,
        part: usize,
        with_tail: bool,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        assert!(with_tail, "no log continues them");
        self.0[layer].read(0, part, with_tail, sink)
    }
}

#[test]
fn layers_are_loaded_one_over_the_other() {
    let mut layers = Vec::new();
    for (shards, names) in [(3, &["a", "b"][..]), (2, &["b", "c"])] {
        let mut config = EngineConfig::memory();
        config.shards = shards;
        let engine = Engine::open(config).unwrap();
        names.iter().for_each(|name| fill(&engine, name));
        engine.client().set("who", format!("of {shards}")).unwrap();
        layers.push(image_of(&engine, "layer").0);
        engine.close().unwrap();
    }
    let mut config = EngineConfig::memory();
    config.shards = 4;
    config.images.push(Box::new(Layers(layers)));
    let engine = Engine::open(config).unwrap();
    assert_eq!(engine.client().get("who").unwrap(), Some(b"of 2".to_vec()));
    engine.client().del(&["who"]).unwrap();
    check(&engine, &["a", "b", "c"]);
    engine.close().unwrap();
}

/// Marks of a running engine, and the log up to them: every acknowledged write below the marks, no
/// write above, transactions whole; ranges go on where the last one ended, over a restart with
/// another number of shards.
#[test]
fn marks_and_the_log_up_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = None::<Coverage>;
    let mut state = BTreeMap::new();
    let mut written = 0u32;
    for shards in [2, 3] {
        let engine = Engine::open(config(dir.path(), shards, &[])).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| {
                for n in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let n = n.to_string();
                    engine.client().mset(&[("left", &n), ("right", &n), ("middle", &n)]).unwrap();
                }
            });
            for _ in 0..20 {
                for _ in 0..10 {
                    written += 1;
                    engine.client().set(format!("k{written}"), written.to_string()).unwrap();
                }
                let (marks, to) = marks_above(&engine, engine.now());
                let running = Running::from_marks(engine.start(), &marks);
                let disk = Arc::new(FileDisk);
                let (folder, keys) = (log_dir(dir.path()), engine.log_keys());
                let range = LogRange::open(disk, &folder, keys, place.as_ref(), &running).unwrap();
                let mut parts = Vec::new();
                for found in range.logs() {
                    let mut apply = |record: &Record<'_>| {
                        assert!(record.lsn <= to);
                        for op in record.ops() {
                            let Op::Put { key, value, .. } = op.unwrap() else {
                                panic!("only SET")
                            };
                            state.insert(key.to_vec(), value.to_vec());
                        }
                        Ok::<_, LogError>(())
                    };
                    let position = range.replay(found.log, Lsn::ZERO, to, &mut apply).unwrap();
                    if found.log.start == engine.start() {
                        parts.push(Part { watermark: to, position });
                    }
                }
                place = Some(Coverage { start: engine.start(), parts });
                assert_eq!(state.get(b"left".as_slice()), state.get(b"right".as_slice()));
                assert_eq!(state.get(b"left".as_slice()), state.get(b"middle".as_slice()));
                for n in 1..=written {
                    let (key, value) = (format!("k{n}").into_bytes(), n.to_string().into_bytes());
                    assert_eq!(state.get(&key), Some(&value), "k{n} was acknowledged before");
                }
            }
        });
        engine.close().unwrap();
    }
}

/// Ends the writers, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Marks that close an LSN; a transaction under way keeps a shard from closing what lies above it.
fn marks_above(engine: &Engine, lsn: Lsn) -> (Vec<LogMark>, Lsn) {
    for _ in 0..10_000 {
        let marks = block_on(engine.mark()).unwrap();
        let to = marks.iter().map(|mark| mark.closed).min().unwrap();
        if to >= lsn {
            return (marks, to);
        }
    }
    panic!("{lsn} is never closed");
}

/// More than the chunk queue holds, on two shards, and a consumer who does not look at the second
/// part before the first is over: what the second has queued must not keep the first from walking.
#[test]
fn parts_can_be_taken_one_after_the_other() {
    const KEYS: usize = 12_000;
    const VALUE_BYTES: usize = 8 << 10;
    let mut config = EngineConfig::memory();
    config.shards = 3;
    let engine = Engine::open(config).unwrap();
    let client = engine.client();
    let value = vec![b'v'; VALUE_BYTES];
    for first in (0..KEYS).step_by(50) {
        let sets: Vec<Vec<Vec<u8>>> = (first..first + 50)
            .map(|n| vec![b"SET".to_vec(), format!("key:{n}").into_bytes(), value.clone()])
            .collect();
        assert!(client.batch(&sets).unwrap().iter().all(|reply| reply.as_error().is_none()));
    }
    const { assert!(KEYS * VALUE_BYTES > CHUNK_QUEUE_BYTES + CHUNK_QUEUE_BYTES / 4) };

    let (done, counted) = flume::bounded(1);
    let streams = block_on(engine.create_snapshot(None)).unwrap();
    std::thread::spawn(move || {
        let mut entries = 0;
        // The last first: the shards before it fill the queue meanwhile.
        for mut part in streams.parts.into_iter().rev() {
            while let PartEvent::Chunk(chunk) = part.next_blocking().unwrap() {
                entries += chunk.entries;
            }
        }
        done.send(entries)
    });
    let entries = counted.recv_timeout(PATIENCE).expect("the parts end one after the other");
    assert_eq!(entries, KEYS as u64);
    engine.close().unwrap();
}
