//! How a row of the table is put together, at compile time: what is usual is left out, and what
//! follows from something else is derived.

use super::{AclCategories, CommandFlags, CommandId, CommandSpec, Group, KeyRange, KeySpec};

impl CommandSpec {
    /// A row that touches no key. Of `container|name` the subcommand's own name is the last part.
    pub(super) const fn new(
        id: CommandId,
        full_name: &'static str,
        arity: i32,
        group: Group,
        since: &'static str,
    ) -> Self {
        Self {
            id,
            name: own_name(full_name),
            full_name,
            arity,
            flags: CommandFlags::NONE,
            acl_categories: AclCategories::SLOW,
            keys: KeyRange::NONE,
            key_specs: &[],
            tips: &[],
            group,
            summary: "",
            since,
            complexity: "",
            syntax: "",
            deprecated: None,
            subcommands: &[],
        }
    }

    /// Sets the flags, and the categories that follow from them.
    pub(super) const fn flags(self, flags: CommandFlags) -> Self {
        let mut acl = if flags.contains(CommandFlags::FAST) {
            AclCategories::FAST
        } else {
            AclCategories::SLOW
        };
        if flags.contains(CommandFlags::WRITE) {
            acl = acl.or(AclCategories::WRITE);
        }
        if flags.contains(CommandFlags::READONLY) {
            acl = acl.or(AclCategories::READ);
        }
        if flags.contains(CommandFlags::ADMIN) {
            acl = acl.or(AclCategories::ADMIN).or(AclCategories::DANGEROUS);
        }
        Self { flags, acl_categories: acl, ..self }
    }

    /// Adds categories that do not follow from the flags.
    pub(super) const fn acl(self, categories: AclCategories) -> Self {
        Self { acl_categories: self.acl_categories.or(categories), ..self }
    }

    /// Sets what is done with the keys, and where they stand: from the first of the runs to the
    /// end of the last.
    pub(super) const fn key_specs(self, key_specs: &'static [KeySpec]) -> Self {
        let (first, end) = (key_specs[0], key_specs[key_specs.len() - 1]);
        let last = if end.last < 0 { end.last } else { end.index + end.last };
        let keys = KeyRange { first: first.index, last, step: first.step };
        Self { keys, key_specs, ..self }
    }

    pub(super) const fn tips(self, tips: &'static [&'static str]) -> Self {
        Self { tips, ..self }
    }

    pub(super) const fn deprecated(self, since: &'static str, replaced_by: &'static str) -> Self {
        Self { deprecated: Some((since, replaced_by)), ..self }
    }

    pub(super) const fn docs(
        self,
        syntax: &'static str,
        complexity: &'static str,
        summary: &'static str,
    ) -> Self {
        Self { syntax, complexity, summary, ..self }
    }

    pub(super) const fn subcommands(self, subcommands: &'static [CommandSpec]) -> Self {
        Self { subcommands, ..self }
    }
}

/// What stands behind the `|`, or all.
const fn own_name(full_name: &'static str) -> &'static str {
    let bytes = full_name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'|' {
            return full_name.split_at(at + 1).1;
        }
        at += 1;
    }
    full_name
}
