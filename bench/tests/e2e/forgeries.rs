//! Everything that somebody without the key could do to a sealed store: each is refused by the name
//! of the object and with a reason, by `verify` and by `restore`, and leaves nothing behind.
//!
//! Every bit of every object is flipped in `snapshot/tests/sealing.rs`; here are the commands.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cutwater_bench::server::{self, ServerOptions};
use cutwater_snapshot::manifest::RawManifest;
use cutwater_snapshot::paths::SnapshotName;

use crate::remote::{Remote, create, files_below};
use crate::sealing::{key, manifest, remote_folder, with_keys};
use crate::support::{assert_filled, fill, size};

const KEYS: usize = 300;

/// A store with an older and a newer sealed snapshot, one that is plain, and log behind them.
struct Sealed {
    remote: Remote,
    /// `--key-file` of the key.
    key: String,
    plain: u64,
    older: u64,
    newer: u64,
}

impl Sealed {
    fn new() -> Self {
        let remote = Remote::new();
        let key = format!("k1={}", key(&remote, "key"));
        let mut options = remote.options();
        options.more.extend(["--archive-interval", "100ms"].map(str::to_owned));
        let mut server = options.start().unwrap();
        fill(&mut server.client().unwrap(), "plain", KEYS);
        let plain = create(&server);
        remote.wait_uploaded(&server);
        server.terminate().unwrap();
        options.more.push("--accept-plain".into());
        let mut server = with_keys(options, std::slice::from_ref(&key)).start().unwrap();
        let mut ids = [0; 2];
        for id in &mut ids {
            fill(&mut server.client().unwrap(), &format!("before {plain}"), KEYS);
            *id = create(&server);
        }
        fill(&mut server.client().unwrap(), "after", KEYS);
        remote.wait_uploaded(&server);
        server.terminate().unwrap();
        Self { remote, key, plain, older: ids[0], newer: ids[1] }
    }

    /// Runs a command with this key, which has to be refused, and names and says this.
    fn refused(&self, words: &[&str], key: &[&str], named: &str, what: &str, why: &str) {
        let (code, printed, error) = self.remote.try_command(words, key);
        assert_eq!((code, printed.as_str()), (Some(4), ""), "{why}: {words:?}: {error}");
        assert!(error.contains(named), "{why}: {words:?} does not name {named}: {error}");
        assert!(error.contains(what), "{why}: {words:?} does not say {what:?}: {error}");
    }

    /// That the newer snapshot is neither verified nor restored.
    fn refused_newer(&self, key: &[&str], named: &str, what: &str, why: &str) {
        let id = self.newer.to_string();
        self.refused(&["snapshot", "verify", &id], key, named, what, why);
        let into = self.remote.path("into");
        let restore = ["restore", "--snapshot", &id, "--into", &into];
        self.refused(&restore, key, named, what, why);
        assert!(!Path::new(&into).exists(), "{why}: something was left");
    }

    /// The plain snapshot's manifest, made to fit in the newer one's place, all of it.
    fn forged(&self, newer: &RawManifest) -> RawManifest {
        let (folder, name) = remote_folder(&self.remote, self.plain);
        let mut forged = manifest(&folder, name);
        forged.meta.snapshot_id = newer.meta.snapshot_id;
        forged.meta.begin_lsn = newer.meta.begin_lsn;
        forged.meta.end_lsn = newer.meta.end_lsn;
        forged.meta.data_bytes = newer.meta.data_bytes;
        forged.cores.clone_from(&newer.cores);
        forged.cores.iter_mut().for_each(|part| part.entries = 0);
        forged.objects.clone_from(&newer.objects);
        forged.objects.iter_mut().for_each(|object| object.entries = 0);
        forged.core_files.clone_from(&newer.core_files);
        forged.slot_counts.clear();
        forged
    }

    /// That the newer snapshot is what it was.
    fn assert_whole(&self) {
        let (id, into) = (self.newer.to_string(), self.remote.path("into"));
        let key = ["--key-file", &self.key];
        let (code, _, error) = self.remote.try_command(&["snapshot", "verify", &id], &key);
        assert_eq!(code, Some(0), "{error}");
        let restore = ["restore", "--snapshot", &id, "--into", &into];
        let (code, _, error) = self.remote.try_command(&restore, &key);
        assert_eq!(code, Some(0), "{error}");
        let options = with_keys(ServerOptions::new(&into), std::slice::from_ref(&self.key));
        let server = options.start().unwrap();
        assert_eq!(size(&mut server.client().unwrap()), 2 * KEYS as i64);
    }
}

/// Files as they were.
struct Undo(BTreeMap<PathBuf, Vec<u8>>);

impl Undo {
    fn of(folder: &Path) -> Self {
        let files = files_below(folder).into_iter();
        Self(files.map(|file| (file.clone(), fs::read(&file).unwrap())).collect())
    }

    fn now(&self, folder: &Path) {
        for file in files_below(folder) {
            if !self.0.contains_key(&file) {
                fs::remove_file(&file).unwrap();
            }
        }
        for (file, bytes) in &self.0 {
            if fs::read(file).ok().as_ref() != Some(bytes) {
                fs::write(file, bytes).unwrap();
            }
        }
    }
}

#[test]
fn the_wrong_key_and_none_are_refused_by_verify_and_restore() {
    if server::is_stand_in() {
        return;
    }
    let sealed = Sealed::new();
    let remote = &sealed.remote;
    let (_, name) = remote_folder(remote, sealed.newer);
    let stranger = format!("k1={}", key(remote, "stranger"));
    let other = format!("k2={}", key(remote, "other"));
    let whole = format!("snapshots/{name}/manifest.msgpack");
    for (key, what) in [
        (&["--key-file", stranger.as_str()][..], "the key k1 does not open its data key"),
        (&["--key-file", &other], "sealed under the key k1, which is not configured"),
        (&[], "sealed under the key k1, and no key is configured"),
    ] {
        sealed.refused_newer(key, &whole, what, what);
    }
    sealed.assert_whole();
}

/// Bits, lengths and places of the objects.
#[test]
fn objects_that_were_altered_are_refused_by_verify_and_restore() {
    if server::is_stand_in() {
        return;
    }
    let sealed = Sealed::new();
    let remote = &sealed.remote;
    let good = ["--key-file", &sealed.key];
    let (folder, name) = remote_folder(remote, sealed.newer);
    let (older, _) = remote_folder(remote, sealed.older);
    let (plain, _) = remote_folder(remote, sealed.plain);
    let root = remote.s3.folder();
    let undo = Undo::of(&root);
    let named = |file: &str| format!("snapshots/{name}/{file}");
    let write = |file: &str, bytes: &[u8]| fs::write(folder.join(file), bytes).unwrap();
    let read = |file: &str| fs::read(folder.join(file)).unwrap();
    let objects = ["core-0.snap", "core-1.snap"];
    for object in objects {
        let (bytes, name) = (read(object), named(object));
        let change = |bytes: &[u8], what: &str, why: &str| {
            write(object, bytes);
            sealed.refused_newer(&good, &name, what, why);
        };
        for at in [0, 9, 60, 100, bytes.len() / 2, bytes.len() - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            change(&bad, "", &format!("a flipped bit of byte {at}"));
        }
        change(&bytes[..bytes.len() - 1], "", "one byte cut off");
        change(&bytes[..bytes.len() / 2], "", "half of it cut off");
        change(&[], "", "nothing left");
        change(&[&bytes[..], b"\0"].concat(), "", "a byte behind its end");
        change(&fs::read(older.join(object)).unwrap(), "", "replayed from an older snapshot");
        change(&fs::read(plain.join(object)).unwrap(), "", "replaced by a plain one");
        fs::rename(folder.join(object), folder.join("core-7.snap")).unwrap();
        sealed.refused_newer(&good, &name, "missing", "renamed");
        undo.now(&root);
    }
    let [first, second] = objects.map(read);
    write(objects[0], &second);
    write(objects[1], &first);
    sealed.refused_newer(&good, &format!("snapshots/{name}/core-"), "", "swapped");
    undo.now(&root);
    sealed.assert_whole();
}

/// Manifests, claims and names.
#[test]
fn manifests_and_names_that_were_altered_are_refused_by_verify_and_restore() {
    if server::is_stand_in() {
        return;
    }
    let sealed = Sealed::new();
    let remote = &sealed.remote;
    let good = ["--key-file", &sealed.key];
    let (folder, name) = remote_folder(remote, sealed.newer);
    let (older, _) = remote_folder(remote, sealed.older);
    let root = remote.s3.folder();
    let undo = Undo::of(&root);
    let whole = format!("snapshots/{name}/manifest.msgpack");
    let write = |file: &str, bytes: &[u8]| fs::write(folder.join(file), bytes).unwrap();
    let read = |file: &str| fs::read(folder.join(file)).unwrap();
    let bytes = read("manifest.msgpack");
    for at in (0..bytes.len()).step_by(bytes.len() / 12) {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        write("manifest.msgpack", &bad);
        sealed.refused_newer(&good, &whole, "", &format!("byte {at} of the manifest"));
    }
    write("manifest.msgpack", &bytes[..bytes.len() / 2]);
    sealed.refused_newer(&good, &whole, "", "half a manifest");
    write("manifest.msgpack", &fs::read(older.join("manifest.msgpack")).unwrap());
    sealed.refused_newer(&good, &whole, "snapshot_id", "the manifest of an older one");
    undo.now(&root);
    let raw = manifest(&folder, name);
    type Edit<'a> = (&'a str, &'a dyn Fn(&mut RawManifest));
    let edits: [Edit<'_>; 6] = [
        ("when it was made", &|raw| raw.meta.created_at_us += 1),
        ("its history", &|raw| raw.history_id.0[0] ^= 1),
        ("a position", &|raw| raw.cores[0].position.0 += 1),
        ("a checksum", &|raw| raw.objects[0].crc32c ^= 1),
        ("its reason", &|raw| raw.reason = Some("checkpoint".into())),
        ("its authentication", &|raw| raw.auth.as_mut().unwrap()[0] ^= 1),
    ];
    for (what, edit) in edits {
        let mut edited = raw.clone();
        edit(&mut edited);
        write("manifest.msgpack", &edited.encode());
        sealed.refused_newer(&good, &whole, "it was altered after it was written", what);
    }
    let forged = sealed.forged(&raw);
    write("manifest.msgpack", &forged.encode());
    let unsealed = "it is not sealed, although keys are configured";
    sealed.refused_newer(&good, &whole, unsealed, "a plain manifest");
    undo.now(&root);

    // The claim, which says whose the snapshot is.
    let claim = root.join(format!("some/prefix/claims/{:06}", sealed.newer));
    let mut bytes = fs::read(&claim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&claim, &bytes).unwrap();
    let claim = format!("claims/{:06}", sealed.newer);
    let verify = ["snapshot", "verify", &sealed.newer.to_string()].map(str::to_owned);
    let verify: Vec<&str> = verify.iter().map(String::as_str).collect();
    sealed.refused(&verify, &good, &claim, "", "a flipped bit of the claim");
    undo.now(&root);

    // A snapshot under another name.
    let moved = SnapshotName { id: cutwater_engine::types::SnapshotId(77), ..name };
    fs::rename(&folder, folder.with_file_name(moved.to_string())).unwrap();
    let renamed = format!("snapshots/{moved}/manifest.msgpack");
    sealed.refused(&["snapshot", "verify", "77"], &good, &renamed, "snapshot_id", "renamed");
    let into = remote.path("into");
    let restore = ["restore", "--snapshot", "77", "--into", &into];
    sealed.refused(&restore, &good, &renamed, "snapshot_id", "renamed");
    fs::rename(folder.with_file_name(moved.to_string()), &folder).unwrap();
    undo.now(&root);
    sealed.assert_whole();
}

#[test]
fn what_is_done_to_the_archive_is_refused_by_restore() {
    if server::is_stand_in() {
        return;
    }
    let sealed = Sealed::new();
    let remote = &sealed.remote;
    let good = ["--key-file", &sealed.key];
    let root = remote.s3.folder();
    let undo = Undo::of(&root);
    let wal = root.join("some/prefix/wal");
    let objects: Vec<PathBuf> = files_below(&wal).into_iter().collect();
    let into = remote.path("into");
    let restore = ["restore", "--latest", "--into", &into];
    let plan = [&restore[..], &["--dry-run", "--json"]].concat();
    let (code, printed, error) = remote.try_command(&plan, &good);
    assert_eq!(code, Some(0), "{error}");
    let plan: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let needed: Vec<u64> =
        plan["wal"].as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect();
    assert!(!needed.is_empty(), "{printed}");
    let path = |number: u64| wal.join(format!("{number:012}"));
    let refused = |number: u64, what: &str, why: &str| {
        let named = format!("wal/{number:012}");
        sealed.refused(&restore, &good, &named, what, why);
        assert!(!Path::new(&into).exists(), "{why}: something was left");
        undo.now(&root);
    };
    for &number in &needed {
        let bytes = fs::read(path(number)).unwrap();
        for at in [0, 20, 100, 130, 300, 515, bytes.len() / 2, bytes.len() - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 2;
            fs::write(path(number), &bad).unwrap();
            refused(number, "", &format!("a flipped bit of byte {at} of object {number}"));
        }
        fs::write(path(number), &bytes[..bytes.len() - 1]).unwrap();
        refused(number, "", "one byte cut off");
        fs::write(path(number), b"").unwrap();
        refused(number, "", "nothing left");
        // Another object under this number: the header says so.
        let other = objects.iter().find(|object| **object != path(number)).unwrap();
        fs::copy(other, path(number)).unwrap();
        refused(number, "", "replaced by another");
    }
    let stranger = format!("k1={}", key(remote, "stranger"));
    for key in [&["--key-file", stranger.as_str()][..], &[]] {
        let (code, printed, error) = remote.try_command(&restore, key);
        assert_eq!((code, printed.as_str()), (Some(4), ""), "{error}");
        assert!(error.contains("key") && !Path::new(&into).exists(), "{error}");
    }
    let (code, _, error) = remote.try_command(&restore, &good);
    assert_eq!(code, Some(0), "{error}");
    let options = with_keys(ServerOptions::new(&into), std::slice::from_ref(&sealed.key));
    let server = options.start().unwrap();
    assert_filled(&mut server.client().unwrap(), "after", KEYS);
}
