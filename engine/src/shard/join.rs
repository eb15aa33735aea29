//! One reply out of the replies of several shards, for a command that was split over them
//! ([`super::plan`]). All were written by our own encoder, so reading them back cannot fail. Pure.

/// How the replies of the parts become one.
#[derive(Clone, Debug)]
pub enum Join {
    /// All say OK.
    Ok,
    /// The sum of integers.
    Sum,
    /// OK if any is not zero: the old form of CLIENT KILL.
    Killed,
    /// One text of all texts, as strings or as texts for people.
    Text,
    /// The reply of the part with this number, or of the first behind it that is not nil.
    Any(usize),
    /// One array of all elements.
    Concat,
    /// One array; for each part, the places of its elements.
    Interleave(Vec<Vec<usize>>),
}

impl Join {
    /// The reply to the whole: the first error, if there is one.
    pub fn join(&self, replies: Vec<Vec<u8>>) -> Vec<u8> {
        if let Some(error) = replies.iter().find(|reply| reply.first() == Some(&b'-')) {
            return error.clone();
        }
        match self {
            Join::Ok => b"+OK\r\n".to_vec(),
            Join::Sum => {
                let sum: i64 = replies.iter().map(|reply| integer(reply)).sum();
                format!(":{sum}\r\n").into_bytes()
            }
            Join::Killed if replies.iter().any(|reply| integer(reply) > 0) => b"+OK\r\n".to_vec(),
            Join::Killed => b"-ERR No such client\r\n".to_vec(),
            Join::Text => text(&replies),
            Join::Any(first) => {
                let is_nil = |reply: &&Vec<u8>| matches!(reply.as_slice(), b"$-1\r\n" | b"_\r\n");
                let mut from_first = replies.iter().cycle().skip(*first).take(replies.len());
                let found = from_first.find(|reply| !is_nil(reply)).or(replies.first());
                found.expect("every shard has answered").clone()
            }
            Join::Concat => {
                let all: Vec<&[u8]> = replies.iter().flat_map(|reply| elements(reply)).collect();
                array(&all)
            }
            Join::Interleave(places) => {
                let mut all: Vec<&[u8]> = vec![&[]; places.iter().map(Vec::len).sum()];
                for (reply, places) in replies.iter().zip(places) {
                    for (element, place) in elements(reply).into_iter().zip(places) {
                        all[*place] = element;
                    }
                }
                array(&all)
            }
        }
    }
}

/// Joins strings (`$5`) or texts for people (`=9`, `txt:`) as our own encoder wrote them.
fn text(replies: &[Vec<u8>]) -> Vec<u8> {
    let is_verbatim = replies.first().is_some_and(|reply| reply.first() == Some(&b'='));
    let prefix: &[u8] = if is_verbatim { b"txt:" } else { b"" };
    let body = |reply: &'_ Vec<u8>| line_end(reply) + prefix.len()..reply.len() - 2;
    let length: usize = replies.iter().map(|reply| body(reply).len()).sum();
    let kind = if is_verbatim { '=' } else { '$' };
    let mut out = format!("{kind}{}\r\n", length + prefix.len()).into_bytes();
    out.extend_from_slice(prefix);
    replies.iter().for_each(|reply| out.extend_from_slice(&reply[body(reply)]));
    out.extend_from_slice(b"\r\n");
    out
}

fn array(elements: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", elements.len()).into_bytes();
    elements.iter().for_each(|element| out.extend_from_slice(element));
    out
}

/// The number of an integer reply of our own encoder.
pub fn integer(reply: &[u8]) -> i64 {
    let text = reply.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b"\r\n"));
    let number = text.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    number.expect("our own encoder wrote an integer")
}

/// The elements of an array of bulk strings and nulls, as our own encoder wrote it.
fn elements(reply: &[u8]) -> Vec<&[u8]> {
    let mut rest = &reply[line_end(reply)..];
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let head = line_end(rest);
        let length = std::str::from_utf8(&rest[1..head - 2]).ok().and_then(|len| len.parse().ok());
        let end = length.map_or(head, |length: usize| head + length + 2);
        let (element, after) = rest.split_at(end);
        elements.push(element);
        rest = after;
    }
    elements
}

fn line_end(reply: &[u8]) -> usize {
    reply.windows(2).position(|pair| pair == b"\r\n").expect("a reply has a line") + 2
}
