//! Everything that can end a command, with its exit code and its advice.

use std::io;

use cutwater_control::client::ClientError;
use cutwater_control::config::ConfigError;
use cutwater_control::fault::Fault;
use cutwater_control::keys::KeyError;
use cutwater_control::placement::NoCpus;
use cutwater_control::serve::ServeError;

use super::offline::OfflineError;
use super::row::RowError;
use crate::interrupt::Interrupted;
use crate::telemetry::TelemetryError;

/// Why a command did not do what it was asked to. `Display` says what happened and where.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A variable of the environment cannot be read.
    #[error("variable {name} is not UTF-8 text")]
    VariableNotText {
        /// The variable.
        name: String,
    },
    /// The level of diagnostics is wrong.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// There is no CPU to be placed on.
    #[error(transparent)]
    Cpus(#[from] NoCpus),
    /// The control plane's threads or signal handlers could not be set up.
    #[error("cannot set up the control plane: {0}")]
    Setup(io::Error),
    /// The server failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Another server could not be talked to, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A server answered something else than was asked for.
    #[error("{server} answered something unexpected: {reason}")]
    Reply {
        /// Where.
        server: String,
        /// What does not fit.
        reason: RowError,
    },
    /// The keys cannot be used, or a new one not be written.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// A store could not be worked on.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// A snapshot cannot get into the remote store.
    #[error(
        "snapshot {id} is published here, and does not get into the remote store ({place}): \
         {reason}"
    )]
    NotUploaded {
        /// The snapshot.
        id: u64,
        /// What LIST says of it.
        place: String,
        /// Why.
        reason: String,
    },
    /// A signal came.
    #[error("interrupted: {what}")]
    Interrupted {
        /// Which.
        by: Interrupted,
        /// What was left, and what was not.
        what: String,
    },
    /// Standard output cannot be written.
    #[error("cannot write the result: {0}")]
    Output(io::Error),
}

impl Failure {
    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted { by, .. } => by.exit_code(),
            other => other.fault().exit_code(),
        }
    }

    /// What kind of failure it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Config(_) | Self::VariableNotText { .. } => Fault::Usage,
            Self::Telemetry(TelemetryError::Filter { .. }) => Fault::Usage,
            Self::Client(error) => error.fault(),
            Self::Offline(error) => error.fault(),
            Self::Keys(KeyError::Name { .. }) => Fault::Usage,
            Self::NotUploaded { place, .. } if place == "failed" => Fault::Damaged,
            Self::Interrupted { .. } => Fault::Cancelled,
            Self::Telemetry(_)
            | Self::Cpus(_)
            | Self::Setup(_)
            | Self::Serve(_)
            | Self::Reply { .. }
            | Self::Keys(_)
            | Self::NotUploaded { .. }
            | Self::Output(_) => Fault::Failed,
        }
    }

    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> String {
        match self {
            Self::Config(error) => error.remedy(),
            Self::VariableNotText { .. } => "Set it to text.".to_owned(),
            Self::Telemetry(error) => error.remedy().to_owned(),
            Self::Cpus(_) => "Run on Linux, with sched_getaffinity allowed.".to_owned(),
            Self::Setup(_) => "Look at the limits on threads and open files.".to_owned(),
            Self::Serve(error) => error.remedy().to_owned(),
            Self::Client(error) => error.remedy().to_owned(),
            Self::Reply { .. } => {
                "Use the cutwater command of the server's own version.".to_owned()
            }
            Self::Keys(error) => error.remedy().to_owned(),
            Self::Offline(error) => error.remedy().to_owned(),
            Self::NotUploaded { .. } => {
                "Look at `cutwater snapshot status` and at the server's diagnostics.".to_owned()
            }
            Self::Interrupted { .. } => String::new(),
            Self::Output(_) => "Look at where standard output goes.".to_owned(),
        }
    }
}
