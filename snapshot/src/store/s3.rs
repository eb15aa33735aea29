//! An S3 store as Cutwater uses one: conditional puts by ETag, single deletes, and timeouts and
//! retries so short that the caller, which has its own back-off, soon knows that nobody answers
//! (but for large bodies: [`super::patient`]).
//!
//! Credentials come from the options (which the server fills from its TOML file), else from the
//! `AWS_*` variables that the caller passes on, else from the instance. Nothing here reads the
//! environment.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, RetryConfig};

use super::patient::{self, PatientStore};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the client itself repeats a request that the store did not take.
const CLIENT_RETRIES: usize = 2;
/// After which time it does not begin another try.
const CLIENT_RETRY_TIME: Duration = Duration::from_secs(10);
/// The variables that hold keys.
const KEY_VARIABLES: [&str; 4] =
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_TOKEN"];

/// Long-lived keys, or those of a session.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    /// The id of the key.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: String,
    /// The token of a session.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Credentials(***)")
    }
}

/// What the address of an S3 store does not say.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// Where the service is; `None` for that of AWS in the region.
    pub endpoint: Option<String>,
    /// The region; `None` for `AWS_REGION`, else us-east-1.
    pub region: Option<String>,
    /// Whether an endpoint without TLS is accepted.
    pub allow_http: bool,
    /// Whether the bucket stands in the path, not in the host name. An endpoint that is an IP
    /// address, `localhost`, or a bucket with dots are taken so in any case.
    pub path_style: bool,
    /// Keys that were configured; they go before those of `variables`.
    pub credentials: Option<S3Credentials>,
    /// The `AWS_*` variables of the environment.
    pub variables: Vec<(String, String)>,
    /// How long a request without a large body may take; `None`: 60 s. What goes up may take longer
    /// by as much as a slow line needs.
    pub request_timeout: Option<Duration>,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.variables.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("allow_http", &self.allow_http)
            .field("path_style", &self.path_style)
            .field("credentials", &self.credentials)
            .field("variables", &names)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

/// A bucket; what is wrong with the options, if they make no client of it.
pub(super) fn open(
    bucket: &str,
    options: &S3Options,
) -> Result<PatientStore<AmazonS3>, &'static str> {
    let timeout = options.request_timeout.unwrap_or(patient::SMALL_TIMEOUT);
    PatientStore::new(timeout, |timeout| client(bucket, options, timeout))
}

/// A client whose requests may take so long.
fn client(bucket: &str, options: &S3Options, timeout: Duration) -> Result<AmazonS3, &'static str> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in &options.variables {
        // A session's token belongs to its own keys, and to none that were configured.
        if options.credentials.is_some() && KEY_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(keys) = &options.credentials {
        builder = builder
            .with_access_key_id(&keys.access_key_id)
            .with_secret_access_key(&keys.secret_access_key);
        if let Some(token) = &keys.session_token {
            builder = builder.with_token(token);
        }
    }
    let is_half =
        |keys: &S3Credentials| keys.access_key_id.is_empty() || keys.secret_access_key.is_empty();
    if options.credentials.as_ref().is_some_and(is_half) {
        return Err("of the S3 key, either the id or the key itself is missing");
    }
    let configured = |key| builder.get_config_value(&key);
    let allow_http = options.allow_http
        || configured(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp))
            .is_some_and(|value| value == "true");
    let endpoint = options.endpoint.clone().or_else(|| configured(AmazonS3ConfigKey::Endpoint));
    let (endpoint, in_host) = match endpoint {
        None => (None, !options.path_style && !bucket.contains('.')),
        Some(endpoint) => {
            let (scheme, host) =
                endpoint.split_once("://").ok_or("the endpoint is no URL, such as https://host")?;
            match scheme {
                "https" => {}
                "http" if allow_http => {}
                "http" => {
                    return Err("the endpoint is without TLS, which needs --s3-allow-http");
                }
                _ => return Err("the endpoint is neither https:// nor http://"),
            }
            let host = host.trim_end_matches('/');
            let in_host = !options.path_style && !bucket.contains('.') && !is_bare(host);
            let endpoint =
                if in_host { format!("{scheme}://{bucket}.{host}") } else { endpoint.clone() };
            (Some(endpoint), in_host)
        }
    };
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let client = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(timeout)
        .with_allow_http(allow_http);
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            ..BackoffConfig::default()
        },
        max_retries: CLIENT_RETRIES,
        retry_timeout: CLIENT_RETRY_TIME,
    };
    builder
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(in_host)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_bulk_delete(true)
        .with_client_options(client)
        .with_retry(retry)
        .build()
        .map_err(|_| "the keys are incomplete, or a setting (AWS_*, endpoint, region) is not valid")
}

/// Whether a host with its port cannot have a bucket put before it.
fn is_bare(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split([':', '/']).next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(endpoint: &str) -> S3Options {
        S3Options { endpoint: Some(endpoint.into()), ..S3Options::default() }
    }

    #[test]
    fn an_endpoint_is_checked() {
        for bad in ["minio:9000", "ftp://x", "http://minio:9000"] {
            assert!(open("bucket", &options(bad)).is_err(), "{bad}");
        }
        let plain = S3Options { allow_http: true, ..options("http://minio:9000") };
        assert!(open("bucket", &plain).is_ok());
        let variables = vec![("AWS_ENDPOINT_URL".to_owned(), "http://x:1".to_owned())];
        let given = S3Options { variables: variables.clone(), ..S3Options::default() };
        assert!(open("bucket", &given).is_err());
        let variables =
            [variables, vec![("AWS_ALLOW_HTTP".to_owned(), "true".to_owned())]].concat();
        assert!(open("bucket", &S3Options { variables, ..S3Options::default() }).is_ok());
    }

    #[test]
    fn half_a_key_is_refused_and_none_is_shown() {
        let variables = vec![("AWS_ACCESS_KEY_ID".to_owned(), "id".to_owned())];
        let half = S3Options { variables, ..S3Options::default() };
        assert!(open("bucket", &half).is_err());
        let credentials = Some(S3Credentials {
            access_key_id: "id".into(),
            secret_access_key: "hunter2".into(),
            session_token: None,
        });
        let variables = vec![("AWS_SECRET_ACCESS_KEY".to_owned(), "hunter3".to_owned())];
        let whole = S3Options { credentials, variables, ..S3Options::default() };
        assert!(open("bucket", &whole).is_ok());
        assert!(!format!("{whole:?}").contains("hunter"));
    }

    #[test]
    fn addresses_that_take_no_bucket_in_front() {
        for host in ["127.0.0.1:9000", "localhost", "localhost:1", "[::1]:80"] {
            assert!(is_bare(host), "{host}");
        }
        assert!(!is_bare("minio.example:9000") && !is_bare("s3.example"));
    }
}
