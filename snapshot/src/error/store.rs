//! What can go wrong with an object store: what was being done, to what, and what kind of fault it
//! is, so that callers know a refusal from silence.

/// What was being done to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening the store.
    Open,
    /// Listing a folder.
    List,
    /// Reading an object or a range of it.
    Get,
    /// Reading an object's length.
    Head,
    /// Writing an object that must not exist.
    Create,
    /// Writing an object, replacing what was there.
    Put,
    /// Writing an object in parts.
    Multipart,
    /// Removing an object.
    Delete,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::List => "list",
            Self::Get => "read",
            Self::Head => "look up",
            Self::Create => "create",
            Self::Put => "write",
            Self::Multipart => "write in parts",
            Self::Delete => "delete",
        })
    }
}

/// What the answer of a store tells, so that a definite refusal is told from no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The object does not exist.
    Missing,
    /// The object exists although it had to be new.
    Exists,
    /// The credentials are missing, wrong, or do not allow it.
    Credentials,
    /// The bucket, or the folder, does not exist.
    NoBucket,
    /// The store lacks the operation.
    Unsupported,
    /// The address or the region is not that of the store.
    Address,
    /// No answer, or a failure of the store's own: it may pass.
    NoAnswer,
}

impl Cause {
    /// What the error of an operation tells. Where object_store's own classes say too little (a
    /// failed listing has none), the status and the code in the store's answer decide.
    fn of(operation: Operation, source: &object_store::Error) -> Self {
        use object_store::Error as E;
        let text = error_chain(source);
        let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3));
        let has = |code: &str| text.contains(code);
        if has("NoSuchBucket") {
            return Self::NoBucket;
        }
        // The body may be lacking, but none of these can miss an object.
        let needs_no_object =
            matches!(operation, Operation::Create | Operation::Put | Operation::List);
        match (source, status) {
            (E::NotFound { .. }, _) | (_, Some("404")) if needs_no_object => Self::NoBucket,
            (E::NotFound { .. }, _) => Self::Missing,
            (E::AlreadyExists { .. } | E::Precondition { .. }, _) => Self::Exists,
            (E::PermissionDenied { .. } | E::Unauthenticated { .. }, _)
            | (_, Some("401" | "403")) => Self::Credentials,
            // The instance's own service, which is asked when nothing is configured.
            _ if has("169.254.16") || has("169.254.17") || has("InvalidAccessKeyId") => {
                Self::Credentials
            }
            (E::NotSupported { .. } | E::NotImplemented { .. }, _) | (_, Some("501")) => {
                Self::Unsupported
            }
            _ if has("ExpiredToken") || has("InvalidToken") => Self::Credentials,
            (E::InvalidPath { .. } | E::UnknownConfigurationKey { .. }, _)
            | (_, Some("301" | "307")) => Self::Address,
            // What the service of another region says.
            _ if has("redirect without LOCATION") || has("AuthorizationHeaderMalformed") => {
                Self::Address
            }
            _ => Self::NoAnswer,
        }
    }

    /// Whether nothing but another configuration, or a change in the store, can help.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Credentials | Self::NoBucket | Self::Unsupported | Self::Address)
    }

    /// What to look at.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Missing => "the object does not exist",
            Self::Exists => "the object exists already",
            Self::Credentials => "check the credentials and what they allow",
            Self::NoBucket => "the bucket does not exist",
            Self::Unsupported => "the store lacks this operation",
            Self::Address => "check the store's address, endpoint and region",
            Self::NoAnswer => "check that the store can be reached and has room",
        }
    }
}

/// An error and its causes, as one text.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        text.push_str(": ");
        text.push_str(&source.to_string());
        at = source.source();
    }
    text
}

/// A store did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store answered with an error, or not at all.
    #[error("cannot {operation} {path}: {source} ({})", .cause.hint())]
    Failed {
        /// What was being done.
        operation: Operation,
        /// The object, or the folder.
        path: String,
        /// What the answer tells.
        cause: Cause,
        /// The store's own words.
        source: Box<object_store::Error>,
    },
    /// A folder on this machine could not be made or synced.
    #[error("cannot {operation} {path}: {source} (check that the folder exists and is writable)")]
    Io {
        /// What was being done.
        operation: Operation,
        /// The folder.
        path: String,
        /// The system's own words.
        source: std::io::Error,
    },
    /// The text is not the address of a store.
    #[error("{url} is not a store's address: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it, and what works.
        reason: &'static str,
    },
    /// The store lets a second writer create an object that exists.
    #[error(
        "the store took a second create of {path}: it ignores conditional puts, so two writers \
         could share a snapshot id"
    )]
    CreateNotExclusive {
        /// The object of the probe.
        path: String,
    },
}

impl StoreError {
    /// An error of object_store with what was being done.
    pub(crate) fn failed(
        operation: Operation,
        path: &object_store::path::Path,
        source: object_store::Error,
    ) -> Self {
        let cause = Cause::of(operation, &source);
        Self::Failed { operation, path: path.to_string(), cause, source: source.into() }
    }

    /// The same error, of which it turned out that nothing can be concluded from it.
    pub(crate) fn unanswered(self) -> Self {
        match self {
            Self::Failed { operation, path, source, .. } => {
                Self::Failed { operation, path, cause: Cause::NoAnswer, source }
            }
            other => other,
        }
    }

    /// Whether the same call may succeed later, with nothing changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Failed { cause, .. } => *cause == Cause::NoAnswer,
            Self::Io { .. } => true,
            Self::Url { .. } | Self::CreateNotExclusive { .. } => false,
        }
    }

    /// Whether the store, or what names it, says definitely that it is not to be used so: no
    /// credentials, no bucket, a wrong address, conditional puts that do not hold. Silence, a
    /// failure of its own and a missing object are none.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Failed { cause, .. } => cause.is_refusal(),
            Self::Io { .. } => false,
            Self::Url { .. } | Self::CreateNotExclusive { .. } => true,
        }
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Failed { source, .. }
            if matches!(**source, object_store::Error::NotFound { .. }))
    }

    /// Whether the object exists although it had to be new.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Failed { source, .. }
            if matches!(**source,
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }))
    }
}
