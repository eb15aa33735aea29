//! `cutwater serve`: the configuration, the diagnostics, the control plane's runtime, and then
//! [`cutwater_control::serve::run`] until a signal.

use clap::{Arg, ArgAction, ArgMatches};
use cutwater_control::config::{CONFIG_FILE, Config, SETTINGS};
use cutwater_control::placement::{CpuId, Placement, keep_current_thread_on, usable_cpus};
use cutwater_control::serve;
use tokio::runtime::{Builder, Runtime};

use super::failure::Failure;
use super::{Variables, output};
use crate::{shutdown, telemetry};

/// Threads of the control plane's runtime, all on one CPU. Two, so that a signal is still seen
/// while one is busy.
const CONTROL_THREADS: usize = 2;

const LAYERS: &str = "\
Each option is also a variable (--data-dir: CUTWATER_DATA_DIR) and a key of the TOML file
(data-dir = \"/var/lib/cw\"). Flags override variables, which override the file.
Keys of an S3 store come from AWS_* variables, the instance, or the file (s3-access-key-id,
s3-secret-access-key, s3-session-token), never from the command line.
CUTWATER_LOG sets the level of diagnostics: error, warn, info (default), debug or trace.

Examples:
  cutwater serve --port 7000 --shards 4 --data-dir /var/lib/cw
  CUTWATER_REQUIREPASS=... cutwater serve --bind 0.0.0.0 --config /etc/cutwater.toml

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failure, 2 a mistake in the configuration.";

/// The settings that were given as flags: names without dashes, and values.
pub struct ServeFlags(pub Vec<(String, String)>);

impl clap::Args for ServeFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let settings = SETTINGS.iter().filter(|setting| setting.is_flag).map(|setting| {
            let argument = Arg::new(setting.name).long(setting.name).help(setting.help);
            match setting.is_switch() {
                true => argument.action(ArgAction::SetTrue),
                false if setting.is_list => {
                    argument.value_name(setting.value_name).action(ArgAction::Append)
                }
                false => argument.value_name(setting.value_name),
            }
        });
        let file = Arg::new(CONFIG_FILE).long(CONFIG_FILE).value_name("FILE");
        let file = file.help("TOML file with any of these settings, without the dashes");
        let command = command.args(settings).arg(file);
        // The top level has a help text of its own.
        if command.get_name() == "serve" { command.after_help(LAYERS) } else { command }
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = SETTINGS.iter().filter(|setting| setting.is_flag);
        let names = flags.map(|setting| (setting.name, setting.is_switch()));
        let given = names.chain([(CONFIG_FILE, false)]).filter_map(|(name, is_switch)| {
            let value = match is_switch {
                true => matches.get_flag(name).then(|| "yes".to_owned()),
                false => matches
                    .get_many::<String>(name)
                    .map(|values| values.map(String::as_str).collect::<Vec<_>>().join("\n")),
            };
            Some((name.to_owned(), value?))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Serves until a signal.
pub fn execute(flags: &ServeFlags, variables: &Variables) -> Result<(), Failure> {
    let cpus = usable_cpus()?;
    let config = Config::load(&flags.0, variables, cpus.len())?;
    telemetry::init(config.log_format, variables.get(telemetry::VARIABLE).map(String::as_str))?;
    let placement = Placement::choose(&cpus, config.shards);
    let runtime = control_runtime(placement.control.clone()).map_err(Failure::Setup)?;
    runtime.block_on(async {
        let shutdown = shutdown::requested().map_err(Failure::Setup)?;
        let ready = |banner: &_| {
            // A server whose standard output is closed serves all the same.
            let _ = output::print(&format!("{banner}"));
        };
        Ok(serve::run(&config, &placement, shutdown, ready).await?)
    })
}

/// A runtime whose threads all stay on the control plane's CPUs.
fn control_runtime(cpus: Vec<CpuId>) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .on_thread_start(move || {
            if !keep_current_thread_on(&cpus) {
                tracing::debug!(?cpus, "the control plane could not be kept on its CPUs");
            }
        })
        .enable_all()
        .build()
}
