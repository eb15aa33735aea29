//! The arguments of a command, as a person writes them (`key value [NX | XX]`), become the tree
//! that COMMAND DOCS answers and redis-cli turns into hints. Pure; the texts are the table's own.
//!
//! Words in capitals are tokens, others are values; `[ ]` is optional, `|` parts alternatives,
//! `< >` groups, and `...` repeats: behind a group that group, inside brackets what stands before
//! them.

use super::table::CommandSpec;
use crate::resp::Reply;

/// What stands at one place of a syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// A value with this name.
    Value,
    /// A word to be given as it is.
    PureToken,
    /// One of the children.
    OneOf(Vec<Argument>),
    /// All of the children, in order.
    Block(Vec<Argument>),
}

/// One argument of a command, or a group of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Argument {
    name: String,
    kind: Kind,
    /// The word that announces it.
    token: Option<String>,
    is_optional: bool,
    is_multiple: bool,
}

impl Argument {
    fn new(name: &str, kind: Kind) -> Self {
        let name = name.to_ascii_lowercase();
        Self { name, kind, token: None, is_optional: false, is_multiple: false }
    }
}

/// The arguments of a syntax, in order.
pub(super) fn parse(syntax: &str) -> Vec<Argument> {
    let mut spaced = syntax.to_owned();
    for mark in ["[", "]", "<", ">", "|"] {
        spaced = spaced.replace(mark, &format!(" {mark} "));
    }
    let mut words = spaced.split_whitespace();
    sequence_until_end(&mut words).arguments
}

/// A run of arguments, and how it ended.
struct Sequence {
    arguments: Vec<Argument>,
    /// The word that ended it: a closing bracket or `|`; empty at the end of the text.
    end: String,
    /// Whether it says `...` of what stands before its brackets.
    repeats: bool,
}

fn sequence_until_end<'a>(words: &mut impl Iterator<Item = &'a str>) -> Sequence {
    let mut arguments: Vec<Argument> = Vec::new();
    // A token of which it is not yet known whether a value follows.
    let mut token: Option<&str> = None;
    let mut repeats = false;
    let mut end = String::new();
    for_each_item(words, &mut end, |item| {
        let is_token = matches!(&item, Item::Word(word) if is_token(word));
        let takes_token = matches!(item, Item::Word(_) | Item::Group(_)) && !is_token;
        let pending = token.take();
        if let Some(pending) = pending.filter(|_| !takes_token) {
            arguments.push(Argument::new(pending, Kind::PureToken).with_token(pending));
        }
        match item {
            Item::Word(word) if is_token => token = Some(word),
            Item::Word(word) => {
                arguments.push(Argument::new(word, Kind::Value).announced_by(pending));
            }
            Item::Group(group) => arguments.push(group.announced_by(pending)),
            Item::Optional(optional) => arguments.push(optional),
            Item::RepeatBefore(count) => repeat_last(&mut arguments, count),
            Item::Repeat if arguments.last().is_some_and(Argument::is_group) => {
                repeat_last(&mut arguments, 1);
            }
            Item::Repeat => repeats = true,
        }
    });
    if let Some(pending) = token {
        arguments.push(Argument::new(pending, Kind::PureToken).with_token(pending));
    }
    Sequence { arguments, end, repeats }
}

/// What a sequence is made of.
enum Item<'a> {
    Word(&'a str),
    /// `< >`
    Group(Argument),
    /// `[ ]`
    Optional(Argument),
    /// `[x y ...]`, of so many arguments.
    RepeatBefore(usize),
    /// `...`
    Repeat,
}

fn for_each_item<'a>(
    words: &mut impl Iterator<Item = &'a str>,
    end: &mut String,
    mut take: impl FnMut(Item<'a>),
) {
    while let Some(word) = words.next() {
        match word {
            "]" | ">" | "|" => {
                word.clone_into(end);
                return;
            }
            "<" => take(Item::Group(alternatives(words).0)),
            "[" => {
                let (mut argument, repeated) = alternatives(words);
                argument.is_optional = true;
                take(match repeated {
                    Some(count) => Item::RepeatBefore(count),
                    None => Item::Optional(argument),
                });
            }
            "..." => take(Item::Repeat),
            word => take(Item::Word(word)),
        }
    }
}

/// What stands between two brackets as one argument; and, if it only repeats what stands before
/// them, how many arguments that are.
fn alternatives<'a>(words: &mut impl Iterator<Item = &'a str>) -> (Argument, Option<usize>) {
    let mut choices = Vec::new();
    loop {
        // The iterator's type would grow with each level of brackets if it were not erased.
        let words: &mut dyn Iterator<Item = &'a str> = words;
        let mut words = words;
        let sequence = sequence_until_end(&mut words);
        if sequence.repeats {
            let count = sequence.arguments.len();
            return (Argument::new("repeated", Kind::Block(Vec::new())), Some(count));
        }
        choices.push(one(sequence.arguments, "block", Kind::Block));
        if sequence.end != "|" {
            return (one(choices, "choice", Kind::OneOf), None);
        }
    }
}

/// One argument as it is; several as a group.
fn one(
    mut arguments: Vec<Argument>,
    name: &str,
    group: impl Fn(Vec<Argument>) -> Kind,
) -> Argument {
    match arguments.pop() {
        Some(only) if arguments.is_empty() => only,
        Some(last) => {
            arguments.push(last);
            Argument::new(name, group(arguments))
        }
        None => Argument::new(name, group(arguments)),
    }
}

/// Lets the last `count` arguments be given several times.
fn repeat_last(arguments: &mut Vec<Argument>, count: usize) {
    let repeated = arguments.split_off(arguments.len().saturating_sub(count));
    let mut repeated = one(repeated, "block", Kind::Block);
    repeated.is_multiple = true;
    arguments.push(repeated);
}

fn is_token(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_uppercase())
}

impl Argument {
    fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    fn announced_by(self, token: Option<&str>) -> Self {
        match token {
            Some(token) => self.with_token(token),
            None => self,
        }
    }

    fn is_group(&self) -> bool {
        matches!(self.kind, Kind::OneOf(_) | Kind::Block(_))
    }

    /// The type as COMMAND DOCS names it. The names of values are used consistently enough in the
    /// table to tell it from them.
    fn type_name(&self, spec: &CommandSpec) -> &'static str {
        match (&self.kind, self.name.as_str()) {
            (Kind::OneOf(_), _) => "oneof",
            (Kind::Block(_), _) => "block",
            (Kind::PureToken, _) => "pure-token",
            (Kind::Value, _) if self.key_spec_index(spec).is_some() => "key",
            (Kind::Value, "pattern") => "pattern",
            (Kind::Value, "increment") if spec.name.ends_with("float") => "double",
            (Kind::Value, name) if name.starts_with("unix-time") => "unix-time",
            (
                Kind::Value,
                "seconds" | "milliseconds" | "increment" | "decrement" | "offset" | "start" | "end"
                | "index" | "count" | "slot" | "cursor" | "protover" | "client-id"
                | "destination-db",
            ) => "integer",
            (Kind::Value, _) => "string",
        }
    }

    /// Which of the command's key specifications the value belongs to.
    fn key_spec_index(&self, spec: &CommandSpec) -> Option<usize> {
        let index = match self.name.as_str() {
            "key" | "source" => 0,
            "newkey" | "destination" => 1,
            _ => return None,
        };
        (index < spec.key_specs.len()).then_some(index)
    }
}

/// Writes the arguments as COMMAND DOCS answers them.
pub(super) fn write(arguments: &[Argument], spec: &CommandSpec, reply: &mut Reply<'_>) {
    reply.array(arguments.len());
    for argument in arguments {
        write_one(argument, spec, reply);
    }
}

fn write_one(argument: &Argument, spec: &CommandSpec, reply: &mut Reply<'_>) {
    let key_spec_index = argument.key_spec_index(spec);
    let flags: Vec<&str> = [(argument.is_optional, "optional"), (argument.is_multiple, "multiple")]
        .into_iter()
        .filter_map(|(is_set, name)| is_set.then_some(name))
        .collect();
    let optional_fields = [
        !argument.is_group(),
        key_spec_index.is_some(),
        argument.token.is_some(),
        !flags.is_empty(),
        argument.is_group(),
    ];
    reply.map(2 + optional_fields.into_iter().filter(|is_there| *is_there).count());
    let pair = |name: &str, text: &str, reply: &mut Reply<'_>| {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    };
    pair("name", &argument.name, reply);
    pair("type", argument.type_name(spec), reply);
    if !argument.is_group() {
        pair("display_text", &argument.name, reply);
    }
    if let Some(index) = key_spec_index {
        reply.bulk(b"key_spec_index");
        reply.integer(index as i64);
    }
    if let Some(token) = &argument.token {
        pair("token", token, reply);
    }
    if !flags.is_empty() {
        reply.bulk(b"flags");
        reply.set(flags.len());
        flags.iter().for_each(|flag| reply.simple(flag));
    }
    if let Kind::OneOf(children) | Kind::Block(children) = &argument.kind {
        reply.bulk(b"arguments");
        write(children, spec, reply);
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::TABLE;
    use super::*;

    /// The syntax that a tree stands for, in one canonical form.
    fn shown(argument: &Argument) -> String {
        let list = |children: &[Argument], by: &str| {
            children.iter().map(shown).collect::<Vec<_>>().join(by)
        };
        let mut text = match &argument.kind {
            Kind::Value => argument.name.clone(),
            Kind::PureToken => String::new(),
            Kind::OneOf(children) => format!("<{}>", list(children, "|")),
            Kind::Block(children) => format!("({})", list(children, " ")),
        };
        if let Some(token) = &argument.token {
            text = format!("{token} {text}").trim_end().to_owned();
        }
        let multiple = if argument.is_multiple { "+" } else { "" };
        let optional = if argument.is_optional { "?" } else { "" };
        format!("{text}{multiple}{optional}")
    }

    #[test]
    fn syntaxes_become_trees() {
        for (syntax, tree) in [
            ("", ""),
            ("key", "key"),
            ("[message]", "message?"),
            ("key [key ...]", "key+"),
            ("key value [key value ...]", "(key value)+"),
            ("[section [section ...]]", "section+?"),
            ("key value [NX | XX] [GET]", "key value <NX|XX>? GET?"),
            ("[EX seconds | KEEPTTL]", "<EX seconds|KEEPTTL>?"),
            ("[ID client-id [client-id ...]]", "ID client-id+?"),
            ("[TYPE <A | B>] x", "TYPE <A|B>? x"),
            ("<a | <[B b] | [C c]> ...>", "<a|<B b?|C c?>+>"),
            ("[v [AUTH user pass]]", "(v (AUTH user pass)?)?"),
        ] {
            let shown: Vec<_> = parse(syntax).iter().map(shown).collect();
            assert_eq!(shown.join(" "), tree, "{syntax}");
        }
    }

    #[test]
    fn brackets_of_the_table_match() {
        for spec in TABLE.iter().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands)) {
            for (open, close) in [('[', ']'), ('<', '>')] {
                let count = |mark| spec.syntax.matches(mark).count();
                assert_eq!(count(open), count(close), "{}", spec.full_name);
            }
            let required =
                parse(spec.syntax).iter().filter(|argument| !argument.is_optional).count();
            let names = 1 + usize::from(spec.full_name.contains('|'));
            assert!(required + names <= spec.arity.unsigned_abs() as usize, "{}", spec.full_name);
        }
    }
}
