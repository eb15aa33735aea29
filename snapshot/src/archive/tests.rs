//! Objects that were altered in any byte, writers over a store that fails after having done the
//! work, and writers that overtake each other.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cutwater_engine::seal::{KeyId, Keyring, MasterKey, SealError};
use cutwater_engine::types::{LogId, Lsn, ShardId, StartId};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::header::{HEADER_BYTES, Link};
use super::object::{Place, decode, encode, rewrapped};
use super::writer::WalWriterId;
use super::*;
use crate::compression::Compression;
use crate::ident::{DatabaseId, Fork, HistoryId, Identity, WalUuid, WriterNonce};
use crate::paths;

const IDENTITY: Identity = Identity {
    database: DatabaseId([0xDA; 16]),
    history: HistoryId([0x41; 16]),
    fork: Some(Fork { parent: HistoryId([0x40; 16]), lsn: Lsn(50) }),
};

fn secrets(n: u8) -> Secrets {
    Secrets { data_key: [n; 32], wrap_nonce: [n + 1; 12], salt: [n + 2; 32] }
}

fn ring(ids: &[(&str, u8)]) -> Keyring {
    let key = |(id, n): &(&str, u8)| (id.parse::<KeyId>().unwrap(), MasterKey::new([*n; 32]));
    Keyring::new(ids.iter().map(key).collect()).unwrap()
}

fn draft(uuid: u64, from: u64, to: u64) -> Draft {
    let mut body = BodyBuilder::default();
    for shard in 0..2u16 {
        let log = LogId { start: StartId(3), shard: ShardId(shard) };
        for lsn in from + 1..=to.min(from + 3) {
            let ops = [b"some ops that repeat ".repeat(4), lsn.to_le_bytes().to_vec()].concat();
            body.push(WalRecord { log, lsn: Lsn(lsn), ops: &ops });
        }
    }
    let mut id = [0; 16];
    id[..8].copy_from_slice(&uuid.to_le_bytes());
    Draft {
        uuid: WalUuid(id),
        from: Lsn(from),
        to: Lsn(to),
        created_at_us: 7_000,
        body: body.finish(),
        secrets: secrets(9),
    }
}

fn place(number: u64) -> Place {
    Place {
        number: WalNumber(number),
        epoch: 4,
        nonce: WriterNonce([0xEE; 16]),
        identity: IDENTITY,
        predecessor: Some(Link { number: WalNumber(number - 2), uuid: WalUuid([0xAA; 16]) }),
    }
}

fn object(packing: &Packing) -> Vec<u8> {
    encode(&draft(0x55, 100, 120), &place(7), packing).1.to_vec()
}

fn packings() -> Vec<Packing> {
    let mut all = Vec::new();
    for keys in [Keyring::default(), ring(&[("first", 1), ("second", 2)])] {
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
            all.push(Packing { keys: keys.clone(), compression });
        }
    }
    all
}

#[test]
fn objects_come_back() {
    for packing in packings() {
        let draft = draft(0x55, 100, 120);
        let (written, bytes) = encode(&draft, &place(7), &packing);
        let (header, body) = decode(WalNumber(7), &bytes, &packing.keys).unwrap();
        assert_eq!((&header, &body), (&written, &draft.body));
        assert_eq!((header.from, header.to, header.identity), (Lsn(100), Lsn(120), IDENTITY));
        assert_eq!(header.sealed.is_some(), !packing.keys.is_empty());
        let packed = packing.compression != Compression::None;
        assert_eq!(header.body_bytes < header.raw_bytes, packed, "{packing:?}");
        let empty = Draft { body: Body::default(), ..draft };
        let (_, bytes) = encode(&empty, &place(7), &packing);
        assert_eq!(decode(WalNumber(7), &bytes, &packing.keys).unwrap().1, Body::default());
    }
}

#[test]
fn every_altered_byte_is_noticed() {
    for packing in packings() {
        let good = object(&packing);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            let error = decode(WalNumber(7), &bad, &packing.keys).unwrap_err();
            assert!(error.to_string().contains("wal/000000000007"), "{at}: {error}");
            assert!(decode(WalNumber(7), &good[..at], &packing.keys).is_err(), "{at}");
        }
        let longer = [&good[..], b"x"].concat();
        assert!(decode(WalNumber(7), &longer, &packing.keys).is_err());
        assert!(decode(WalNumber(8), &good, &packing.keys).is_err(), "under another number");
    }
}

/// Checksums made right again, as by somebody who means it.
fn with_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    if let Ok(header) = WalHeader::decode(WalNumber(7), &bytes) {
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&header.encode_authenticated());
        let crc = crc32c::crc32c_append(crc, &bytes[HEADER_BYTES..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

#[test]
fn a_sealed_object_is_not_to_be_edited_by_hand() {
    let packing = Packing { keys: ring(&[("first", 1)]), ..Packing::default() };
    let good = object(&packing);
    assert_eq!(with_checksums(good.clone()), good);
    for at in (0..HEADER_BYTES - 4).chain([HEADER_BYTES, good.len() - 5]) {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        let bad = with_checksums(bad);
        match decode(WalNumber(7), &bad, &packing.keys) {
            Err(_) => {}
            // Bytes that no field has: they are not part of what is sealed, and mean nothing.
            Ok((header, _)) => assert_eq!(header.encode().to_vec(), good[..HEADER_BYTES], "{at}"),
        }
    }
    // A plain one in its place.
    let plain = object(&Packing::default());
    let error = decode(WalNumber(7), &plain, &packing.keys).unwrap_err();
    assert!(matches!(error, ArchiveError::NotSealed { .. }), "{error}");
}

#[test]
fn keys_are_named_and_change() {
    let first = Packing { keys: ring(&[("first", 1)]), ..Packing::default() };
    let sealed = object(&first);
    let error = decode(WalNumber(7), &sealed, &Keyring::default()).unwrap_err();
    assert!(error.to_string().contains("--key-file first="), "{error}");
    let error = decode(WalNumber(7), &sealed, &ring(&[("second", 2)])).unwrap_err();
    let missing = |error: &ArchiveError| {
        matches!(error, ArchiveError::Seal { source: SealError::MissingKey { .. }, .. })
    };
    assert!(missing(&error), "{error}");
    let error = decode(WalNumber(7), &sealed, &ring(&[("first", 2)])).unwrap_err();
    assert!(matches!(error, ArchiveError::Seal { source: SealError::WrongKey { .. }, .. }));
    let both = ring(&[("second", 2), ("first", 1)]);
    let changed = rewrapped(WalNumber(7), &sealed, &both, [5; 12]).unwrap();
    assert_eq!(changed[HEADER_BYTES..], sealed[HEADER_BYTES..]);
    let opened = decode(WalNumber(7), &changed, &ring(&[("second", 2)])).unwrap().1;
    assert_eq!(opened, decode(WalNumber(7), &sealed, &both).unwrap().1);
    assert!(missing(&decode(WalNumber(7), &changed, &ring(&[("first", 1)])).unwrap_err()));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "BLESS is a wish of who runs the test")]
fn golden_files() {
    let sealed = Packing { keys: ring(&[("golden", 3)]), ..Packing::default() };
    for (file, packing) in [("wal", Packing::default()), ("wal-sealed", sealed)] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
        let bytes = object(&packing);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert_eq!(bytes, golden, "{file} is not what the format says");
        decode(WalNumber(7), &golden, &packing.keys).unwrap();
    }
}

/// A store whose puts fail as its plan says: before or after having done the work.
#[derive(Debug)]
struct Shaky {
    inner: InMemory,
    /// What becomes of the next puts, the last one first; `None` is well.
    faults: Mutex<Vec<Option<bool>>>,
}

impl fmt::Display for Shaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shaky")
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "shaky", source: "broken on purpose".into() }
}

#[async_trait]
impl ObjectStore for Shaky {
    async fn put_opts(
        &self,
        path: &Path,
        body: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let fault = self.faults.lock().unwrap().pop().flatten();
        if fault == Some(false) {
            return Err(broken());
        }
        let put = self.inner.put_opts(path, body, options).await;
        if fault == Some(true) { Err(broken()) } else { put }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(
        &self,
        path: &Path,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn shaky() -> Arc<Shaky> {
    Arc::new(Shaky { inner: InMemory::new(), faults: Mutex::default() })
}

async fn writer(store: &Arc<Shaky>, epoch: u64) -> ArchiveWriter {
    let head = find_head(&**store, IDENTITY).await.unwrap();
    let nonce = WriterNonce([epoch as u8; 16]);
    let id = WalWriterId { identity: IDENTITY, epoch, nonce };
    ArchiveWriter::new(store.clone(), id, Packing::default(), &head)
}

async fn chain(store: &Arc<Shaky>) -> Vec<(u64, u64, u64)> {
    let archive = Archive::load(&**store, IDENTITY.database).await.unwrap();
    let chain = archive.chain(IDENTITY.history);
    chain.iter().map(|header| (header.link.number.0, header.from.0, header.to.0)).collect()
}

#[tokio::test]
async fn a_late_put_of_an_earlier_writer_is_passed_over() {
    let store = shaky();
    let mut old = writer(&store, 1).await;
    old.put(&draft(1, 100, 110)).await.unwrap();
    let mut new = writer(&store, 2).await;
    old.put(&draft(2, 110, 125)).await.unwrap();
    new.put(&draft(3, 110, 120)).await.unwrap();
    assert_eq!(chain(&store).await, [(1, 100, 110), (3, 110, 120)]);
    let archive = Archive::load(&*store, IDENTITY.database).await.unwrap();
    assert_eq!(archive.orphans(), [WalNumber(2)]);
    let error = old.put(&draft(4, 125, 130)).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Fenced { own: 1, found: 2 }), "{error}");
    new.put(&draft(5, 120, 130)).await.unwrap();
    // The next writer goes on behind the chain's end, whatever stands last.
    let head = find_head(&*store, IDENTITY).await.unwrap();
    assert_eq!((head.last, head.own.unwrap().to), (WalNumber(4), Lsn(130)));
}

#[tokio::test]
async fn a_missing_object_is_a_hole_and_an_unreadable_one_too() {
    let store = shaky();
    let mut writer = writer(&store, 1).await;
    for n in 0..4 {
        writer.put(&draft(n, 100 + n * 10, 110 + n * 10)).await.unwrap();
    }
    store.delete(&paths::wal(2)).await.unwrap();
    assert_eq!(chain(&store).await, [(1, 100, 110), (3, 120, 130), (4, 130, 140)]);
    let damaged = PutPayload::from_static(b"CWARCHIV and then nothing");
    store.put(&paths::wal(3), damaged).await.unwrap();
    assert_eq!(chain(&store).await, [(1, 100, 110), (4, 130, 140)]);
    let archive = Archive::load(&*store, IDENTITY.database).await.unwrap();
    let bad = archive.entries[1].header.as_ref().unwrap_err().to_string();
    assert!(bad.contains("wal/000000000003"), "{bad}");
    // At the top it might be ours, and newer than what can be read: a writer may not go on.
    store.put(&paths::wal(5), PutPayload::from_static(b"x")).await.unwrap();
    assert!(find_head(&*store, IDENTITY).await.unwrap_err().is_corruption());
}

#[tokio::test]
async fn histories_share_the_numbers() {
    let store = shaky();
    let mut ours = writer(&store, 1).await;
    ours.put(&draft(1, 100, 110)).await.unwrap();
    let other = Identity {
        history: HistoryId([0x77; 16]),
        fork: Some(Fork { parent: IDENTITY.history, lsn: Lsn(110) }),
        ..IDENTITY
    };
    let head = find_head(&*store, other).await.unwrap();
    assert_eq!(head, ChainHead { last: WalNumber(1), own: None });
    let id = WalWriterId { identity: other, epoch: 2, nonce: WriterNonce([2; 16]) };
    let mut theirs = ArchiveWriter::new(store.clone(), id, Packing::default(), &head);
    theirs.put(&draft(2, 110, 130)).await.unwrap();
    let archive = Archive::load(&*store, IDENTITY.database).await.unwrap();
    assert_eq!(archive.chain(other.history)[0].predecessor, None);
    assert_eq!(archive.chain(IDENTITY.history).len(), 1);
    assert!(archive.orphans().is_empty());
    let error = Archive::load(&*store, DatabaseId([1; 16])).await.unwrap_err();
    assert!(matches!(error, ArchiveError::ForeignDatabase { .. }));
}

/// Writers that follow each other over a store whose puts fail before or after the work, each
/// trying the same draft again until it is certain: nothing is missing, nothing is there twice.
#[tokio::test]
async fn whatever_the_store_says_the_chain_is_whole() {
    for seed in 0..200u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let store = shaky();
        let (mut at, mut uuid) = (100, 0);
        for epoch in 1..4u64 {
            let mut ours = writer(&store, epoch).await;
            for _ in 0..1 + random(4) {
                let to = at + 1 + random(9);
                uuid += 1;
                let draft = draft(uuid, at, to);
                *store.faults.lock().unwrap() = (0..random(4))
                    .map(|_| [None, Some(false), Some(true)][random(3) as usize])
                    .collect();
                let put = loop {
                    match ours.put(&draft).await {
                        Ok(put) => break put,
                        Err(error) => assert!(error.is_retryable(), "seed {seed}: {error}"),
                    }
                };
                assert!(matches!(put, Put::Stored(_)), "seed {seed}");
                at = to;
            }
        }
        store.faults.lock().unwrap().clear();
        let chain = chain(&store).await;
        let pieces = chain.iter().map(|&(_, from, to)| to - from).sum::<u64>();
        assert_eq!((chain.len() as u64, pieces), (uuid, at - 100), "seed {seed}");
        assert!(chain.windows(2).all(|pair| pair[0].2 == pair[1].1), "seed {seed}");
    }
}
