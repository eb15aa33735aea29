//! `cutwater keygen`, and the keys that commands without a server are given.

use std::path::PathBuf;

use cutwater_control::config::Secret;
use cutwater_control::keys::{self, KEYS_VARIABLE, KeyError, KeyFile};
use cutwater_engine::seal::Keyring;

use super::failure::Failure;
use super::{Variables, output};

/// Where a new key goes.
#[derive(clap::Args)]
pub struct KeygenArgs {
    /// The file to make, readable by this user only; without it the key is printed
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

/// Makes a key.
pub fn generate(args: &KeygenArgs) -> Result<(), Failure> {
    let key = keys::generate()?;
    match &args.out {
        None => output::print(key.to_file_text().trim_end()),
        Some(path) => {
            keys::write(path, &key)?;
            let path = path.display();
            output::print(&format!("made {path}\nserve with: --key-file ID={path}"))
        }
    }
}

/// The keys with which a store is read.
#[derive(clap::Args)]
pub struct KeyArgs {
    /// Key file of what is sealed; repeatable, also as CUTWATER_KEY_FILE, and see CUTWATER_KEYS
    #[arg(long = "key-file", value_name = "ID=PATH")]
    key_files: Vec<String>,
}

impl KeyArgs {
    /// The keys; none if nothing was given.
    pub fn keyring(&self, variables: &Variables) -> Result<Keyring, Failure> {
        let variable = variables.get("CUTWATER_KEY_FILE").filter(|_| self.key_files.is_empty());
        let given = self.key_files.iter().map(String::as_str);
        let files = given.chain(variable.iter().flat_map(|text| text.split(',')));
        let parse = |text: &str| KeyFile::parse(text).ok_or(KeyError::Name { text: text.into() });
        let files = files.map(parse).collect::<Result<Vec<_>, _>>()?;
        let inline = variables.get(KEYS_VARIABLE).map(Secret::new);
        Ok(keys::keyring(&files, inline.as_ref())?)
    }
}
