//! Holds what a program can hold of the house style: sizes of files and functions, module docs, the
//! direction of imports, where `unsafe` may stand, and what lies at the top of the repository.
//!
//! It reads the files that git tracks (or would track), as text. All violations are printed at
//! once, one a line, as `path:line: what is wrong`. The lists below are meant to be edited: a new
//! entry in one is a decision that a reviewer sees.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a `.rs` file before its `#[cfg(test)]`.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function, from its `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 100;
/// Columns of a line.
const LINE_COLUMNS_MAX: usize = 100;

/// The files in which `unsafe` code may stand; each opens with an `expect(unsafe_code)` and its
/// reason.
const UNSAFE_FILES: &[&str] = &[
    "engine/src/keyspace/entry_layout.rs",
    "engine/src/keyspace/table.rs",
    "engine/src/log/buffer.rs",
    "engine/src/net/buffers.rs",
    "engine/src/net/eventfd.rs",
    "engine/src/net/ring/queues.rs",
];

/// What may lie at the top of the repository, beside the dot-files of [`DOT_FILES`].
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "clippy.toml",
    "control",
    "engine",
    "rustfmt.toml",
    "snapshot",
];

/// The dot-files and dot-folders that tools need.
const DOT_FILES: &[&str] = &[".cargo", ".ci", ".github", ".gitignore", ".gitattributes"];

/// The modules of the engine that `snapshot` may use: those without I/O. The modules of `log` that
/// only encode and decode are in [`PURE_LOG_MODULES`].
const PURE_ENGINE_MODULES: &[&str] = &["types", "entry", "slot", "log", "seal"];
/// The modules of `cutwater_engine::log` that neither open files nor know the ring.
const PURE_LOG_MODULES: &[&str] = &["record", "frame", "segment", "reader", "recovery"];

/// Words that no file under a folder may name, and why.
const FORBIDDEN_WORDS: &[(&str, &[&str], &str)] = &[
    (
        "engine/",
        &["cutwater_snapshot", "cutwater_control", "cutwater_bench", "tokio", "object_store"],
        "the engine knows neither the crates above it, nor tokio, nor object stores",
    ),
    (
        "snapshot/",
        &["cutwater_control", "cutwater_bench", "glommio"],
        "imports go engine <- snapshot <- control <- bench",
    ),
    ("control/", &["cutwater_bench"], "imports go engine <- snapshot <- control <- bench"),
];

/// Text that must not be in the repository: places on someone's machine and private registries.
/// In two halves, so that this file does not contain what it looks for.
const FORBIDDEN_TEXT: &[(&str, &str)] = &[
    ("/ho", "me/"),
    ("/ro", "ot/"),
    ("/Us", "ers/"),
    ("/wo", "rk/"),
    ("/workspa", "ce/"),
    ("artifac", "tory"),
    ("index.cra", "tes.io"),
    ("static.cra", "tes.io"),
    ("pypi.o", "rg"),
];

/// Files that may hold such text, because a tool writes them.
const FORBIDDEN_TEXT_EXEMPT: &[&str] = &["Cargo.lock"];

struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn add(&mut self, path: &str, line: usize, what: impl std::fmt::Display) {
        self.0.push(format!("{path}:{line}: {what}"));
    }
}

#[test]
fn the_house_is_tidy() {
    let root = repository_root();
    let paths = tracked_paths(&root);
    let mut found = Violations::default();
    check_top_level(&paths, &mut found);
    for source in read_sources(&root, &paths) {
        check_text(&source, &mut found);
        if source.is_rust() {
            let code = blank_out(&source.text);
            check_module_docs(&source, &mut found);
            check_file_length(&source, &mut found);
            check_functions(&source.path, &code, &mut found);
            check_unsafe(&source.path, &code, &mut found);
            check_imports(&source.path, &code, &mut found);
        }
    }
    check_readme(&paths, &mut found);
    let mut report = String::new();
    for line in &found.0 {
        let _ = writeln!(report, "{line}");
    }
    assert!(found.0.is_empty(), "{} violations:\n{report}", found.0.len());
}

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bench lies in the root").to_owned()
}

/// What git tracks or would track; the walk of a source archive without git skips `target`.
fn tracked_paths(root: &Path) -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    let mut paths: Vec<String> = match listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .filter(|path| !path.is_empty() && root.join(path).is_file())
            .map(str::to_owned)
            .collect(),
        _ => walk(root, ""),
    };
    paths.sort();
    assert!(paths.iter().any(|path| path == "Cargo.toml"), "no sources under {}", root.display());
    paths
}

fn walk(root: &Path, below: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let entries = std::fs::read_dir(root.join(below)).expect("a readable folder");
    for entry in entries.map(|entry| entry.expect("a readable folder entry")) {
        let path = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("a file type").is_dir() {
            if !["target", ".git", "cutwater-data"].contains(&path.as_str()) {
                paths.extend(walk(root, &format!("{path}/")));
            }
        } else {
            paths.push(path);
        }
    }
    paths
}

/// The files that are text.
fn read_sources(root: &Path, paths: &[String]) -> Vec<Source> {
    let read = |path: &String| {
        let text = String::from_utf8(std::fs::read(root.join(path)).ok()?).ok()?;
        Some(Source { path: path.clone(), text })
    };
    paths.iter().filter_map(read).collect()
}

fn check_top_level(paths: &[String], found: &mut Violations) {
    let mut last = "";
    for path in paths {
        let top = path.split('/').next().expect("a path has a first part");
        if top != last && !TOP_LEVEL.contains(&top) && !DOT_FILES.contains(&top) {
            found.add(path, 1, "does not belong at the top of the repository");
        }
        last = top;
    }
}

fn check_text(source: &Source, found: &mut Violations) {
    let exempt = FORBIDDEN_TEXT_EXEMPT.contains(&source.path.as_str());
    for (number, line) in source.text.lines().enumerate() {
        if source.is_rust() && line.chars().count() > LINE_COLUMNS_MAX {
            found.add(&source.path, number + 1, format_args!("over {LINE_COLUMNS_MAX} columns"));
        }
        for (head, tail) in FORBIDDEN_TEXT.iter().filter(|_| !exempt) {
            if line.contains(&format!("{head}{tail}")) {
                found.add(&source.path, number + 1, format_args!("names {head}{tail}"));
            }
        }
    }
}

/// The files and folders that README names exist: what stands between backquotes, or behind `](`,
/// and begins with the name of a crate.
fn check_readme(paths: &[String], found: &mut Violations) {
    let readme = include_str!("../../README.md");
    let mut named = 0;
    for (number, line) in readme.lines().enumerate() {
        for word in line.split(['`', '(', ')']) {
            let is_path = ["engine/", "snapshot/", "control/", "bench/"]
                .iter()
                .any(|folder| word.starts_with(folder) && word.len() > folder.len())
                && !word.contains(|letter: char| letter.is_whitespace());
            if !is_path {
                continue;
            }
            named += 1;
            let exists =
                |path: &String| path == word || word.ends_with('/') && path.starts_with(word);
            if !paths.iter().any(exists) {
                found.add("README.md", number + 1, format_args!("{word} does not exist"));
            }
        }
    }
    assert!(named > 30, "README follows three journeys file by file: {named} files named");
}

fn check_module_docs(source: &Source, found: &mut Violations) {
    if !source.text.starts_with("//!") {
        found.add(&source.path, 1, "does not open with `//!` docs");
    }
}

/// A `tests.rs` is the `#[cfg(test)]` part of its parent, in a file of its own.
fn check_file_length(source: &Source, found: &mut Violations) {
    if source.path.ends_with("/tests.rs") {
        return;
    }
    let lines = source.text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
    if lines > FILE_LINES_MAX {
        found.add(&source.path, lines, format_args!("{lines} lines, at most {FILE_LINES_MAX}"));
    }
}

/// rustfmt puts the brace that closes a function at the indentation of the line that opens it.
fn check_functions(path: &str, code: &str, found: &mut Violations) {
    let lines: Vec<&str> = code.lines().collect();
    for (start, line) in lines.iter().enumerate() {
        if !opens_function(line) || line.trim_end().ends_with([';', '}']) {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let close = format!("{indent}}}");
        let tail = &lines[start + 1..];
        // A declaration in a trait, over several lines, has no brace: it ends with a semicolon.
        let declaration = format!("{indent})");
        let ends = |line: &&str| {
            **line == close || (line.starts_with(&declaration) && line.ends_with(';'))
        };
        let Some(length) = tail.iter().position(ends) else { continue };
        if length + 2 > FUNCTION_LINES_MAX {
            let what = format!("a function of {} lines, at most {FUNCTION_LINES_MAX}", length + 2);
            found.add(path, start + 1, what);
        }
    }
}

fn opens_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.by_ref().find(|word| !is_qualifier(word)) == Some("fn") && words.next().is_some()
}

fn is_qualifier(word: &str) -> bool {
    word.starts_with("pub") || ["const", "async", "unsafe", "extern"].contains(&word)
}

fn check_unsafe(path: &str, code: &str, found: &mut Violations) {
    if UNSAFE_FILES.contains(&path) {
        return;
    }
    for (number, line) in code.lines().enumerate() {
        if words(line).any(|word| word == "unsafe") {
            found.add(path, number + 1, "`unsafe` outside the files that UNSAFE_FILES lists");
        }
    }
}

fn check_imports(path: &str, code: &str, found: &mut Violations) {
    for (folder, names, why) in FORBIDDEN_WORDS {
        for (number, line) in code.lines().enumerate().filter(|_| path.starts_with(folder)) {
            for word in words(line).filter(|word| names.contains(word)) {
                found.add(path, number + 1, format_args!("names `{word}`: {why}"));
            }
        }
    }
    if path.starts_with("snapshot/") {
        check_engine_uses(path, code, found);
    }
}

/// `snapshot` may use only the pure modules of the engine. Handles `use cutwater_engine::{..}`
/// over several lines by reading up to the semicolon.
fn check_engine_uses(path: &str, code: &str, found: &mut Violations) {
    let name = "cutwater_engine::";
    for (at, _) in code.match_indices(name) {
        let number = code[..at].lines().count();
        for used in first_segments(&code[at + name.len()..]) {
            if !PURE_ENGINE_MODULES.contains(&used.module) {
                let what = format!("uses `cutwater_engine::{}`, which is not pure", used.module);
                found.add(path, number, what);
            }
            if used.module == "log" {
                check_log_modules(path, number, used.rest, found);
            }
        }
    }
}

fn check_log_modules(path: &str, number: usize, rest: &str, found: &mut Violations) {
    for Used { module, .. } in first_segments(rest) {
        let is_module = module.chars().all(|c| c.is_lowercase() || c == '_');
        if is_module && !module.is_empty() && !PURE_LOG_MODULES.contains(&module) {
            let what = format!("uses `cutwater_engine::log::{module}`, which is not pure");
            found.add(path, number, what);
        }
    }
}

/// One module of a path below a crate, and what follows its `::`.
struct Used<'a> {
    module: &'a str,
    rest: &'a str,
}

/// The first segments of what follows `cutwater_engine::`, which is a path or a braced list.
fn first_segments(rest: &str) -> Vec<Used<'_>> {
    let Some(list) = rest.strip_prefix('{') else {
        return vec![first_segment(rest)];
    };
    let (mut depth, mut begin, mut parts) = (0, 0, Vec::new());
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => {
                parts.push(&list[begin..at]);
                break;
            }
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&list[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.into_iter().filter(|part| !part.trim().is_empty()).map(first_segment).collect()
}

fn first_segment(path: &str) -> Used<'_> {
    let path = path.trim_start();
    let module = words(path).next().unwrap_or("");
    let rest = path.get(module.len()..).and_then(|rest| rest.strip_prefix("::")).unwrap_or("");
    Used { module, rest }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The same text with comments and string literals as spaces, so that words in them do not count.
/// Line numbers and indentation stay.
fn blank_out(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => block_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if is_raw_string(bytes, at) => raw_string_end(bytes, at),
            b'\'' => char_end(bytes, at),
            _ => {
                out.push(bytes[at]);
                at += 1;
                continue;
            }
        };
        out.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    String::from_utf8(out).expect("whole literals were replaced by spaces")
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n)
}

fn block_end(bytes: &[u8], at: usize) -> usize {
    bytes[at + 2..].windows(2).position(|two| two == b"*/").map_or(bytes.len(), |n| at + n + 4)
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != b'"' {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

fn is_raw_string(bytes: &[u8], at: usize) -> bool {
    let inside_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let prefixed_by_b =
        at > 0 && bytes[at - 1] == b'b' && (at < 2 || !bytes[at - 2].is_ascii_alphanumeric());
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    (!inside_word || prefixed_by_b) && bytes.get(at + 1 + hashes) == Some(&b'"')
}

fn raw_string_end(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let body = at + hashes + 2;
    let found = bytes[body..].windows(close.len()).position(|window| window == close);
    found.map_or(bytes.len(), |n| body + n + close.len())
}

/// A character literal; the quote of a lifetime stands for itself.
fn char_end(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        let rest = bytes.get(at + 3..).unwrap_or(&[]);
        return rest.iter().position(|b| *b == b'\'').map_or(bytes.len(), |n| at + n + 4);
    }
    let len = std::str::from_utf8(&bytes[at + 1..bytes.len().min(at + 5)])
        .map_or_else(|error| &bytes[at + 1..at + 1 + error.valid_up_to()], str::as_bytes);
    let width =
        std::str::from_utf8(len).ok().and_then(|s| s.chars().next()).map_or(0, char::len_utf8);
    if width > 0 && bytes.get(at + 1 + width) == Some(&b'\'') { at + width + 2 } else { at + 1 }
}

#[test]
fn the_checks_see_what_they_should() {
    let code = "fn a<'x>() { let b = \"unsafe\"; // unsafe\n  let c = '\"'; r#\"unsafe\"#; }\n";
    assert!(!blank_out(code).contains("unsafe"));
    assert_eq!(blank_out(code).lines().count(), code.lines().count());

    let mut found = Violations::default();
    check_unsafe("engine/src/types.rs", "unsafe { x }", &mut found);
    check_imports("engine/src/lib.rs", "use tokio::sync;", &mut found);
    check_imports("snapshot/src/lib.rs", "use cutwater_engine::shard::Core;", &mut found);
    check_imports(
        "snapshot/src/lib.rs",
        "use cutwater_engine::{types::Lsn, net::Ring};",
        &mut found,
    );
    check_imports("snapshot/src/lib.rs", "use cutwater_engine::log::{disk, frame};", &mut found);
    check_imports("snapshot/src/lib.rs", "use cutwater_engine::log::disk::Disk;", &mut found);
    let long = format!("    pub(crate) fn f() {{\n{}    }}\n", "        x();\n".repeat(99));
    check_functions("engine/src/lib.rs", &long, &mut found);
    check_top_level(&["engine/x".into(), "notes/x".into()], &mut found);
    assert_eq!(found.0.len(), 8, "{:#?}", found.0);
}
