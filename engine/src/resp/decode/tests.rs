//! The decoder against pieces of any size, against every error of the protocol, and its limits.

use proptest::prelude::*;

use super::*;
use crate::resp::encode;

type Requests = Vec<Vec<Vec<u8>>>;
type Outcome = (Requests, Option<ProtocolError>, usize);

/// Decodes everything in `input`, which arrives in pieces that end at these places.
fn decode_in_pieces(input: &[u8], ends: impl Iterator<Item = usize>, limits: &Limits) -> Outcome {
    let mut decoder = Decoder::new();
    let (mut begin, mut requests) = (0, Vec::new());
    for end in ends {
        loop {
            let buffer = &input[begin..end];
            match decoder.decode(buffer, limits) {
                Ok(Progress::Request { consumed }) => {
                    let args = decoder.args(buffer);
                    assert!(!args.is_empty() && consumed <= buffer.len());
                    requests.push(args.iter().map(<[u8]>::to_vec).collect());
                    begin += consumed;
                }
                Ok(Progress::Empty { consumed }) => begin += consumed,
                Ok(Progress::Incomplete { needed_bytes_hint }) => {
                    assert!(needed_bytes_hint > 0);
                    break;
                }
                Err(error) => return (requests, Some(error), begin),
            }
        }
    }
    (requests, None, begin)
}

fn whole(input: &[u8], limits: &Limits) -> Outcome {
    decode_in_pieces(input, std::iter::once(input.len()), limits)
}

fn bytewise(input: &[u8], limits: &Limits) -> Outcome {
    decode_in_pieces(input, 0..=input.len(), limits)
}

/// What both ways of receiving agree on.
fn outcome_with(input: &[u8], limits: &Limits) -> Outcome {
    let outcome = whole(input, limits);
    assert_eq!(bytewise(input, limits), outcome, "{:?}", String::from_utf8_lossy(input));
    outcome
}

fn requests(input: &[u8]) -> Vec<Vec<String>> {
    let (requests, error, consumed) = outcome_with(input, &Limits::FULL);
    assert_eq!((error, consumed), (None, input.len()));
    let text = |arg: &Vec<u8>| String::from_utf8_lossy(arg).into_owned();
    requests.iter().map(|request| request.iter().map(text).collect()).collect()
}

fn error_with(input: &[u8], limits: &Limits) -> String {
    let (_, error, _) = outcome_with(input, limits);
    error.unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(input))).to_string()
}

fn error(input: &[u8]) -> String {
    error_with(input, &Limits::FULL)
}

#[test]
fn a_pipeline_of_all_forms() {
    let input = b"*1\r\n$4\r\nPING\r\n\r\n*0\r\nset  \"a b\" c\r\n*-1\r\n\n*-7\r\n\
        *3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n*1\r\n$10\r\n0123456789\r\nGET x\nQUIT\r\n";
    assert_eq!(
        requests(input),
        vec![
            vec!["PING"],
            vec!["set", "a b", "c"],
            vec!["SET", "", "\r\n\r\n"],
            vec!["0123456789"],
            vec!["GET", "x"],
            vec!["QUIT"],
        ]
    );
}

#[test]
fn what_an_incomplete_request_needs() {
    let mut decoder = Decoder::new();
    let mut hint = |buffer: &[u8]| match decoder.decode(buffer, &Limits::FULL) {
        Ok(Progress::Incomplete { needed_bytes_hint }) => needed_bytes_hint,
        other => panic!("{other:?}"),
    };
    assert_eq!(hint(b""), 1);
    assert_eq!(hint(b"*2\r\n$3\r\n"), 5);
    assert_eq!(hint(b"*2\r\n$3\r\nGE"), 3);
    assert_eq!(hint(b"*2\r\n$3\r\nGET\r\n$"), 1);
    assert_eq!(hint(b"*2\r\n$3\r\nGET\r\n$536870912\r\n12"), MAX_BULK_BYTES);
}

#[test]
fn every_protocol_error() {
    let long = "1".repeat(MAX_LINE_BYTES + 1);
    for count in ["", "x", "+1", "01", "1 ", "1048577", "99999999999999999999", "-", "1x"] {
        assert_eq!(
            error(format!("*{count}\r\n").as_bytes()),
            "Protocol error: invalid multibulk length"
        );
    }
    for length in ["", "x", "-1", "-2", "01", "536870913", "9223372036854775808"] {
        assert_eq!(
            error(format!("*1\r\n${length}\r\n").as_bytes()),
            "Protocol error: invalid bulk length"
        );
    }
    assert_eq!(error(b"*1\r\nx"), "Protocol error: expected '$', got 'x'");
    assert_eq!(error(b"*2\r\n$1\r\na\r\n:1\r\n"), "Protocol error: expected '$', got ':'");
    assert_eq!(error(long.as_bytes()), "Protocol error: too big inline request");
    assert_eq!(error(format!("*{long}").as_bytes()), "Protocol error: too big mbulk count string");
    assert_eq!(
        error(format!("*1\r\n${long}").as_bytes()),
        "Protocol error: too big bulk count string"
    );
    assert_eq!(error(b"SET \"a\r\n"), "Protocol error: unbalanced quotes in request");
}

#[test]
fn the_limits_before_authentication() {
    let limits = Limits::UNAUTHENTICATED;
    let request = |args: usize, length: usize| {
        let arg = vec![b'x'; length];
        let mut out = Vec::new();
        encode::request(&mut out, (0..args).map(|_| arg.as_slice()));
        out
    };
    assert_eq!(outcome_with(&request(10, 1), &limits).0.len(), 1);
    assert_eq!(outcome_with(&request(1, 16_384), &limits).0.len(), 1);
    assert_eq!(
        error_with(&request(11, 1), &limits),
        "Protocol error: unauthenticated multibulk length"
    );
    assert_eq!(
        error_with(&request(1, 16_385), &limits),
        "Protocol error: unauthenticated bulk length"
    );
    assert_eq!(error_with(b"*1048577\r\n", &limits), "Protocol error: invalid multibulk length");
    assert_eq!(error_with(b"*1\r\n$536870913\r\n", &limits), "Protocol error: invalid bulk length");
}

#[test]
fn the_limits_of_requests() {
    // The longest line is accepted, with and without its end in the same piece.
    let mut line = vec![b'a'; MAX_LINE_BYTES];
    line.push(b'\n');
    assert_eq!(outcome_with(&line, &Limits::FULL).0[0][0].len(), MAX_LINE_BYTES);
    line.insert(0, b'a');
    assert_eq!(error(&line), "Protocol error: too big inline request");

    // A count and a length at their limits are no error.
    assert_eq!(whole(b"*1048576\r\n$536870912\r\n", &Limits::FULL).1, None);

    // Arguments that are each allowed, and together are not: found before the bytes come. Of the
    // zeros only those pages are ever touched that hold a length.
    let (first, second) = (b"*3\r\n$536870912\r\n", b"\r\n$536870912\r\n");
    let mut buffer = vec![0; first.len() + MAX_BULK_BYTES + second.len()];
    buffer[..first.len()].copy_from_slice(first);
    buffer[first.len() + MAX_BULK_BYTES..].copy_from_slice(second);
    let error = Decoder::new().decode(&buffer, &Limits::FULL);
    assert_eq!(error, Err(ProtocolError::RequestTooBig));
}

#[test]
fn authentication_takes_effect_within_a_pipeline() {
    let mut input = b"*1\r\n$4\r\nAUTH\r\n".to_vec();
    let auth = input.len();
    encode::request(&mut input, (0..11).map(|_| b"x".as_slice()));
    let mut decoder = Decoder::new();
    let progress = decoder.decode(&input, &Limits::UNAUTHENTICATED);
    assert_eq!(progress, Ok(Progress::Request { consumed: auth }));
    let rest = &input[auth..];
    let progress = decoder.decode(rest, &Limits::FULL);
    assert_eq!(progress, Ok(Progress::Request { consumed: rest.len() }));
    assert_eq!(decoder.args(rest).len(), 11);
}

#[test]
fn memory_of_an_unusual_request_is_given_back() {
    let mut input = Vec::new();
    encode::request(&mut input, (0..100_000).map(|_| b"x".as_slice()));
    let large = input.len();
    encode::request(&mut input, [b"PING".as_slice()].into_iter());
    let mut decoder = Decoder::new();
    decoder.decode(&input, &Limits::FULL).unwrap();
    assert_eq!(decoder.args(&input).len(), 100_000);
    decoder.decode(&input[large..], &Limits::FULL).unwrap();
    assert!(decoder.ranges.capacity() <= 2 * KEPT_RANGES);
}

fn request_strategy() -> impl Strategy<Value = Vec<u8>> {
    let arg = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..12),
        1 => prop::collection::vec(any::<u8>(), 90..130),
    ];
    prop_oneof![
        6 => prop::collection::vec(arg, 1..6).prop_map(|args| {
            let mut out = Vec::new();
            encode::request(&mut out, args.iter().map(Vec::as_slice));
            out
        }),
        2 => "[a-z\"'\\\\x0 ]{0,12}\r?\n".prop_map(String::into_bytes),
        1 => prop::sample::select(vec![&b"*0\r\n"[..], b"*-1\r\n", b"\r\n", b"*01\r\n", b"*1\r\nx"])
            .prop_map(<[u8]>::to_vec),
    ]
}

proptest! {
    #[test]
    fn pieces_of_any_size_decode_alike(
        parts in prop::collection::vec(request_strategy(), 1..8),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut input = parts.concat();
        if let Some((index, byte)) = damage {
            let index = index.index(input.len());
            input[index] = byte;
        }
        let outcome = whole(&input, &Limits::FULL);
        prop_assert_eq!(&bytewise(&input, &Limits::FULL), &outcome);
        let mut ends: Vec<_> = cuts.drain(..).map(|cut| cut.index(input.len())).collect();
        ends.push(input.len());
        ends.sort_unstable();
        prop_assert_eq!(&decode_in_pieces(&input, ends.into_iter(), &Limits::FULL), &outcome);
    }

    #[test]
    fn requests_round_trip(
        requests in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
            1..5,
        ),
    ) {
        let mut input = Vec::new();
        for request in &requests {
            encode::request(&mut input, request.iter().map(Vec::as_slice));
        }
        prop_assert_eq!(whole(&input, &Limits::FULL), (requests, None, input.len()));
    }

    #[test]
    fn any_bytes_are_safe(input in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(bytewise(&input, &Limits::FULL), whole(&input, &Limits::FULL));
    }
}
