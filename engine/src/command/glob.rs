//! Glob patterns as KEYS, SCAN and PSUBSCRIBE take them: `*`, `?`, `[a-z]`, `[^a-z]` and `\x`.
//!
//! The meaning is that of Redis' `stringmatchlen` (util.c), including what it does with patterns
//! that are not finished (`[a`, a trailing `\`), and that nothing but the empty pattern matches
//! the empty string. Each element consumes exactly one byte, so after a mismatch only the last
//! star needs another try: at most `pattern * text` steps, for any pattern.

/// Whether the pattern matches the whole text.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    // Where the pattern goes on behind the last star, and where in the text that was tried.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if let Some(next) = step(pattern, p, text[t]) {
            (p, t) = (next, t + 1);
            continue;
        }
        let Some((behind, tried)) = star else { return false };
        star = Some((behind, tried + 1));
        (p, t) = (behind, tried + 1);
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Whether the pattern is matched by every key, which Redis decides before it looks at any.
pub fn matches_all(pattern: &[u8]) -> bool {
    pattern == b"*"
}

/// Matches the element at `p`, which is no star, against one byte; answers where it ends.
fn step(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    let matched = |yes: bool, next: usize| yes.then_some(next);
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => matched(pattern[p + 1] == byte, p + 2),
        literal => matched(literal == byte, p + 1),
    }
}

/// Matches the class whose `[` lies before `p`. One that has no `]` ends with the pattern.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    if negated {
        p += 1;
    }
    let mut found = false;
    while let Some(&first) = pattern.get(p) {
        match (first, &pattern[p + 1..]) {
            (b'\\', [escaped, ..]) => {
                found |= *escaped == byte;
                p += 2;
            }
            (b']', _) => break,
            (_, [b'-', last, ..]) => {
                // Redis compares `char`s, which are signed where it usually runs.
                let (first, last, byte) = (first as i8, *last as i8, byte as i8);
                found |= (first.min(last)..=first.max(last)).contains(&byte);
                p += 3;
            }
            _ => {
                found |= first == byte;
                p += 1;
            }
        }
    }
    (found != negated).then_some((p + 1).min(pattern.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_redis_matches() {
        let cases: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("*", "", false),
            ("*", "a", true),
            ("**", "abc", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h*llo", "hllo", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h[a-b]llo", "hcllo", false),
            ("[^a-z]x", "Ax", true),
            ("[^a-z]x", "bx", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("[\\]]", "]", true),
            ("[]]", "]", false),
            ("\\", "\\", true),
            ("ab\\", "ab\\", true),
            ("[", "[", false),
            ("[a", "a", true),
            ("[a", "b", false),
            ("[^", "x", true),
            ("[a-", "-", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-", false),
            ("*a", "aaab", false),
            ("foo*", "foo", true),
            ("foo**", "foo", true),
            ("foo?", "foo", false),
            ("user:*:name", "user:17:name", true),
        ];
        for (pattern, text, expected) in cases {
            let got = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(got, *expected, "{pattern:?} on {text:?}");
        }
        assert!(matches(b"[\x80-\x90]", b"\x85"));
        assert!(matches_all(b"*") && !matches_all(b"**"));
    }

    #[test]
    fn hostile_patterns_take_bounded_time() {
        let pattern = b"a*".repeat(1000);
        let pattern = [pattern.as_slice(), b"b"].concat();
        assert!(!matches(&pattern, &b"a".repeat(20_000)));
    }
}
