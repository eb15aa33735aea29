//! Diagnostics of the binary: `tracing` events as text or JSON on standard error, filtered by
//! `CUTWATER_LOG`. A library never installs a subscriber, so this is no part of it.

use std::io::{self, IsTerminal};

use cutwater_control::config::LogFormat;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The variable that sets the level.
pub const VARIABLE: &str = "CUTWATER_LOG";
/// What is shown unless the variable says otherwise. Each single retry of the client of a store is
/// no news: what comes of them is told once.
const DEFAULT_FILTER: &str = "info,object_store=warn";
/// The words of the filter that are levels.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why diagnostics cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error("bad value {filter:?} for the level of diagnostics (variable {VARIABLE})")]
    Filter {
        /// As it was given.
        filter: String,
    },
    /// Somebody else has installed a subscriber.
    #[error("diagnostics are set up already in this process")]
    Installed,
}

impl TelemetryError {
    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Filter { .. } => {
                "Allowed: off, error, warn, info, debug or trace, or a list such as \
                 info,cutwater_engine=debug."
            }
            Self::Installed => "Set them up once.",
        }
    }
}

/// Shows the diagnostics of this process from now on.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(format: LogFormat, filter: Option<&str>) -> Result<(), TelemetryError> {
    let subscriber = subscriber(format, filter, io::stderr().is_terminal(), io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Installed)
}

fn subscriber<W>(
    format: LogFormat,
    filter: Option<&str>,
    has_colors: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = parse_filter(filter.unwrap_or(DEFAULT_FILTER))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        LogFormat::Text => Box::new(builder.with_ansi(has_colors).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

/// A word without `=` that is no level would name a target, and so hide everything else: it is
/// taken for the mistake that it almost always is.
fn parse_filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let is_sound = |directive: &str| {
        directive.contains(['=', '[']) || LEVELS.contains(&directive.to_lowercase().as_str())
    };
    let failed = || TelemetryError::Filter { filter: text.to_owned() };
    if !text.split(',').map(str::trim).all(is_sound) {
        return Err(failed());
    }
    EnvFilter::try_new(text).map_err(|_| failed())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(format: LogFormat, filter: Option<&str>) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(shard = 3, "started");
            tracing::debug!("hidden");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_and_json() {
        let text = shown(LogFormat::Text, None);
        assert!(text.contains("INFO") && text.ends_with("started shard=3\n"), "{text}");
        let text = shown(LogFormat::Json, None);
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&event["level"], &event["shard"]), (&"INFO".into(), &3.into()));
    }

    #[test]
    fn levels() {
        assert!(shown(LogFormat::Text, Some("debug")).contains("hidden"));
        assert_eq!(shown(LogFormat::Text, Some("WARN")), "");
        assert_eq!(shown(LogFormat::Text, Some("info,cutwater=error")), "");
    }

    #[test]
    fn a_bad_filter_is_refused_with_what_is_allowed() {
        for bad in ["", "verbose", "cutwater=loud", "info,,"] {
            let error = parse_filter(bad).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("bad value {bad:?} for the level of diagnostics (variable CUTWATER_LOG)")
            );
            assert!(error.remedy().starts_with("Allowed: off, error"));
        }
    }
}
