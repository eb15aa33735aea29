//! How an offline command reaches an S3 store: the same flags, variables and keys of the TOML file
//! as the server's. Credentials are no flags.

use std::path::PathBuf;

use cutwater_control::config::{CONFIG_FILE, Config};
use cutwater_snapshot::store::S3Options;

use super::Variables;
use super::failure::Failure;

/// What the address of an S3 store does not say.
#[derive(clap::Args)]
pub struct S3Args {
    /// Where the S3 service is
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<String>,
    /// Region of the bucket
    #[arg(long, value_name = "REGION")]
    s3_region: Option<String>,
    /// Accept an endpoint without TLS
    #[arg(long)]
    s3_allow_http: bool,
    /// Name the bucket in the path of requests, not in the host name
    #[arg(long)]
    s3_path_style: bool,
    /// The server's TOML file, for its s3-* settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl S3Args {
    /// The options that flags, variables and the file make together.
    ///
    /// # Errors
    /// [`Failure::Config`], as a server with them would say.
    pub fn options(&self, variables: &Variables) -> Result<S3Options, Failure> {
        let switch = |is_set: bool| is_set.then(|| "yes".to_owned());
        let config = self.config.as_ref().map(|path| path.display().to_string());
        let flags = [
            ("s3-endpoint", self.s3_endpoint.clone()),
            ("s3-region", self.s3_region.clone()),
            ("s3-allow-http", switch(self.s3_allow_http)),
            ("s3-path-style", switch(self.s3_path_style)),
            (CONFIG_FILE, config),
        ];
        let given = flags.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?)));
        Ok(Config::load(&given.collect::<Vec<_>>(), variables, 1)?.s3)
    }
}
