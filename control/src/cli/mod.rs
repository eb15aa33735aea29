//! The command line: what is typed, into a call; what came of it, into text and an exit code.
//!
//! A file a subcommand. Only here and in `main.rs` does the program print, read its environment or
//! handle signals. Standard output carries results, standard error carries diagnostics and errors;
//! an error says what happened, where, and on the next line what to do.

mod create;
mod failure;
mod keys;
mod offline;
mod output;
mod progress;
mod prune;
mod restorable;
mod restore;
mod row;
mod s3;
mod serve;
mod server;
mod snapshot;
mod status;
mod verify;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use cutwater_control::config::AWS_PREFIX;

use self::failure::Failure;

/// The `CUTWATER_*` and `AWS_*` variables of the environment.
type Variables = BTreeMap<String, String>;

/// The prefix of the variables that concern this program.
const VARIABLE_PREFIX: &str = "CUTWATER_";

const EXAMPLES: &str = "\
Without a command, and with the options of serve, cutwater serves.

Examples:
  cutwater                                     serve ./cutwater-data on 127.0.0.1:6379
  cutwater --port 7000 --data-dir /var/lib/cw  the same elsewhere (all options: serve --help)
  cutwater snapshot create                     take a snapshot of the local server
  cutwater snapshot status --watch             what it does, its uploads and its archive
  cutwater snapshot list --store file:///var/lib/cw/store
  cutwater restorable --store s3://bucket/cw   the moments that there are
  cutwater restore --store s3://bucket/cw --at 2026-03-01T12:00:00Z --into /var/lib/new
  cutwater keygen --out /etc/cutwater.key      make a key; serve with --key-file ID=PATH

Exit codes: 0 success, 1 failure, 2 a mistake on the command line or in the configuration (also
credentials, bucket, password), 3 not found (no such snapshot, store or moment), 4 damaged or not
opened by the keys, 5 a store or server that does not answer (try again), 6 busy (a snapshot or
another process is at it), 130 and 143 ended by SIGINT and SIGTERM.";

/// A durable, multi-core database that speaks the Redis protocol
#[derive(clap::Parser)]
#[command(name = "cutwater", version, after_help = EXAMPLES)]
#[command(override_usage = "cutwater [OPTIONS of serve]\n       cutwater <COMMAND>")]
#[command(args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(flatten)]
    serve: serve::ServeFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve a data directory; what cutwater does without a command
    Serve(serve::ServeFlags),
    /// Create, cancel, list, show, delete, verify or rekey snapshots; what a server is doing
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Restore any moment into a new data directory
    Restore(restore::RestoreArgs),
    /// Make a key that seals snapshots and log
    Keygen(keys::KeygenArgs),
    /// List the moments that a store can be restored to
    Restorable(restorable::RestorableArgs),
}

/// Runs one command line to its end.
pub fn run(
    arguments: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let command_line = match parse(arguments) {
        Ok(command_line) => command_line,
        Err(error) => {
            // Help and version are errors of clap too: they go to standard output, with code 0.
            // A closed pipe is the only way in which this fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    match variables(environment).and_then(|variables| execute(command_line, &variables)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::print_failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<CommandLine, clap::Error> {
    // The options of serve work without the word; the short help does not list them.
    let mut command = CommandLine::command().mut_args(|argument| argument.hide(true));
    let matches = command.try_get_matches_from_mut(arguments)?;
    CommandLine::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn execute(command_line: CommandLine, variables: &Variables) -> Result<(), Failure> {
    match command_line.command.unwrap_or(Command::Serve(command_line.serve)) {
        Command::Serve(flags) => serve::execute(&flags, variables),
        Command::Snapshot(command) => snapshot::execute(command, variables),
        Command::Restore(args) => restore::execute(&args, variables),
        Command::Restorable(args) => restorable::execute(&args, variables),
        Command::Keygen(args) => keys::generate(&args),
    }
}

/// JSON for people and programs.
fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("text, numbers and lists always have a JSON form")
}

/// The variables with one of our prefixes. They must be text: a path that was changed to fit would
/// be another path.
fn variables(
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Variables, Failure> {
    let ours = |name: &OsString| {
        let starts = |prefix: &str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
        starts(VARIABLE_PREFIX) || starts(AWS_PREFIX)
    };
    let text = |(name, value): (OsString, OsString)| {
        let name = name.to_string_lossy().into_owned();
        match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(Failure::VariableNotText { name }),
        }
    };
    environment.filter(|(name, _)| ours(name)).map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(arguments: &[&str]) -> Vec<(String, String)> {
        let arguments = ["cutwater"].iter().chain(arguments).map(OsString::from);
        match parse(arguments).unwrap_or_else(|error| panic!("{error}")) {
            CommandLine { serve, command: None } => serve.0,
            CommandLine { command: Some(Command::Serve(serve)), .. } => serve.0,
            _ => panic!("not serve"),
        }
    }

    fn refused(arguments: &[&str]) -> String {
        let arguments = ["cutwater"].iter().chain(arguments).map(OsString::from);
        match parse(arguments) {
            Ok(_) => panic!("accepted"),
            Err(error) => {
                assert_eq!(error.exit_code(), if error.use_stderr() { 2 } else { 0 });
                error.to_string()
            }
        }
    }

    #[test]
    fn the_definition_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default() {
        assert_eq!(flags(&[]), []);
        assert_eq!(flags(&["serve"]), []);
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let expected = [pair("port", "7000"), pair("no-log", "yes"), pair("config", "x.toml")];
        let typed = ["--port", "7000", "--config=x.toml", "--no-log"];
        assert_eq!(flags(&typed), expected);
        assert_eq!(flags(&[&["serve"], &typed[..]].concat()), expected);
    }

    #[test]
    fn mistakes_are_named_with_a_suggestion() {
        assert!(refused(&["--prot", "1"]).contains("'--port'"));
        assert!(refused(&["snaphot"]).contains("'snapshot'"));
        assert!(refused(&["--port"]).contains("--port <PORT>"));
        assert!(refused(&["--port", "1", "--port", "2"]).contains("multiple times"));
        let text = refused(&["--requirepass", "hunter2", "--requirepass", "hunter3"]);
        assert!(text.contains("multiple times") && !text.contains("hunter"), "{text}");
        assert!(refused(&["snapshot", "show", "x"]).contains("invalid value 'x'"));
        let both = ["snapshot", "list", "--store", "file:///x", "--server", "a:1"];
        assert!(refused(&both).contains("cannot be used with"));
        assert!(refused(&["snapshot", "create", "--store", "file:///x"]).contains("'--store'"));
        assert!(refused(&["restore", "--store", "file:///x"]).contains("--snapshot <ID>"));
        let two = ["restore", "--store", "file:///x", "--into", "x", "--latest", "--lsn", "5"];
        assert!(refused(&two).contains("cannot be used with"));
    }

    #[test]
    fn the_help_is_short_and_has_examples() {
        let help = refused(&["--help"]);
        assert!(help.contains("Examples:") && help.contains("Exit codes: 0 success"), "{help}");
        assert!(help.lines().count() < 36 && !help.contains("--shard-port-base"), "{help}");
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
        let help = refused(&["serve", "--help"]);
        for setting in &cutwater_control::config::SETTINGS {
            let is_shown = help.contains(&format!("--{}", setting.name));
            assert_eq!(is_shown, setting.is_flag, "{}\n{help}", setting.name);
        }
        assert!(refused(&["--s3-secret-access-key", "x"]).contains("unexpected argument"));
        assert!(help.contains("CUTWATER_DATA_DIR") && help.contains("--config"), "{help}");
        let version = format!("cutwater {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(refused(&["--version"]), version);
    }

    #[test]
    fn only_our_variables_are_read_and_they_must_be_text() {
        use std::os::unix::ffi::OsStringExt;
        let bad = OsString::from_vec(vec![0xFF]);
        let pair = |name: &str, value: &OsString| (OsString::from(name), value.clone());
        let read = variables([pair("PATH", &bad), pair("CUTWATER_X", &"y".into())].into_iter());
        assert_eq!(read.unwrap(), BTreeMap::from([("CUTWATER_X".to_owned(), "y".to_owned())]));
        let failure = variables([pair("CUTWATER_X", &bad)].into_iter()).unwrap_err();
        assert_eq!(failure.to_string(), "variable CUTWATER_X is not UTF-8 text");
        assert_eq!(failure.exit_code(), 2);
    }
}
