//! COMMAND and its subcommands, and the HELP of every container: what the table says, in the
//! shapes of Redis 7.2 for RESP2 and RESP3. Pure.
//!
//! Cluster-aware clients read from it where keys stand and what only reads; redis-cli reads its
//! help and its hints from COMMAND DOCS.

use super::syntax;
use super::table::{
    CommandFlags, CommandId, CommandSpec, KeySpec, ResolveError, TABLE, lookup, resolve,
};
use crate::resp::{Args, Reply};

/// Elements of a command in COMMAND and COMMAND INFO.
const INFO_ELEMENTS: usize = 10;

/// Answers a request whose first argument is COMMAND.
pub fn command(args: Args<'_>, reply: &mut Reply<'_>) {
    let spec = match resolve(args) {
        Ok(spec) => spec,
        Err(error) => return reply.error(&error.text()),
    };
    match spec.id {
        CommandId::CommandCount => reply.integer(TABLE.len() as i64),
        CommandId::CommandInfo if args.len() > 2 => named_infos(args.skip(2), reply),
        CommandId::CommandDocs => docs(args.skip(2), reply),
        CommandId::CommandList => list(args.skip(2), reply),
        CommandId::CommandGetKeys => get_keys(args.skip(2), reply),
        CommandId::CommandHelp => help(args, reply),
        // COMMAND itself, and COMMAND INFO without names.
        _ => {
            reply.array(TABLE.len());
            TABLE.iter().for_each(|spec| info(spec, reply));
        }
    }
}

/// Answers HELP of any container: `CONFIG HELP`, `SNAPSHOT HELP` ...
pub fn help(args: Args<'_>, reply: &mut Reply<'_>) {
    let Some(container) = args.get(0).and_then(lookup).filter(|spec| spec.is_container()) else {
        return reply.error(&ResolveError::UnknownCommand { args }.text());
    };
    reply.array(1 + 2 * container.subcommands.len());
    let name = container.name.to_ascii_uppercase();
    let title = format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    reply.simple(&title);
    for subcommand in container.subcommands {
        let usage = format!("{} {}", subcommand.name.to_ascii_uppercase(), subcommand.syntax);
        reply.simple(usage.trim_end());
        reply.simple(&format!("    {}", subcommand.summary));
    }
}

fn named_infos(names: Args<'_>, reply: &mut Reply<'_>) {
    reply.array(names.len());
    for name in names.iter() {
        match named(name) {
            Some(spec) => info(spec, reply),
            None => reply.null(),
        }
    }
}

/// The command or subcommand of a name as COMMAND prints it: `get`, `config|get`.
fn named(name: &[u8]) -> Option<&'static CommandSpec> {
    match name.iter().position(|byte| *byte == b'|') {
        None => lookup(name),
        Some(bar) => lookup(&name[..bar])?.subcommand(&name[bar + 1..]),
    }
}

fn info(spec: &CommandSpec, reply: &mut Reply<'_>) {
    reply.array(INFO_ELEMENTS);
    reply.bulk(spec.full_name.as_bytes());
    reply.integer(i64::from(spec.arity));
    reply.set(spec.flags.len());
    spec.flags.names().for_each(|name| reply.simple(name));
    for place in [spec.keys.first, spec.keys.last, spec.keys.step] {
        reply.integer(i64::from(place));
    }
    reply.set(spec.acl_categories.len());
    spec.acl_categories.names().for_each(|name| reply.simple(name));
    reply.set(spec.tips.len());
    spec.tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    reply.set(spec.key_specs.len());
    spec.key_specs.iter().for_each(|key_spec| key_spec_info(key_spec, reply));
    if spec.subcommands.is_empty() {
        reply.set(0);
    } else {
        reply.array(spec.subcommands.len());
        spec.subcommands.iter().for_each(|subcommand| info(subcommand, reply));
    }
}

fn key_spec_info(spec: &KeySpec, reply: &mut Reply<'_>) {
    reply.map(3 + usize::from(spec.notes.is_some()));
    if let Some(notes) = spec.notes {
        text_pair("notes", notes, reply);
    }
    reply.bulk(b"flags");
    reply.set(spec.flags.len());
    // The access comes in capitals, and what is done with the value in lowercase.
    spec.flags.iter().for_each(|flag| reply.simple(flag));
    search("begin_search", "index", &[("index", spec.index)], reply);
    let range = [("lastkey", spec.last), ("keystep", spec.step), ("limit", 0)];
    search("find_keys", "range", &range, reply);
}

fn search(name: &str, kind: &str, fields: &[(&str, i32)], reply: &mut Reply<'_>) {
    reply.bulk(name.as_bytes());
    reply.map(2);
    text_pair("type", kind, reply);
    reply.bulk(b"spec");
    reply.map(fields.len());
    for (field, value) in fields {
        reply.bulk(field.as_bytes());
        reply.integer(i64::from(*value));
    }
}

/// Names that do not exist are left out.
fn docs(names: Args<'_>, reply: &mut Reply<'_>) {
    if names.is_empty() {
        reply.map(TABLE.len());
        TABLE.iter().for_each(|spec| named_doc(spec, reply));
        return;
    }
    reply.map(names.iter().filter(|name| named(name).is_some()).count());
    names.iter().filter_map(named).for_each(|spec| named_doc(spec, reply));
}

fn named_doc(spec: &CommandSpec, reply: &mut Reply<'_>) {
    reply.bulk(spec.full_name.as_bytes());
    let arguments = syntax::parse(spec.syntax);
    let fields = 4
        + 3 * usize::from(spec.deprecated.is_some())
        + usize::from(!arguments.is_empty())
        + usize::from(spec.is_container());
    reply.map(fields);
    text_pair("summary", spec.summary, reply);
    text_pair("since", spec.since, reply);
    text_pair("group", spec.group.name(), reply);
    text_pair("complexity", spec.complexity, reply);
    if let Some((since, replaced_by)) = spec.deprecated {
        reply.bulk(b"doc_flags");
        reply.set(1);
        reply.simple("deprecated");
        text_pair("deprecated_since", since, reply);
        text_pair("replaced_by", replaced_by, reply);
    }
    if !arguments.is_empty() {
        reply.bulk(b"arguments");
        syntax::write(&arguments, spec, reply);
    }
    if spec.is_container() {
        reply.bulk(b"subcommands");
        reply.map(spec.subcommands.len());
        spec.subcommands.iter().for_each(|subcommand| named_doc(subcommand, reply));
    }
}

/// COMMAND LIST, with the subcommands as `container|name`.
fn list(filter: Args<'_>, reply: &mut Reply<'_>) {
    let is = |index, word: &str| {
        filter.get(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    };
    let category = match filter.len() {
        0 => None,
        3 if is(0, "FILTERBY") && is(1, "MODULE") => return reply.array(0),
        3 if is(0, "FILTERBY") && is(1, "ACLCAT") => filter.get(2),
        _ => return reply.error("ERR syntax error"),
    };
    let listed: Vec<&str> = TABLE
        .iter()
        .flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
        .filter(|spec| category.is_none_or(|category| is_in_category(spec, category)))
        .map(|spec| spec.full_name)
        .collect();
    reply.array(listed.len());
    listed.iter().for_each(|name| reply.bulk(name.as_bytes()));
}

/// The category is given without the `@` that COMMAND INFO prints.
fn is_in_category(spec: &CommandSpec, category: &[u8]) -> bool {
    spec.acl_categories.names().any(|name| name.as_bytes()[1..].eq_ignore_ascii_case(category))
}

fn get_keys(request: Args<'_>, reply: &mut Reply<'_>) {
    let spec = match resolve(request) {
        Ok(spec) => spec,
        Err(ResolveError::Arity { .. }) => {
            return reply.error("ERR Invalid number of arguments specified for command");
        }
        Err(_) => return reply.error("ERR Invalid command specified"),
    };
    debug_assert!(!spec.flags.contains(CommandFlags::MOVABLEKEYS), "positions say it all");
    let keys: Vec<&[u8]> =
        spec.keys(request.len()).filter_map(|index| request.get(index)).collect();
    if keys.is_empty() {
        return reply.error("ERR The command has no key arguments");
    }
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.bulk(key));
}

fn text_pair(name: &str, text: &str, reply: &mut Reply<'_>) {
    reply.bulk(name.as_bytes());
    reply.bulk(text.as_bytes());
}

#[cfg(test)]
mod tests;
