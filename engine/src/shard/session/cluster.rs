//! CLUSTER: every shard as a master node with its range of slots and a port of its own, so that a
//! cluster-aware client reaches the owner of a key without a hop between cores.
//!
//! The host is the address by which this client came, or `--announce-host`: whatever name or
//! network a client uses, it is sent to one that works for it. COUNTKEYSINSLOT and GETKEYSINSLOT
//! look at keys and are executed by the owner of the slot ([`crate::command::scan`]).
//!
//! The common port is a node as well, without slots: clients keep the address by which they came
//! for the node that says `myself`, and through it only every n-th command meets its owner.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use crate::command::CommandId;
use crate::resp::Reply;
use crate::slot::SLOT_COUNT;
use crate::types::ShardId;

use super::super::connection::Connection;
use super::super::core::ShardCore;

const NO_PORTS: &str = "ERR this engine has no listeners: its shards have no ports to name";

/// A shard as a node, or the common port.
struct Node {
    shard: ShardId,
    id: String,
    host: String,
    port: u16,
    /// Inclusive; `None` if there are more shards than slots could be given to.
    slots: Option<(u16, u16)>,
    replication_offset: u64,
}

impl ShardCore {
    /// Answers a subcommand of CLUSTER that is about the shards.
    pub(super) fn cluster(&self, connection: &Connection, id: CommandId, reply: &mut Reply<'_>) {
        let entrance = self.entrance(connection);
        let myself = entrance.as_ref().map_or(self.id, |entrance| entrance.shard);
        if id == CommandId::ClusterMyId {
            return reply.bulk(node_id(&self.shared.identity.node_base, myself).as_bytes());
        }
        if id == CommandId::ClusterInfo {
            let shards = self.shared.slots.shards();
            return reply.verbatim(*b"txt", &info(shards, shards + u16::from(entrance.is_some())));
        }
        let Some(mut nodes) = self.nodes(connection) else { return reply.error(NO_PORTS) };
        match id {
            CommandId::ClusterSlots => slots(&nodes, reply),
            CommandId::ClusterShards => shards(&nodes, self.is_loading(), reply),
            _ => {
                nodes.extend(entrance);
                reply.verbatim(*b"txt", &lines(&nodes, myself));
            }
        }
    }

    /// The common port as a node without slots, if this client came by it. Its number is the one
    /// after the last shard's.
    fn entrance(&self, connection: &Connection) -> Option<Node> {
        let common = self.shared.ports.get()?.common?;
        let came_by = connection.endpoints.as_ref()?.local;
        let identity = &self.shared.identity;
        let shard = ShardId(self.shared.slots.shards());
        (came_by.port() == common.port()).then(|| Node {
            shard,
            id: node_id(&identity.node_base, shard),
            host: identity.announce_host.clone().unwrap_or_else(|| host(came_by.ip())),
            port: common.port(),
            slots: None,
            replication_offset: 0,
        })
    }

    /// All shards as this client can reach them; `None` if they listen nowhere.
    fn nodes(&self, connection: &Connection) -> Option<Vec<Node>> {
        let identity = &self.shared.identity;
        let ports = &self.shared.ports.get()?.shards;
        let came_by = connection.endpoints.as_ref().map(|endpoints| endpoints.local.ip());
        let node = |number: u16| {
            let shard = ShardId(number);
            let address = ports.get(usize::from(number))?;
            let host = match &identity.announce_host {
                Some(host) => host.clone(),
                None => host(came_by.unwrap_or(address.ip())),
            };
            let range = self.shared.slots.range(shard);
            Some(Node {
                shard,
                id: node_id(&identity.node_base, shard),
                host,
                port: address.port(),
                slots: (!range.is_empty()).then(|| (range.start, range.end - 1)),
                replication_offset: self.shared.stats(shard).log_tail.load(Relaxed),
            })
        };
        (0..self.shared.slots.shards()).map(node).collect()
    }
}

/// An address to connect to: one that listens everywhere is reached on this machine.
fn host(ip: IpAddr) -> String {
    match ip.to_canonical() {
        ip if !ip.is_unspecified() => ip.to_string(),
        IpAddr::V4(_) => "127.0.0.1".to_owned(),
        IpAddr::V6(_) => "::1".to_owned(),
    }
}

/// The base as a number of 160 bits, plus the number of the shard.
fn node_id(base: &str, shard: ShardId) -> String {
    let mut digits: Vec<u32> =
        base.chars().map(|digit| digit.to_digit(16).unwrap_or_default()).collect();
    let mut carry = u32::from(shard.0);
    for digit in digits.iter_mut().rev() {
        let sum = *digit + carry;
        *digit = sum % 16;
        carry = sum / 16;
    }
    digits.into_iter().filter_map(|digit| char::from_digit(digit, 16)).collect()
}

fn info(shards: u16, nodes: u16) -> String {
    format!(
        "cluster_state:ok\r\ncluster_slots_assigned:{SLOT_COUNT}\r\ncluster_slots_ok:{SLOT_COUNT}\
         \r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{nodes}\r\n\
         cluster_size:{shards}\r\ncluster_current_epoch:{shards}\r\ncluster_my_epoch:1\r\n\
         cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
         total_cluster_links_buffer_limit_exceeded:0\r\n"
    )
}

fn slots(nodes: &[Node], reply: &mut Reply<'_>) {
    reply.array(nodes.iter().filter(|node| node.slots.is_some()).count());
    for node in nodes {
        let Some((first, last)) = node.slots else { continue };
        reply.array(3);
        reply.integer(i64::from(first));
        reply.integer(i64::from(last));
        reply.array(4);
        reply.bulk(node.host.as_bytes());
        reply.integer(i64::from(node.port));
        reply.bulk(node.id.as_bytes());
        reply.map(0);
    }
}

fn shards(nodes: &[Node], loading: bool, reply: &mut Reply<'_>) {
    reply.array(nodes.len());
    for node in nodes {
        reply.map(2);
        reply.bulk(b"slots");
        match node.slots {
            None => reply.array(0),
            Some((first, last)) => {
                reply.array(2);
                reply.integer(i64::from(first));
                reply.integer(i64::from(last));
            }
        }
        reply.bulk(b"nodes");
        reply.array(1);
        reply.map(7);
        reply.bulk(b"id");
        reply.bulk(node.id.as_bytes());
        reply.bulk(b"port");
        reply.integer(i64::from(node.port));
        for name in ["ip", "endpoint"] {
            reply.bulk(name.as_bytes());
            reply.bulk(node.host.as_bytes());
        }
        reply.bulk(b"role");
        reply.bulk(b"master");
        reply.bulk(b"replication-offset");
        reply.integer(node.replication_offset as i64);
        reply.bulk(b"health");
        reply.bulk(if loading { b"loading" } else { b"online" });
    }
}

/// The lines of CLUSTER NODES. Port 0 behind the `@`: there is no bus between nodes.
fn lines(nodes: &[Node], myself: ShardId) -> String {
    let mut text = String::new();
    for Node { shard, id, host, port, slots, .. } in nodes {
        let flags = if *shard == myself { "myself,master" } else { "master" };
        let epoch = shard.0 + 1;
        // Writing to a string does not fail.
        let _ = write!(text, "{id} {host}:{port}@0 {flags} - 0 0 {epoch} connected");
        if let Some((first, last)) = slots {
            let _ = write!(text, " {first}-{last}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_count_up_from_their_base() {
        let base = "00000000000000000000000000000000000000ff";
        assert_eq!(node_id(base, ShardId(0)), base);
        assert_eq!(node_id(base, ShardId(1)), "0000000000000000000000000000000000000100");
        assert_eq!(node_id(&"f".repeat(40), ShardId(2)), format!("{}1", "0".repeat(39)));
        assert_eq!(node_id(base, ShardId(65_535)).len(), 40);
    }

    #[test]
    fn hosts_are_reachable() {
        for (ip, expected) in
            [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::ffff:10.0.0.7", "10.0.0.7")]
        {
            assert_eq!(host(ip.parse().unwrap()), expected);
        }
    }
}
