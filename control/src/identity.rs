//! Who a data directory is: `DATA/database.toml`, with the id of the database, the id of its
//! history, and where that history forked off if it began by a restore.
//!
//! Made once, at the first start or by a restore, atomically and durably: written beside, synced,
//! renamed, and the directory synced. It is never changed afterwards. Its last line is the CRC32C
//! of all bytes before it, in this and every later version, so damage and another version are told
//! apart. The format:
//!
//! ```toml
//! # Identity of a Cutwater database. Written once by the server; not to be edited.
//! format = 1
//! database = "0f3c..."         # 128 bits in 32 hexadecimal digits
//! history = "91ab..."
//! parent_history = "77de..."   # these two only after a restore
//! fork_lsn = "7161234567890123456"   # a string: TOML's integers end at 2^63 - 1
//! crc32c = "0a1b2c3d"
//! ```

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cutwater_engine::types::Lsn;
pub use cutwater_snapshot::ident::Fork;
use cutwater_snapshot::ident::{self, DatabaseId, HistoryId};

/// The name of the identity file in a data directory.
pub const IDENTITY_FILE: &str = "database.toml";
/// What it is called until it is complete.
pub const IDENTITY_DRAFT: &str = "database.toml.new";
/// The version that this program writes, and the only one that it reads; 0 was never released.
pub const FORMAT_VERSION: u32 = 1;
/// An identity is far smaller; anything larger is none.
const MAX_BYTES: u64 = 64 << 10;

/// Who a data directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The database.
    pub database: DatabaseId,
    /// The history.
    pub history: HistoryId,
    /// Set if the history began by a restore.
    pub fork: Option<Fork>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Written by another version of the program.
    #[error(
        "{} is of format {found}, and this version of cutwater reads only format {FORMAT_VERSION}",
        .path.display()
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// The format that it names.
        found: u64,
    },
    /// The bytes are not those that were written.
    #[error("{} is damaged: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: &'static str,
    },
    /// There is one already; it is never replaced.
    #[error("{} exists already", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("cannot {verb} {}: {source}", .path.display())]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes for a new identity: {0}")]
    Random(getrandom::Error),
}

impl IdentityError {
    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::OtherVersion { .. } => {
                "Start the version that wrote it, or restore a snapshot into a new directory."
            }
            Self::Damaged { .. } => {
                "Put the file back from a copy of the directory, or restore a snapshot into a \
                 new one."
            }
            Self::Exists { .. } => "Choose a new or empty directory.",
            Self::Io { .. } => "Let this user read and write the directory, and look at the disk.",
            Self::Random(_) => "Let the process call getrandom(2).",
        }
    }
}

impl Identity {
    /// A new database with its first history.
    ///
    /// # Errors
    /// [`IdentityError::Random`].
    pub fn new_database() -> Result<Self, IdentityError> {
        let database = DatabaseId::random().map_err(IdentityError::Random)?;
        Ok(Self { database, history: random_history()?, fork: None })
    }

    /// The same database with a new history, which forks off `fork.parent` after `fork.lsn`.
    ///
    /// # Errors
    /// [`IdentityError::Random`].
    pub fn forked(database: DatabaseId, fork: Fork) -> Result<Self, IdentityError> {
        Ok(Self { database, history: random_history()?, fork: Some(fork) })
    }

    /// What snapshots of this data directory are stamped with.
    pub fn ids(&self) -> ident::Identity {
        let Self { database, history, fork } = *self;
        ident::Identity { database, history, fork }
    }

    /// Reads the identity of a data directory; `None` if it has none.
    ///
    /// # Errors
    /// [`IdentityError`] if there is one that cannot be used.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = data_dir.join(IDENTITY_FILE);
        let size_bytes = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Io { verb: "read", path, source }),
        };
        if size_bytes > MAX_BYTES {
            return Err(IdentityError::Damaged { path, reason: "it is too large" });
        }
        match fs::read(&path) {
            Ok(bytes) => decode(&bytes).map(Some).map_err(|error| error.at(path)),
            Err(source) => Err(IdentityError::Io { verb: "read", path, source }),
        }
    }

    /// Makes this the identity of a data directory that has none, durably. Whoever calls it holds
    /// the directory's lock.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] or [`IdentityError::Io`].
    pub fn create(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let path = data_dir.join(IDENTITY_FILE);
        let write = || -> io::Result<bool> {
            if path.try_exists()? {
                return Ok(false);
            }
            let draft = data_dir.join(IDENTITY_DRAFT);
            let mut file = File::create(&draft)?;
            file.write_all(encode(self).as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(data_dir)?.sync_all()?;
            Ok(true)
        };
        match write() {
            Ok(true) => Ok(()),
            Ok(false) => Err(IdentityError::Exists { path }),
            Err(source) => Err(IdentityError::Io { verb: "write", path, source }),
        }
    }
}

fn random_history() -> Result<HistoryId, IdentityError> {
    HistoryId::random().map_err(IdentityError::Random)
}

/// Why bytes are not an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecodeError {
    OtherVersion(u64),
    Damaged(&'static str),
}

impl DecodeError {
    fn at(self, path: PathBuf) -> IdentityError {
        match self {
            Self::OtherVersion(found) => IdentityError::OtherVersion { path, found },
            Self::Damaged(reason) => IdentityError::Damaged { path, reason },
        }
    }
}

fn encode(identity: &Identity) -> String {
    let mut text = format!(
        "# Identity of a Cutwater database. Written once by the server; not to be edited.\n\
         format = {FORMAT_VERSION}\n\
         database = \"{}\"\n\
         history = \"{}\"\n",
        identity.database, identity.history
    );
    if let Some(fork) = &identity.fork {
        let _ = writeln!(text, "parent_history = \"{}\"\nfork_lsn = \"{}\"", fork.parent, fork.lsn);
    }
    seal(text)
}

/// Appends the checksum line.
fn seal(mut text: String) -> String {
    let crc = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, "crc32c = \"{crc:08x}\"");
    text
}

fn decode(bytes: &[u8]) -> Result<Identity, DecodeError> {
    const NO_TEXT: DecodeError = DecodeError::Damaged("it is not TOML text");
    let text = std::str::from_utf8(bytes).map_err(|_| NO_TEXT)?;
    let without_end = text.strip_suffix('\n').ok_or(DecodeError::Damaged("it is cut short"))?;
    let last_line = without_end.rfind('\n').map_or(0, |at| at + 1);
    if seal(text[..last_line].to_owned()) != text {
        return Err(DecodeError::Damaged("its checksum does not fit"));
    }
    let table: toml::Table = text.parse().map_err(|_| NO_TEXT)?;
    let format = table.get("format").and_then(toml::Value::as_integer);
    match format.and_then(|format| u64::try_from(format).ok()) {
        Some(format) if format == u64::from(FORMAT_VERSION) => {}
        Some(other) => return Err(DecodeError::OtherVersion(other)),
        None => return Err(DecodeError::Damaged("it names no format")),
    }
    let field = |name: &str| table.get(name).and_then(toml::Value::as_str);
    let lsn = field("fork_lsn").and_then(|lsn| lsn.parse().ok()).map(Lsn);
    let fork = match (field("parent_history").and_then(HistoryId::parse), lsn) {
        (Some(parent), Some(lsn)) => Some(Fork { parent, lsn }),
        (None, None) => None,
        _ => return Err(DecodeError::Damaged("its fork is incomplete")),
    };
    match (
        field("database").and_then(DatabaseId::parse),
        field("history").and_then(HistoryId::parse),
    ) {
        (Some(database), Some(history)) => Ok(Identity { database, history, fork }),
        _ => Err(DecodeError::Damaged("it lacks an id")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Identity {
        let fork = Some(Fork { parent: HistoryId([3; 16]), lsn: Lsn(u64::MAX) });
        Identity { database: DatabaseId([0x8f; 16]), history: HistoryId([2; 16]), fork }
    }

    #[test]
    fn golden() {
        assert_eq!(
            encode(&sample()),
            "# Identity of a Cutwater database. Written once by the server; not to be edited.\n\
             format = 1\n\
             database = \"8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f\"\n\
             history = \"02020202020202020202020202020202\"\n\
             parent_history = \"03030303030303030303030303030303\"\n\
             fork_lsn = \"18446744073709551615\"\n\
             crc32c = \"0a16d0b5\"\n"
        );
    }

    #[test]
    fn created_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), None);
        // A crash may have left a draft behind.
        fs::write(dir.path().join(IDENTITY_DRAFT), "half").unwrap();
        for identity in [sample(), Identity::new_database().unwrap()] {
            assert_eq!(decode(encode(&identity).as_bytes()), Ok(identity));
        }
        sample().create(dir.path()).unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), Some(sample()));
        assert!(!dir.path().join(IDENTITY_DRAFT).exists());
        let error = Identity::new_database().unwrap().create(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("database.toml exists already"), "{error}");
        assert_eq!(Identity::read(dir.path()).unwrap(), Some(sample()));
    }

    #[test]
    fn identities_differ_and_a_fork_keeps_the_database() {
        let one = Identity::new_database().unwrap();
        let two = Identity::new_database().unwrap();
        assert!(one.database != two.database && one.history != two.history);
        let fork = Fork { parent: one.history, lsn: Lsn(7) };
        let forked = Identity::forked(one.database, fork).unwrap();
        assert_eq!((forked.database, forked.fork), (one.database, Some(fork)));
        assert_ne!(forked.history, one.history);
    }

    #[test]
    fn every_corrupt_byte_and_every_truncation_is_found() {
        let bytes = encode(&sample()).into_bytes();
        for at in 0..bytes.len() {
            let mut corrupt = bytes.clone();
            corrupt[at] ^= 0x01;
            assert!(matches!(decode(&corrupt), Err(DecodeError::Damaged(_))), "byte {at}");
            assert!(matches!(decode(&bytes[..at]), Err(DecodeError::Damaged(_))), "length {at}");
        }
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(IDENTITY_FILE);
        fs::write(&path, seal("format = 3\nsomething = \"new\"\n".to_owned())).unwrap();
        let error = Identity::read(dir.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{} is of format 3, and this version of cutwater reads only format 1",
                path.display()
            )
        );
        assert!(error.remedy().contains("the version that wrote it"));
    }

    #[test]
    fn damage_is_told_with_its_reason() {
        for (text, reason) in [
            ("database = \"x\"\n", "it names no format"),
            ("format = 1\n", "it lacks an id"),
            ("format = 1\nfork_lsn = \"1\"\n", "its fork is incomplete"),
            ("not toml\n", "it is not TOML text"),
        ] {
            let sealed = seal(text.to_owned());
            assert_eq!(decode(sealed.as_bytes()), Err(DecodeError::Damaged(reason)), "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(IDENTITY_FILE), vec![b'#'; 1 << 20]).unwrap();
        let error = Identity::read(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("is damaged: it is too large"), "{error}");
        assert!(error.remedy().contains("restore a snapshot"));
    }
}
