//! Inline commands: one line of words, as a person types it into a raw connection. Pure.
//!
//! The rules are those of Redis (`sdssplitargs`): words are parted by blanks; inside double quotes
//! `\xHH`, `\n`, `\r`, `\t`, `\b` and `\a` are escapes and any other escaped byte is itself; inside
//! single quotes only `\'` is one; a closing quote must end its word; a NUL ends the line.

use super::args::ArgRange;

/// A quote is left open, or a closing quote stands inside a word.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unbalanced;

/// Appends the words of `line` to `bytes` and where they stand to `ranges`.
pub(super) fn split(
    line: &[u8],
    bytes: &mut Vec<u8>,
    ranges: &mut Vec<ArgRange>,
) -> Result<(), Unbalanced> {
    let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut rest = line;
    loop {
        rest = skip_blanks(rest);
        if rest.is_empty() {
            return Ok(());
        }
        let start = bytes.len() as u32;
        rest = word(rest, bytes)?;
        ranges.push(ArgRange { start, end: bytes.len() as u32 });
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0B | 0x0C | b'\r')
}

fn skip_blanks(line: &[u8]) -> &[u8] {
    let blanks = line.iter().take_while(|byte| is_blank(**byte)).count();
    &line[blanks..]
}

/// Takes one word off the front, which is no blank, and returns what follows it.
fn word<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            // Vertical tab and form feed part words only where one begins, as in Redis.
            b' ' | b'\n' | b'\r' | b'\t' => return Ok(rest),
            b'"' => return double_quoted(after, bytes),
            b'\'' => return single_quoted(after, bytes),
            byte => bytes.push(byte),
        }
        rest = after;
    }
    Ok(rest)
}

fn double_quoted<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                bytes.push(hex_digit(*high) << 4 | hex_digit(*low));
                after
            }
            [b'\\', escaped, after @ ..] => {
                bytes.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                after
            }
            [b'"', after @ ..] => return ended(after),
            [byte, after @ ..] => {
                bytes.push(*byte);
                after
            }
            [] => return Err(Unbalanced),
        };
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [b'\\', b'\'', after @ ..] => {
                bytes.push(b'\'');
                after
            }
            [b'\'', after @ ..] => return ended(after),
            [byte, after @ ..] => {
                bytes.push(*byte);
                after
            }
            [] => return Err(Unbalanced),
        };
    }
}

/// What follows a closing quote: a blank or nothing.
fn ended(after: &[u8]) -> Result<&[u8], Unbalanced> {
    match after.first() {
        Some(byte) if !is_blank(*byte) => Err(Unbalanced),
        _ => Ok(after),
    }
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, Unbalanced> {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        split(line, &mut bytes, &mut ranges)?;
        let word = |range: &ArgRange| bytes[range.start as usize..range.end as usize].to_vec();
        Ok(ranges.iter().map(word).collect())
    }

    #[test]
    fn words_quotes_and_escapes() {
        let cases: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b" \t\x0b\x0c ", &[]),
            (b"PING", &[b"PING"]),
            (b"  set\tkey   value ", &[b"set", b"key", b"value"]),
            (br#"set "a b" 'c d'"#, &[b"set", b"a b", b"c d"]),
            (br#""\x00\xfF\n\r\t\b\a\\\"\q""#, &[b"\x00\xff\n\r\t\x08\x07\\\"q"]),
            (br#""\xg0" "\x1""#, &[b"xg0", b"x1"]),
            (br"'it\'s' '\n'", &[b"it's", br"\n"]),
            (br#""" ''"#, &[b"", b""]),
            (br#"ab"cd""#, &[b"abcd"]),
            (br#"a'b c' d"#, &[b"ab c", b"d"]),
            (b"one\0two three", &[b"one"]),
            (b"a\x0bb", &[b"a\x0bb"]),
        ];
        for (line, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|word| word.to_vec()).collect();
            assert_eq!(words(line), Ok(expected), "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn unbalanced_quotes() {
        let lines: [&[u8]; 8] =
            [b"\"", b"'", b"a \"b", b"'a'b", b"\"a\"b", b"\"a\\\"", b"\"a\0\"", b"\"\"\"\""];
        for line in lines {
            assert_eq!(words(line), Err(Unbalanced), "{:?}", String::from_utf8_lossy(line));
        }
    }
}
