//! The configured keys, from key files and the environment, into a [`Keyring`]; and new ones.
//!
//! A key file must be readable by its owner only, as ssh wants it of its keys: a key that others on
//! the machine can read seals nothing. No error ever shows a key.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cutwater_engine::seal::{KeyId, Keyring, MasterKey, SealError};
use cutwater_snapshot::ident;

use crate::config::Secret;

/// The variable that may hold keys: `ID=HEX,ID2=HEX2`.
pub const KEYS_VARIABLE: &str = "CUTWATER_KEYS";
/// Bits of a mode that let others than the owner in.
const OTHERS: u32 = 0o077;
/// What a new key file may be: read and written by its owner.
const KEY_FILE_MODE: u32 = 0o600;
/// Far more than a key file holds.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// A key file and the id of its key, as `ID=PATH` names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// The id.
    pub id: KeyId,
    /// The file.
    pub path: PathBuf,
}

impl KeyFile {
    /// The key file that this text names.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, path) = text.split_once('=')?;
        let id = id.parse().ok()?;
        (!path.is_empty()).then(|| Self { id, path: path.into() })
    }
}

/// Why there are no keys, or no new one.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text names no key file.
    #[error("bad value {text:?} for key-file")]
    Name {
        /// What was given.
        text: String,
    },
    /// The file cannot be read.
    #[error("cannot read the key file {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner may read or write the file.
    #[error("the key file {} is open to others: its mode is {mode:04o}", .path.display())]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file holds no key.
    #[error("{}: {source}", .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SealError,
    },
    /// The variable holds no keys.
    #[error("variable {KEYS_VARIABLE}: item {item}: {source}")]
    Variable {
        /// Which item, counted from 1.
        item: usize,
        /// What is wrong.
        source: SealError,
    },
    /// Two keys have one id.
    #[error("{0}")]
    Ring(SealError),
    /// A new key file could not be written.
    #[error("cannot write the key file {}: {source}", .path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes")]
    Random,
}

impl KeyError {
    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Name { .. } => {
                "Give --key-file as ID=PATH; an id has 1 to 64 characters of A-Z a-z 0-9 . _ -"
            }
            Self::Unreadable { .. } => "Name a key file that this user can read.",
            Self::Loose { .. } => {
                "Close it with chmod 600; if others may have read it, go over to a new key."
            }
            Self::Text { .. } => "Make a key file with: cutwater keygen --out PATH.",
            Self::Variable { .. } => {
                "Set CUTWATER_KEYS to ID=HEX, with 64 hex digits, or several with commas between."
            }
            Self::Ring(_) => "Give each key an id of its own.",
            Self::Unwritable { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                "Choose another path: a key that something is sealed with must not be lost."
            }
            Self::Unwritable { .. } => "Choose a path that this user can write.",
            Self::Random => "Try again when the system is up.",
        }
    }
}

/// The keys of the files, in order, and then those of the variable. The first is active.
///
/// # Errors
/// [`KeyError`].
pub fn keyring(files: &[KeyFile], variable: Option<&Secret>) -> Result<Keyring, KeyError> {
    let mut keys = Vec::new();
    for file in files {
        keys.push((file.id.clone(), read(&file.path)?));
    }
    if let Some(text) = variable.map(Secret::expose).filter(|text| !text.is_empty()) {
        for (at, item) in text.split(',').enumerate() {
            keys.push(inline(item).map_err(|source| KeyError::Variable { item: at + 1, source })?);
        }
    }
    Keyring::new(keys).map_err(KeyError::Ring)
}

/// A new random key.
///
/// # Errors
/// [`KeyError::Random`].
pub fn generate() -> Result<MasterKey, KeyError> {
    let mut bytes = [0; cutwater_engine::seal::KEY_BYTES];
    ident::random(&mut bytes).map_err(|_| KeyError::Random)?;
    Ok(MasterKey::new(bytes))
}

/// Writes a new key file, durably; never over a file.
///
/// # Errors
/// [`KeyError::Unwritable`].
pub fn write(path: &Path, key: &MasterKey) -> Result<(), KeyError> {
    let failed = |source| KeyError::Unwritable { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(KEY_FILE_MODE).open(path).map_err(failed)?;
    let text = key.to_file_text();
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| sync_folder_of(path)).map_err(failed)
}

/// Makes the file's name durable.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn inline(item: &str) -> Result<(KeyId, MasterKey), SealError> {
    let (id, hex) = item.trim().split_once('=').ok_or(SealError::KeyText)?;
    Ok((id.parse()?, MasterKey::from_hex(hex)?))
}

fn read(path: &Path) -> Result<MasterKey, KeyError> {
    let failed = |source| KeyError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // Of the open file: what the name means may change.
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(KeyError::Loose { path: path.to_owned(), mode });
    }
    let mut text = zeroize::Zeroizing::new(String::with_capacity(MAX_KEY_FILE_BYTES as usize));
    let read = file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut text);
    let invalid = || KeyError::Text { path: path.to_owned(), source: SealError::KeyText };
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(invalid()),
        Err(error) => return Err(failed(error)),
    }
    let key = MasterKey::from_file_text(&text);
    key.map_err(|source| KeyError::Text { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_key_is_read_back_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, &generate().unwrap()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        let error = write(&path, &generate().unwrap()).unwrap_err();
        assert!(matches!(&error, KeyError::Unwritable { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let file = KeyFile { id: "a".parse().unwrap(), path };
        let keys = keyring(&[file], None).unwrap();
        assert_eq!(keys.active().unwrap().1.to_file_text().as_str(), text);
        assert_ne!(generate().unwrap().to_file_text(), generate().unwrap().to_file_text());
    }

    #[test]
    fn loose_permissions_and_other_texts_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, &generate().unwrap()).unwrap();
        let file = KeyFile { id: "a".parse().unwrap(), path: path.clone() };
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = keyring(std::slice::from_ref(&file), None).unwrap_err();
            assert!(error.to_string().ends_with(&format!("its mode is {mode:04o}")), "{error}");
            assert!(error.remedy().contains("chmod 600"));
        }
        for mode in [0o600, 0o400, 0o700] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(keyring(std::slice::from_ref(&file), None).is_ok());
        }
        for text in [&b""[..], b"\xFF\xFE", b"cutwater-key-v1 abcd\n", &[b'a'; 9000]] {
            fs::write(&path, text).unwrap();
            let error = keyring(std::slice::from_ref(&file), None).unwrap_err();
            assert!(matches!(error, KeyError::Text { .. }), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(keyring(&[file], None), Err(KeyError::Unreadable { .. })));
    }

    #[test]
    fn keys_of_the_environment_come_after_those_of_files() {
        let (one, two) = ("11".repeat(32), "22".repeat(32));
        let secret = Secret::new(format!("a={one}, b={two}"));
        let keys = keyring(&[], Some(&secret)).unwrap();
        assert_eq!(keys.ids().map(KeyId::as_str).collect::<Vec<_>>(), ["a", "b"]);
        for (text, item) in [("a", 1), ("a=xyz", 1), (&format!("a={one},"), 2), ("a b=1", 1)] {
            let error = keyring(&[], Some(&Secret::new(text))).unwrap_err();
            assert!(error.to_string().contains(&format!("item {item}")), "{error}");
            assert!(!error.to_string().contains("xyz") && !error.to_string().contains(&one));
        }
        let twice = Secret::new(format!("a={one},a={two}"));
        assert!(matches!(keyring(&[], Some(&twice)), Err(KeyError::Ring(_))));
        assert!(keyring(&[], None).unwrap().is_empty());
        assert!(keyring(&[], Some(&Secret::new(""))).unwrap().is_empty());
    }

    #[test]
    fn names_of_key_files() {
        let file = KeyFile::parse("2026=/etc/cw=x").unwrap();
        assert_eq!((file.id.as_str(), file.path.as_path()), ("2026", Path::new("/etc/cw=x")));
        for bad in ["", "a", "a=", "=x", "a b=x", "/etc/key"] {
            assert!(KeyFile::parse(bad).is_none(), "{bad}");
        }
    }
}
