//! Golden scripts: commands, and the exact replies that a server must give to them.
//!
//! A script is text, a line a step. A failing step is reported with its line, and the script goes
//! on, so one run shows everything that differs.
//!
//! ```text
//! == a section: new connections, an empty server
//! # a comment
//! > SET key "a value"      send a command; "..." knows \r \n \t \" \\ \xHH, '...' nothing
//! < +OK                    the reply, as Reply's text form
//! <~ :*                    a reply that matches, where * stands for anything
//! <! +OK                   a reply in which Redis 7.2 and the stand-in differ: see `Judge`
//! < closed                 the server closed the connection
//! @2> GET key              the same from a second connection (1 to 9)
//! raw> "PING\r\n"          send bytes as they are
//! bytewise> "PING\r\n"     the same, one byte at a time
//! sleep 30                 let milliseconds pass
//! later> TOUCH a           a command that Cutwater does not have yet: it and its reply are for a
//!                          stand-in alone
//! ```

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::{self, Client};

/// How long a reply of a script may take.
const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// Against whom a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// The server that must answer like Redis 7.2: every line counts.
    Subject,
    /// A stand-in: `<!` lines are read and not compared.
    StandIn,
}

/// What a run of a script found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Replies that were as expected.
    pub passed: usize,
    /// One text a reply that was not.
    pub failures: Vec<String>,
    /// The script with the replies that came instead of those expected.
    pub updated: String,
}

/// Runs a script against a server.
///
/// # Errors
/// If the script itself is malformed, or the server cannot be reached at all.
pub fn run(name: &str, script: &str, address: SocketAddr, judge: Judge) -> io::Result<Outcome> {
    let mut runner =
        Runner { address, judge, clients: BTreeMap::new(), last: 1, sent: "", skipped: false };
    let mut outcome = Outcome::default();
    for (number, line) in script.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let step = runner.step(line).map_err(|error| {
            io::Error::new(error.kind(), format!("{place}: {error} in {line:?}"))
        })?;
        match step {
            Step::Done => outcome.updated.push_str(line),
            Step::Replied { expected, got, accepted } => {
                if accepted {
                    outcome.passed += 1;
                    outcome.updated.push_str(line);
                } else {
                    let sent = runner.sent;
                    let text = format!("{place}: {sent}\n  expected {expected}\n       got {got}");
                    outcome.failures.push(text);
                    outcome.updated.push_str("< ");
                    outcome.updated.push_str(&got);
                }
            }
        }
        outcome.updated.push('\n');
    }
    Ok(outcome)
}

struct Runner<'a> {
    address: SocketAddr,
    judge: Judge,
    clients: BTreeMap<u8, Client>,
    /// The connection that sent last.
    last: u8,
    /// The line with which it did.
    sent: &'a str,
    /// The last step was for a stand-in alone, and so is its reply.
    skipped: bool,
}

enum Step {
    Done,
    Replied { expected: String, got: String, accepted: bool },
}

impl<'a> Runner<'a> {
    fn step(&mut self, line: &'a str) -> io::Result<Step> {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            "" | "#" => {}
            "==" => self.begin_section()?,
            "<" | "<~" | "<!" if self.skipped => {}
            "<" | "<~" | "<!" => return self.expect(mark, rest),
            "sleep" => {
                let milliseconds = rest.parse().map_err(|_| malformed("not milliseconds"))?;
                std::thread::sleep(Duration::from_millis(milliseconds));
            }
            _ => {
                self.sent = line;
                let later = mark.strip_suffix("later>");
                self.skipped = later.is_some() && self.judge == Judge::Subject;
                if !self.skipped {
                    let later_mark = later.map(|connection| format!("{connection}>"));
                    self.send(later_mark.as_deref().unwrap_or(mark), rest)?;
                }
            }
        }
        Ok(Step::Done)
    }

    fn begin_section(&mut self) -> io::Result<()> {
        self.clients.clear();
        let mut client = Client::connect(self.address)?;
        client.call(&["FLUSHALL"]).map(drop)
    }

    fn send(&mut self, mark: &str, rest: &str) -> io::Result<()> {
        let (connection, mark) = match mark.strip_prefix('@') {
            None => (1, mark),
            Some(mark) => {
                let digit = mark.bytes().next().filter(u8::is_ascii_digit);
                (digit.ok_or_else(|| malformed("no connection"))? - b'0', &mark[1..])
            }
        };
        let mut bytes = Vec::new();
        match mark {
            ">" => client::encode(&split_words(rest)?, &mut bytes),
            "raw>" | "bytewise>" => bytes = split_words(rest)?.concat(),
            _ => return Err(malformed("an unknown step")),
        }
        self.last = connection;
        let client = self.client()?;
        let pieces = bytes.chunks(if mark == "bytewise>" { 1 } else { bytes.len().max(1) });
        for piece in pieces {
            // A server that has closed the connection is found out by the reply that is expected.
            let _ = client.send_raw(piece);
        }
        Ok(())
    }

    fn client(&mut self) -> io::Result<&mut Client> {
        let address = self.address;
        Ok(match self.clients.entry(self.last) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let mut client = Client::connect(address)?;
                client.set_timeout(REPLY_LIMIT)?;
                entry.insert(client)
            }
        })
    }

    fn expect(&mut self, mark: &str, expected: &str) -> io::Result<Step> {
        let judge = self.judge;
        let got = match self.client()?.receive() {
            Ok(reply) => reply.to_string(),
            Err(error) => {
                // What the next reply would answer is not known any more: begin anew.
                self.clients.remove(&self.last);
                spell_failure(&error)
            }
        };
        let accepted = match mark {
            "<~" => matches(expected, &got),
            "<!" if judge == Judge::StandIn => true,
            _ => expected == got,
        };
        Ok(Step::Replied { expected: expected.to_owned(), got, accepted })
    }
}

fn spell_failure(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "closed".to_owned()
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "silence".to_owned(),
        _ => format!("failure: {error}"),
    }
}

/// Splits a line into words as redis-cli does.
///
/// # Errors
/// If a quote is not closed, or an escape is none.
pub fn split_words(line: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start().as_bytes();
    while let Some(first) = rest.first() {
        let mut word = Vec::new();
        rest = match first {
            b'"' => double_quoted(&rest[1..], &mut word)?,
            b'\'' => {
                let end = rest[1..].iter().position(|byte| *byte == b'\'');
                let end = end.ok_or_else(|| malformed("a quote that is not closed"))? + 1;
                word.extend_from_slice(&rest[1..end]);
                &rest[end + 1..]
            }
            _ => {
                let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
                word.extend_from_slice(&rest[..end]);
                &rest[end..]
            }
        };
        words.push(word);
        rest = rest.trim_ascii_start();
    }
    Ok(words)
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> io::Result<&'a [u8]> {
    loop {
        rest = match rest {
            [b'"', tail @ ..] => return Ok(tail),
            [b'\\', b'x', high, low, tail @ ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).map_err(|_| malformed("an escape"))?;
                word.push(u8::from_str_radix(digits, 16).map_err(|_| malformed("an escape"))?);
                tail
            }
            [b'\\', escaped, tail @ ..] => {
                word.push(match escaped {
                    b'r' => b'\r',
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'"' | b'\\' => *escaped,
                    _ => return Err(malformed("an escape")),
                });
                tail
            }
            [byte, tail @ ..] => {
                word.push(*byte);
                tail
            }
            [] => return Err(malformed("a quote that is not closed")),
        };
    }
}

/// Whether a text matches a pattern in which `*` stands for any text.
pub fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| matches(tail, &rest[at..]))
        }),
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_patterns() {
        let words = split_words(r#"SET "a \"b\"\r\n\x00" 'c "d' "" e"#).unwrap();
        assert_eq!(words, [&b"SET"[..], b"a \"b\"\r\n\0", b"c \"d", b"", b"e"]);
        assert!(split_words("\"open").is_err());
        assert!(matches(":*", ":12") && matches("a*b*c", "a1b2bc") && !matches("a*b", "abc"));
    }
}
