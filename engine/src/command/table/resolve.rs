//! From the arguments of a request to the row that runs them, or to Redis' words for why not.

use std::borrow::Cow;

use super::super::parse;
use super::{CommandSpec, lookup};
use crate::resp::Args;

/// How much of a foreign name is repeated in an error, in bytes.
const REPEATED_BYTES: usize = 128;

/// Why a request has no row to run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ResolveError<'a> {
    /// There is no such command.
    UnknownCommand {
        /// The whole request; its beginning is repeated in the text.
        args: Args<'a>,
    },
    /// The command has no such subcommand.
    UnknownSubcommand {
        /// The command.
        container: &'static CommandSpec,
        /// What was asked for.
        name: &'a [u8],
    },
    /// The number of arguments is wrong.
    Arity {
        /// The command or subcommand.
        spec: &'static CommandSpec,
    },
}

/// Finds the command or subcommand of a request, and checks the number of its arguments.
///
/// # Errors
/// [`ResolveError`]; its text is the reply.
pub fn resolve(args: Args<'_>) -> Result<&'static CommandSpec, ResolveError<'_>> {
    let unknown = ResolveError::UnknownCommand { args };
    let spec = args.get(0).and_then(lookup).ok_or(unknown)?;
    let spec = match args.get(1) {
        Some(name) if spec.is_container() => spec
            .subcommand(name)
            .ok_or(ResolveError::UnknownSubcommand { container: spec, name })?,
        _ => spec,
    };
    if spec.check_arity(args.len()) { Ok(spec) } else { Err(ResolveError::Arity { spec }) }
}

impl ResolveError<'_> {
    /// The error reply, with its code. May hold line breaks, which [`crate::resp::Reply::error`]
    /// replaces.
    pub fn text(&self) -> String {
        match self {
            Self::UnknownCommand { args } => unknown_command(*args),
            Self::UnknownSubcommand { container, name } => format!(
                "ERR unknown subcommand '{}'. Try {} HELP.",
                repeated(name, REPEATED_BYTES),
                container.name.to_ascii_uppercase()
            ),
            Self::Arity { spec } => {
                format!("ERR wrong number of arguments for '{}' command", spec.full_name)
            }
        }
    }
}

fn unknown_command(args: Args<'_>) -> String {
    let name = repeated(args.get(0).unwrap_or_default(), REPEATED_BYTES);
    let mut text = format!("ERR unknown command '{name}', with args beginning with: ");
    let begin = text.len();
    for arg in args.skip(1).iter() {
        let shown = text.len() - begin;
        if shown >= REPEATED_BYTES {
            break;
        }
        text.push('\'');
        text.push_str(&repeated(arg, REPEATED_BYTES - shown));
        text.push_str("' ");
    }
    text
}

/// The beginning of foreign bytes as text.
fn repeated(bytes: &[u8], limit: usize) -> Cow<'_, str> {
    parse::repeated(&bytes[..bytes.len().min(limit)])
}
