//! Round trips of random replies, each cut, damaged and in pieces.

use proptest::prelude::*;

use super::*;
use crate::resp::{Reply, RespVersion};

/// A reply of RESP3 as bytes.
fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    encode(value, &mut out);
    out
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    let mut reply = Reply::new(out, RespVersion::V3);
    match value {
        Value::Simple(text) => reply.simple(text),
        Value::Error(text) => reply.error(text),
        Value::Integer(value) => reply.integer(*value),
        Value::Bulk(bytes) => reply.bulk(bytes),
        Value::Null => reply.null(),
        Value::Boolean(value) => reply.boolean(*value),
        Value::Double(value) => reply.double(*value),
        Value::Verbatim { format, text } => {
            reply.verbatim(*format, str::from_utf8(text).unwrap());
        }
        Value::BigNumber(digits) => reply.raw(format!("({digits}\r\n").as_bytes()),
        Value::Array(values) => {
            reply.array(values.len());
            values.iter().for_each(|value| encode(value, out));
        }
        Value::Set(values) => {
            reply.set(values.len());
            values.iter().for_each(|value| encode(value, out));
        }
        Value::Push(values) => {
            reply.push(values.len());
            values.iter().for_each(|value| encode(value, out));
        }
        Value::Map(pairs) => {
            reply.map(pairs.len());
            encode_pairs(pairs, out);
        }
        Value::Attribute { attributes, value } => {
            reply.raw(format!("|{}\r\n", attributes.len()).as_bytes());
            encode_pairs(attributes, out);
            encode(value, out);
        }
    }
}

fn encode_pairs(pairs: &[(Value, Value)], out: &mut Vec<u8>) {
    for (key, value) in pairs {
        encode(key, out);
        encode(value, out);
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        "[a-zA-Z ]{0,10}".prop_map(Value::Simple),
        "[A-Z]{1,5} [a-z ]{0,10}".prop_map(Value::Error),
        any::<i64>().prop_map(Value::Integer),
        (0..200i64).prop_map(Value::Integer),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bulk),
        Just(Value::Null),
        any::<bool>().prop_map(Value::Boolean),
        any::<f64>().prop_filter("NaN is not equal", |v| !v.is_nan()).prop_map(Value::Double),
        "[a-z\r\n]{0,10}".prop_map(|text| Value::Verbatim { format: *b"txt", text: text.into() }),
        "-?[0-9]{1,40}".prop_map(Value::BigNumber),
    ];
    leaf.prop_recursive(3, 40, 4, |inner| {
        let values = || prop::collection::vec(inner.clone(), 0..4);
        let pairs = || prop::collection::vec((inner.clone(), inner.clone()), 0..3);
        prop_oneof![
            values().prop_map(Value::Array),
            values().prop_map(Value::Set),
            values().prop_map(Value::Push),
            pairs().prop_map(Value::Map),
            (pairs(), inner.clone()).prop_map(|(attributes, value)| Value::Attribute {
                attributes,
                value: Box::new(value),
            }),
        ]
    })
}

proptest! {
    #[test]
    fn replies_round_trip_also_in_pieces(value in any_value(), next in any_value()) {
        let mut bytes = encoded(&value);
        let len = bytes.len();
        for cut in 0..len {
            prop_assert_eq!(Value::parse(&bytes[..cut]), Ok(None), "cut at {}", cut);
        }
        bytes.extend(encoded(&next));
        prop_assert_eq!(Value::parse(&bytes), Ok(Some((value.clone(), len))));

        let mut reader = ReplyReader::new();
        let (mut begin, mut read) = (0, Vec::new());
        for end in 0..=bytes.len() {
            while let Some((value, taken)) = reader.read(&bytes[begin..end]).unwrap() {
                read.push(value);
                begin += taken;
            }
        }
        prop_assert_eq!(read, vec![value, next]);
    }

    #[test]
    fn damaged_replies_are_read_alike_in_pieces(
        value in any_value(),
        index in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encoded(&value);
        let index = index.index(bytes.len());
        bytes[index] = byte;
        let parsed = Value::parse(&bytes);
        let mut reader = ReplyReader::new();
        let read = (0..=bytes.len()).find_map(|end| reader.read(&bytes[..end]).transpose());
        // A reader may see an error in a part that the parser has not yet come to, or the end of
        // the reply before the damage; but it never makes another value of it.
        if let (Ok(Some(parsed)), Some(Ok(read))) = (&parsed, &read) {
            // NaN is not equal to itself.
            prop_assert_eq!(format!("{parsed:?}"), format!("{read:?}"));
        }
        prop_assert_eq!(matches!(parsed, Ok(Some(_))), matches!(read, Some(Ok(_))));
    }

    #[test]
    fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Value::parse(&bytes);
        let _ = ReplyReader::new().read(&bytes);
    }
}

#[test]
fn every_form_of_nil_and_error() {
    for nil in ["$-1\r\n", "*-1\r\n", "_\r\n"] {
        assert_eq!(Value::parse(nil.as_bytes()), Ok(Some((Value::Null, nil.len()))));
    }
    let error = Value::Error("ERR a\nb".to_owned());
    assert_eq!(Value::parse(b"!7\r\nERR a\nb\r\n"), Ok(Some((error, 13))));
    assert_eq!(Value::parse(b":+5\r\n"), Ok(Some((Value::Integer(5), 5))));
}

#[test]
fn what_is_no_reply() {
    let cases: [(&[u8], ReplyError); 16] = [
        (b"x\r\n", ReplyError::Type(b'x')),
        (b"\r\n", ReplyError::Invalid(b'\r')),
        (b"\n", ReplyError::Invalid(b'\n')),
        (b"+a\n", ReplyError::Invalid(b'+')),
        (b":\r\n", ReplyError::Invalid(b':')),
        (b":+-5\r\n", ReplyError::Invalid(b':')),
        (b":1x\r\n", ReplyError::Invalid(b':')),
        (b"#x\r\n", ReplyError::Invalid(b'#')),
        (b",x\r\n", ReplyError::Invalid(b',')),
        (b"(-\r\n", ReplyError::Invalid(b'(')),
        (b"$-2\r\n", ReplyError::Invalid(b'$')),
        (b"%-1\r\n", ReplyError::Invalid(b'%')),
        (b"$536870913\r\n", ReplyError::TooLarge),
        (b"*2147483649\r\n", ReplyError::TooLarge),
        (b"$1\r\nabc", ReplyError::Unterminated),
        (b"=3\r\ntxt\r\n", ReplyError::Invalid(b'=')),
    ];
    for (bytes, error) in cases {
        assert_eq!(Value::parse(bytes), Err(error), "{:?}", String::from_utf8_lossy(bytes));
        assert_eq!(ReplyReader::new().read(bytes), Err(error));
    }
    let long = vec![b'+'; MAX_LINE_BYTES + 2];
    assert_eq!(Value::parse(&long), Err(ReplyError::LineTooLong));
    assert_eq!(ReplyReader::new().read(&long), Err(ReplyError::LineTooLong));
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
    assert!(matches!(Value::parse(&nested(MAX_DEPTH)), Ok(Some(_))));
    assert_eq!(Value::parse(&nested(MAX_DEPTH + 1)), Err(ReplyError::TooDeep));
    assert_eq!(Value::parse(&b"*1\r\n".repeat(100_000)), Err(ReplyError::TooDeep));
    assert_eq!(ReplyReader::new().read(&nested(MAX_DEPTH + 1)), Err(ReplyError::TooDeep));
    // Attributes nest as well, though each is one value only.
    let attributes = b"|0\r\n".repeat(100_000);
    assert_eq!(Value::parse(&attributes), Err(ReplyError::TooDeep));
}

#[test]
fn accessors() {
    let text = |text: &str| Value::Bulk(text.into());
    assert!(Value::Simple("OK".to_owned()).is_ok() && Value::Null.is_null());
    assert_eq!(text("12").as_integer(), Some(12));
    assert_eq!(text("1.5").as_double(), Some(1.5));
    assert_eq!(Value::Error("ERR x".to_owned()).as_error(), Some("ERR x"));
    let pairs = vec![(text("a"), Value::Integer(1)), (text("b"), Value::Integer(2))];
    let flat = Value::Array(vec![text("a"), Value::Integer(1), text("b"), Value::Integer(2)]);
    for map in [Value::Map(pairs), flat] {
        assert_eq!(map.field("b").and_then(Value::as_integer), Some(2));
        assert_eq!(map.field("c"), None);
    }
}
