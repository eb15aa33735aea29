//! A server that takes SNAPSHOT commands, and the commands to it that take their time: sent on one
//! connection, while another tells how far they are.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use cutwater_control::client::Client;
use cutwater_control::config::Secret;
use cutwater_engine::resp::Value;

use super::Variables;
use super::failure::Failure;
use super::progress::LOOK_INTERVAL;
use super::row::RowError;

/// The variable that holds the password, so that it need not be on the command line.
const PASSWORD_VARIABLE: &str = "CUTWATER_PASSWORD";
/// How long a server may take to look something up.
pub const QUICK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may take to write or read a whole snapshot.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// Which server to ask.
#[derive(Clone, clap::Args)]
pub struct ServerArgs {
    /// The server to ask
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    server: String,
    /// Its password; safer as CUTWATER_PASSWORD, where ps cannot show it
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
}

/// A connection to a server.
pub struct Server {
    name: String,
    client: Client,
}

impl Server {
    /// Connects, and gives the password if there is one.
    pub fn connect(args: &ServerArgs, variables: &Variables) -> Result<Self, Failure> {
        let mut client = Client::connect(&args.server)?;
        let password = args.password.as_ref().or_else(|| variables.get(PASSWORD_VARIABLE));
        if let Some(password) = password {
            client.authenticate(&Secret::new(password.clone()))?;
        }
        Ok(Self { name: args.server.clone(), client })
    }

    /// A SNAPSHOT command.
    pub fn call(&mut self, words: &[&str], timeout: Duration) -> Result<Value, Failure> {
        Ok(self.client.call(&[&["SNAPSHOT"], words].concat(), timeout)?)
    }

    /// What SNAPSHOT STATUS tells.
    pub fn status(&mut self) -> Result<Status, Failure> {
        self.call(&["STATUS"], QUICK_TIMEOUT).map(Status)
    }

    /// This connection, as CLIENT ID says it.
    fn client_id(&mut self) -> Result<u64, Failure> {
        let reply = self.client.call(&["CLIENT", "ID"], QUICK_TIMEOUT)?;
        let id = reply.as_integer().and_then(|id| u64::try_from(id).ok());
        id.ok_or_else(|| self.unexpected(RowError::NotNumber("id".to_owned())))
    }

    /// The failure of a reply that is not what it should be.
    pub fn unexpected(&self, reason: RowError) -> Failure {
        Failure::Reply { server: self.name.clone(), reason }
    }
}

/// A command that takes its time.
pub struct LongCall {
    /// The connection on which it is not.
    pub side: Server,
    /// The connection on which it is, as CLIENT ID says it.
    pub client_id: u64,
    reply: Receiver<Result<Value, Failure>>,
}

impl LongCall {
    /// Sends it.
    pub fn begin(
        args: &ServerArgs,
        variables: &Variables,
        words: Vec<String>,
    ) -> Result<Self, Failure> {
        let mut server = Server::connect(args, variables)?;
        let client_id = server.client_id()?;
        let side = Server::connect(args, variables)?;
        let (sender, reply) = mpsc::channel();
        std::thread::spawn(move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            // Nobody waits for it any more if the command was interrupted.
            let _ = sender.send(server.call(&words, LONG_TIMEOUT));
        });
        Ok(Self { side, client_id, reply })
    }

    /// The reply, if it comes within a moment.
    pub fn poll(&self) -> Option<Result<Value, Failure>> {
        match self.reply.recv_timeout(LOOK_INTERVAL) {
            Ok(reply) => Some(reply),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("the thread sends before it ends"),
        }
    }

    /// Whether a part of the status is about this command.
    pub fn is_mine(&self, client: Option<u64>) -> bool {
        client == Some(self.client_id)
    }
}

/// What SNAPSHOT STATUS told.
pub struct Status(pub Value);

impl Status {
    /// A number; `None` if it is null, or not there.
    pub fn number(&self, name: &str) -> Option<u64> {
        number(&self.0, name)
    }

    /// A text; `None` if it is null, or not there.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.field(name).and_then(Value::as_str)
    }

    /// The verifications under way.
    pub fn verifications(&self) -> &[Value] {
        self.0.field("verifications").and_then(Value::as_array).unwrap_or_default()
    }
}

/// A number in a map of fields.
pub fn number(map: &Value, name: &str) -> Option<u64> {
    let value = map.field(name)?;
    match value.as_integer() {
        Some(number) => u64::try_from(number).ok(),
        // What is beyond the protocol's integers comes as its digits.
        None => value.as_str()?.parse().ok(),
    }
}
