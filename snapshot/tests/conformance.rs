//! One suite over every store: what a snapshot's life looks like from claim to deletion.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::sync::Mutex;

use common::*;
use cutwater_engine::types::{Lsn, ShardId, SnapshotId};
use cutwater_snapshot::catalog::{Catalog, EntryState};
use cutwater_snapshot::chunk::ChunkKind;
use cutwater_snapshot::core_writer::CoreInput;
use cutwater_snapshot::delete::{delete_snapshot, sweep, sweep_leftovers};
use cutwater_snapshot::error::{SnapshotError, StoreError};
use cutwater_snapshot::paths::{self, SnapshotName};
use cutwater_snapshot::reader::CoreReader;
use cutwater_snapshot::restore::{copy_snapshot, restore_snapshot};
use cutwater_snapshot::store::{open_local, probe};
use cutwater_snapshot::verify::{Progress, verify};
use cutwater_snapshot::writer::{SnapshotSpec, SnapshotWriter};
use object_store::{ObjectStoreExt, path::Path};
use tokio::runtime::Handle;

#[tokio::test]
async fn written_listed_read_and_verified() {
    for (which, store, _guard) in stores() {
        probe(&*store).await.unwrap();
        probe(&*store).await.unwrap();
        let mut claimant = claimant(&store, 1).await;
        let manifest = write(&mut claimant, 100, 1).await;
        assert_eq!(manifest.id(), SnapshotId(2), "{which}: the takeover took 1");
        let meta = manifest.meta();
        assert_eq!((meta.begin_lsn, meta.end_lsn), (Lsn(100), Lsn(110)));
        assert!(manifest.objects_of(ShardId(0)).count() > 1, "several pieces");
        assert_eq!(manifest.raw().core_files.len(), 2);

        let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        assert_eq!(catalog.entries().len(), 1);
        assert_eq!(catalog.get(manifest.id()).unwrap().manifest(), Some(&manifest));
        assert_eq!(catalog.highest_lsn(), Lsn(110));
        assert!(catalog.foreign().is_empty());

        let seen = Mutex::new(Vec::new());
        let progress = |at: Progress| seen.lock().unwrap().push(at);
        let report = verify(&store, manifest.id(), &plain(), &progress).await.unwrap();
        assert_eq!((report.entries, report.tail_records, report.chunks), (9, 2, 5));
        let seen = seen.into_inner().unwrap();
        assert!(seen.is_sorted_by_key(|at| at.done_bytes));
        assert_eq!(seen.last().unwrap().done_bytes, meta.data_bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_plain_thread_reads_chunks_in_order() {
    for (_, store, _guard) in stores() {
        let mut claimant = claimant(&store, 1).await;
        let manifest = write(&mut claimant, 100, 1).await;
        let mut reader = CoreReader::open(
            &Handle::current(),
            store.clone(),
            &manifest.unlock(&plain()).unwrap(),
            ShardId(0),
        );
        let chunks = tokio::task::spawn_blocking(move || {
            let mut chunks = Vec::new();
            while let Some(chunk) = reader.next_blocking().unwrap() {
                chunks.push(chunk);
            }
            chunks
        })
        .await
        .unwrap();
        let bodies: Vec<_> = chunks.iter().map(|chunk| chunk.body.clone()).collect();
        let expected: Vec<_> = ["a", "b", "c"]
            .map(|prefix| puts(prefix, 2, 20).0)
            .into_iter()
            .chain([tail(&[101, 110]).0])
            .collect();
        assert_eq!(bodies, expected);
        assert_eq!(chunks[3].kind, ChunkKind::Tail);
        let lsns: Vec<_> = chunks[3].records().map(|record| record.unwrap().lsn).collect();
        assert_eq!(lsns, [Lsn(101), Lsn(110)]);
    }
}

#[tokio::test]
async fn large_cores_go_up_in_parts_and_pieces_from_a_channel() {
    for (which, store, _guard) in stores() {
        let mut claimant = claimant(&store, 1).await;
        let spec = SnapshotSpec { num_cores: 1, piece_limit_bytes: 20 << 20, ..spec(100, 1) };
        let writer = SnapshotWriter::begin(&mut claimant, spec, &plain()).await.unwrap();
        let (sender, receiver) = flume::bounded(2);
        let core = writer.core(ShardId(0));
        let feed = async {
            for at in 0..12 {
                let (body, entries) = puts(&format!("k{at}"), 3, 1 << 20);
                let body = body.to_vec();
                sender.send_async(CoreInput::Image { body, entries }).await.unwrap();
            }
            sender.send_async(CoreInput::End).await.unwrap();
        };
        let (finished, ()) = tokio::join!(core.run(receiver, point(0, 100)), feed);
        let mut slots = vec![0; 16_384];
        for at in 0..12 {
            for i in 0..3 {
                let key = format!("k{at}:{i}");
                slots[usize::from(cutwater_engine::slot::slot_of(key.as_bytes()).0)] += 1;
            }
        }
        let manifest = writer.finish(vec![finished.unwrap()], slots.clone()).await.unwrap();
        assert_eq!(manifest.objects().len(), 2, "{which}");
        assert_eq!(verify(&store, manifest.id(), &plain(), &|_| ()).await.unwrap().entries, 36);

        // A wrong count of a slot is found.
        let mut raw = manifest.raw().clone();
        raw.slot_counts.rotate_left(1);
        overwrite(&store, &manifest.name().manifest(), &raw.encode()).await;
        let error = verify(&store, manifest.id(), &plain(), &|_| ()).await.unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains("slot"), "{error}");
        overwrite(&store, &manifest.name().manifest(), &manifest.raw().encode()).await;

        let other = memory();
        copy_snapshot(&store, &other, manifest.id(), &plain(), &|_| ()).await.unwrap();
        assert_eq!(verify(&other, manifest.id(), &plain(), &|_| ()).await.unwrap().entries, 36);
    }
}

#[tokio::test]
async fn never_published_with_a_part_missing() {
    for (_, store, _guard) in stores() {
        let mut claimant = claimant(&store, 1).await;
        let writer = SnapshotWriter::begin(&mut claimant, spec(100, 1), &plain()).await.unwrap();
        let first = writer.core(ShardId(0)).finish(point(0, 100)).await.unwrap();
        let refused = writer.finish(vec![first.clone()], Vec::new()).await.unwrap_err();
        assert!(matches!(refused, SnapshotError::MissingPart { core: ShardId(1) }));
        let refused = writer.finish(Vec::new(), Vec::new()).await.unwrap_err();
        assert!(matches!(refused, SnapshotError::MissingPart { core: ShardId(0) }));
        let second = writer.core(ShardId(1)).finish(point(1, 99)).await.unwrap();
        let refused = writer.finish(vec![first.clone(), second], Vec::new()).await.unwrap_err();
        assert!(matches!(refused, SnapshotError::Parts { .. }), "below begin_lsn: {refused}");

        let (sender, receiver) = flume::bounded(1);
        sender.send(CoreInput::Image { body: puts("a", 1, 1).0.to_vec(), entries: 1 }).unwrap();
        drop(sender);
        let closed = writer.core(ShardId(1)).run(receiver, point(1, 100)).await.unwrap_err();
        assert!(matches!(closed, SnapshotError::SourceClosed { core: ShardId(1) }));

        let name = writer.name();
        writer.abort("a shard gave up").await.unwrap();
        let left: Vec<_> = dump(&store).await.into_iter().map(|(path, _)| path).collect();
        assert_eq!(left, ["claims/000001".into(), "claims/000002".into(), path(name)]);
        let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        assert_eq!(catalog.get(name.id).unwrap().state_name(), "aborted");
        let again = write(&mut claimant, 100, 2).await;
        assert_eq!(again.id(), SnapshotId(3), "ids do not return");
    }
}

fn path(name: SnapshotName) -> String {
    name.manifest().to_string()
}

#[tokio::test]
async fn catalog_order_bases_checkpoints_and_deletion() {
    for (_, store, _guard) in stores() {
        let mut claimant = claimant(&store, 1).await;
        let mut ids = Vec::new();
        for (at, begin) in [300, 100, 200].into_iter().enumerate() {
            ids.push(write(&mut claimant, begin, at as u8).await.id());
        }
        let mut catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        let order: Vec<_> = catalog.published().map(|manifest| manifest.id()).collect();
        assert_eq!(order, [ids[1], ids[2], ids[0]]);
        let base = |lsn| catalog.find_base(Lsn(lsn)).map(|manifest| manifest.id());
        assert_eq!(base(109), None);
        assert_eq!(base(110), Some(ids[1]));
        assert_eq!(base(309), Some(ids[2]));
        assert_eq!(base(u64::MAX), Some(ids[0]));
        let protect = catalog.newest_two_checkpoints();
        assert_eq!(protect, [ids[0], ids[2]]);

        let refused = delete_snapshot(&*store, ids[2], &protect, "test").await.unwrap_err();
        assert!(matches!(refused, SnapshotError::Protected { .. }));
        let name = catalog.get(ids[1]).unwrap().name.unwrap();
        let (tombstone, removed) =
            delete_snapshot(&*store, ids[1], &protect, "test").await.unwrap();
        assert!(removed.objects > 2);
        catalog.bury(tombstone);
        assert_eq!(catalog, Catalog::load(&*store, IDENTITY.database).await.unwrap());
        let error = verify(&store, ids[1], &plain(), &|_| ()).await.unwrap_err();
        assert!(matches!(error, SnapshotError::NotPublished { state: "deleted", .. }));

        // What a superseded writer puts there later is swept behind the tombstone.
        overwrite(&store, &name.core_object(ShardId(0), 0), b"late").await;
        let loaded = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        assert_eq!(sweep_leftovers(&*store, &loaded).await.unwrap().objects, 1);
        assert!(sweep(&*store, loaded.get(ids[0]).unwrap().name.unwrap()).await.is_err());
        assert!(matches!(
            delete_snapshot(&*store, SnapshotId(99), &[], "test").await.unwrap_err(),
            SnapshotError::NoSnapshot { .. }
        ));

        let mut loaded = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        let manifest = loaded.get(ids[0]).unwrap().manifest().unwrap().clone();
        loaded.remove(ids[0]);
        assert!(loaded.get(ids[0]).is_none());
        loaded.add(manifest);
        assert_eq!(loaded, catalog);
    }
}

#[tokio::test]
async fn restored_bit_by_bit_into_a_new_folder_only() {
    for (_, store, _guard) in stores() {
        let mut writer = claimant(&store, 1).await;
        write(&mut writer, 100, 1).await;
        let manifest = write(&mut writer, 200, 2).await;
        let target = tempfile::tempdir().unwrap();
        let folder = target.path().join("new/data");
        let progress = |at: Progress| assert!(at.done_bytes <= at.total_bytes);
        let restored =
            restore_snapshot(&store, manifest.id(), &folder, &plain(), &progress).await.unwrap();
        assert_eq!(restored, manifest);
        let copy = open_local(&folder.join("store")).unwrap();
        let source = dump(&store).await;
        let copied = dump(&copy).await;
        assert_eq!(copied.len(), manifest.objects().len() + 2);
        assert!(copied.iter().all(|object| source.contains(object)));
        verify(&copy, manifest.id(), &plain(), &|_| ()).await.unwrap();
        // It can be repeated, and the copy goes on counting where it stands.
        copy_snapshot(&store, &copy, manifest.id(), &plain(), &|_| ()).await.unwrap();
        assert_eq!(claimant(&copy, 2).await.next_id().0, manifest.id().0 + 2);

        let refused = restore_snapshot(&store, manifest.id(), &folder, &plain(), &|_| ()).await;
        assert!(matches!(refused.unwrap_err(), SnapshotError::NotEmpty { .. }));
        let missing =
            restore_snapshot(&store, SnapshotId(77), &target.path().join("m"), &plain(), &|_| ())
                .await;
        assert!(matches!(missing.unwrap_err(), SnapshotError::NoSnapshot { .. }));
    }
}

#[tokio::test]
async fn a_lost_claim_does_not_stop_a_restore() {
    let store = memory();
    let mut writer = claimant(&store, 1).await;
    let manifest = write(&mut writer, 100, 1).await;
    store.delete(&paths::claim(manifest.id())).await.unwrap();
    assert!(verify(&store, manifest.id(), &plain(), &|_| ()).await.is_err());
    let copy = memory();
    copy_snapshot(&store, &copy, manifest.id(), &plain(), &|_| ()).await.unwrap();
    verify(&copy, manifest.id(), &plain(), &|_| ()).await.unwrap();
}

#[tokio::test]
async fn unfinished_foreign_and_contested_entries_are_shown() {
    for (_, store, _guard) in stores() {
        let mut claimant = claimant(&store, 1).await;
        let writer = SnapshotWriter::begin(&mut claimant, spec(100, 1), &plain()).await.unwrap();
        let good = write(&mut claimant, 200, 2).await;
        let twin = SnapshotName { id: good.id(), begin_lsn: Lsn(999) };
        overwrite(&store, &twin.core_object(ShardId(0), 0), b"x").await;
        let orphan = SnapshotName { id: SnapshotId(50), begin_lsn: Lsn(5) };
        overwrite(&store, &orphan.core_object(ShardId(0), 0), b"x").await;
        overwrite(&store, &Path::from("snapshots/readme"), b"x").await;
        overwrite(&store, &paths::claim(SnapshotId(51)), b"damaged").await;

        let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        assert_eq!(catalog.get(writer.name().id).unwrap().state, EntryState::Unfinished);
        assert!(catalog.get(good.id()).unwrap().manifest().is_some());
        assert_eq!(catalog.foreign(), ["snapshots/readme"]);
        let unreadable: Vec<_> = catalog
            .entries()
            .iter()
            .filter(|entry| matches!(entry.state, EntryState::Unreadable { .. }))
            .map(|entry| (entry.id.0, entry.name))
            .collect();
        assert_eq!(unreadable, [(51, None), (50, Some(orphan)), (good.id().0, Some(twin))]);

        let other = cutwater_snapshot::ident::DatabaseId([9; 16]);
        let error = Catalog::load(&*store, other).await.unwrap_err();
        assert!(matches!(error, SnapshotError::ForeignDatabase { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let lax = std::sync::Arc::new(lax::LaxStore(memory()));
    let error = probe(&*lax).await.unwrap_err();
    assert!(matches!(error, StoreError::CreateNotExclusive { .. }));
}

/// A store that takes every conditional put.
mod lax {
    use std::sync::Arc;

    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::path::Path;
    use object_store::*;

    #[derive(Debug)]
    pub struct LaxStore(pub Arc<dyn ObjectStore>);

    impl std::fmt::Display for LaxStore {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("LaxStore")
        }
    }

    #[async_trait]
    impl ObjectStore for LaxStore {
        async fn put_opts(
            &self,
            path: &Path,
            body: PutPayload,
            _: PutOptions,
        ) -> Result<PutResult> {
            self.0.put_opts(path, body, PutOptions::default()).await
        }

        async fn put_multipart_opts(
            &self,
            path: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(path, options).await
        }

        async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
            self.0.get_opts(path, options).await
        }

        fn delete_stream(
            &self,
            paths: BoxStream<'static, Result<Path>>,
        ) -> BoxStream<'static, Result<Path>> {
            self.0.delete_stream(paths)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }
}
