//! The address of a store, `file:///folder` or `s3://bucket/prefix`, and opening it. The same
//! addresses serve `--snapshot-store` and every `--store`; what an address cannot say (endpoint,
//! credentials) is in [`S3Options`].

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;

use super::open_local;
use super::s3::{self, S3Options};
use crate::error::StoreError;

/// The shortest and the longest name of a bucket, inclusive.
const BUCKET_BYTES: std::ops::RangeInclusive<usize> = 3..=63;

/// The address of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `file:///folder`: a folder on this machine.
    File(PathBuf),
    /// `s3://bucket/prefix`: everything below a prefix of a bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix; empty for the whole bucket.
        prefix: Path,
    },
}

impl StoreUrl {
    /// The address that this text is.
    ///
    /// # Errors
    /// [`StoreError::Url`] for anything but `file:///` with an absolute path, or `s3://` with a
    /// bucket and perhaps a prefix.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let refuse = |reason| StoreError::Url { url: url.into(), reason };
        if url.contains(['%', '?', '#']) {
            return Err(refuse("names are taken as they are, without %, ? and #"));
        }
        if let Some(path) = url.strip_prefix("file://") {
            if !path.starts_with('/') || path.trim_matches('/').is_empty() {
                return Err(refuse("after file:// comes the absolute path of a folder"));
            }
            return Ok(Self::File(PathBuf::from(path)));
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            return Err(refuse("it is neither file:///folder nor s3://bucket/prefix"));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_bucket(bucket) {
            return Err(refuse(
                "a bucket has 3 to 63 lower-case letters, digits, dots and hyphens; endpoint and \
                 credentials are set apart from the address",
            ));
        }
        let relative = || refuse("the prefix has an empty or a relative part");
        if prefix.starts_with('/') {
            return Err(relative());
        }
        let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|_| relative())?;
        Ok(Self::S3 { bucket: bucket.into(), prefix })
    }

    /// Opens the store; nothing is asked of an S3 store yet.
    ///
    /// # Errors
    /// [`StoreError`] if the folder cannot be made, or the options do not make a client.
    pub fn open(&self, options: &S3Options) -> Result<Arc<dyn ObjectStore>, StoreError> {
        match self {
            Self::File(folder) => open_local(folder),
            Self::S3 { bucket, prefix } => {
                let store = s3::open(bucket, options)
                    .map_err(|reason| StoreError::Url { url: self.to_string(), reason })?;
                Ok(match prefix.as_ref() {
                    "" => Arc::new(store),
                    _ => Arc::new(PrefixStore::new(store, prefix.clone())),
                })
            }
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(folder) => write!(f, "file://{}", folder.display()),
            Self::S3 { bucket, prefix } if prefix.as_ref().is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

fn is_bucket(text: &str) -> bool {
    let sound = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-".contains(&c);
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    BUCKET_BYTES.contains(&text.len())
        && text.bytes().all(sound)
        && ends(text.bytes().next())
        && ends(text.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_both_ways() {
        for (text, shown) in [
            ("file:///var/x", "file:///var/x"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://my.bucket-1/a/b c/", "s3://my.bucket-1/a/b c"),
        ] {
            let url = StoreUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(StoreUrl::parse(shown).unwrap(), url);
        }
        assert_eq!(
            StoreUrl::parse("s3://bucket/a/b").unwrap(),
            StoreUrl::S3 { bucket: "bucket".into(), prefix: Path::from("a/b") }
        );
    }

    #[test]
    fn what_is_no_address() {
        for bad in [
            "",
            "/var",
            "file://",
            "file:///",
            "file://x/y",
            "file:///a%20",
            "s3://",
            "s3:///x",
            "s3://ab",
            "s3://Bucket/x",
            "s3://key:secret@bucket/x",
            "s3://bucket//x",
            "s3://bucket/../x",
            "s3://-bucket",
            "gs://bucket",
        ] {
            assert!(StoreUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
