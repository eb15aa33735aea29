//! What a turn of a shard hands to the outside: bytes to the ring, replies to embedded clients,
//! calls to the control plane, chunks to a snapshot's consumer, blocks to the disk, and mail to the
//! other shards.

use std::sync::Arc;

use crate::log::LogEffect;
use crate::net::{ConnId, FileSync, IoToken, WriteRequest, WriteSync};
use crate::resp::Reply;
use crate::shard::core::AdminRequest;
use crate::shard::cut::CutEvent;
use crate::types::ShardId;

use super::super::AdminReplier;
use super::super::config::AdminCall;
use super::super::message::ToProvider;
use super::{SYNC_TOKEN, Shell};

impl Shell {
    /// Hands the core's effects to the ring, the clients and the control plane.
    pub(super) fn carry_out(&mut self) {
        let mut sends = std::mem::take(&mut self.core.effects.sends);
        for (conn, bytes) in sends.drain(..) {
            if conn.is_virtual() {
                self.answer_client(conn, bytes);
            } else if let Err(refused) = self.ring.send(conn, bytes) {
                // The connection is going: its end is reported, and the bytes go nowhere.
                drop(refused);
            }
        }
        self.core.effects.sends = sends;
        for conn in std::mem::take(&mut self.core.effects.pauses) {
            self.ring.pause_receive(conn);
        }
        for conn in std::mem::take(&mut self.core.effects.resumes) {
            self.ring.resume_receive(conn);
        }
        for conn in std::mem::take(&mut self.core.effects.closes) {
            if self.clients.contains_key(&conn) {
                // It ended without a reply (QUIT was all that is left of it).
                self.answer_client(conn, Vec::new());
            } else if !conn.is_virtual() {
                // Nothing that matters is still to be sent, and a peer that does not read must not
                // hold it up.
                self.ring.abort(conn);
            }
        }
        for request in std::mem::take(&mut self.core.effects.admin) {
            self.call_admin(request);
        }
        for event in std::mem::take(&mut self.core.effects.snapshot) {
            self.tell_consumer(event);
        }
        for done in self.loaded.drain(..) {
            let _ = done.send(());
        }
        self.answer_marks();
    }

    /// Answers the marks that the log is durable up to; forgets those that nobody waits for.
    fn answer_marks(&mut self) {
        if self.marks.is_empty() {
            return;
        }
        let durable = self.core.journal().durable();
        self.marks.retain(|(mark, reply)| {
            if mark.end <= durable {
                let _ = reply.send(*mark);
            }
            mark.end > durable && !reply.is_disconnected()
        });
    }

    fn tell_consumer(&mut self, event: CutEvent) {
        let over = matches!(event, CutEvent::Done { .. } | CutEvent::Abandoned { .. });
        // What is left of a cancelled snapshot is not the next one's.
        let Some((_, events)) = self.snapshot.take_if(|(id, _)| over && *id == event.id()) else {
            if let Some((id, events)) = &self.snapshot
                && *id == event.id()
            {
                // A consumer that is gone has cancelled.
                let _ = events.send(event);
            }
            return;
        };
        let _ = events.send(event);
    }

    fn answer_client(&mut self, conn: ConnId, bytes: Vec<u8>) {
        if let Some(reply) = self.clients.remove(&conn) {
            let _ = reply.send(bytes);
        }
        self.core.disconnected(conn);
        let (index, generation) = conn.virtual_parts();
        self.free_virtuals.push((index, generation.wrapping_add(1)));
    }

    pub(super) fn virtual_id(&mut self) -> ConnId {
        let (index, generation) = self.free_virtuals.pop().unwrap_or_else(|| {
            self.virtuals += 1;
            (self.virtuals - 1, 0)
        });
        ConnId::virtual_id(index, generation)
    }

    fn call_admin(&mut self, request: AdminRequest) {
        let AdminRequest { conn, client_id, slot, version, args } = request;
        // One call of a connection at a time: the next waits for the reply.
        let (present, gone) = flume::bounded(1);
        self.callers.insert(conn, present);
        let reply = AdminReplier::new(self.replier.clone(), conn, slot, version, gone);
        let call = AdminCall { args, client_id, version, reply };
        let refused = match &self.admin {
            Some(admin) => admin
                .try_send(call)
                .err()
                .map(|refused| (refused.into_inner(), "ERR the control plane is busy")),
            None => Some((call, "ERR this engine has no control plane")),
        };
        if let Some((call, text)) = refused {
            call.reply.forget();
            self.callers.remove(&conn);
            let mut encoded = Vec::new();
            Reply::new(&mut encoded, version).error(text);
            self.core.admin_reply(conn, slot, encoded);
        }
    }

    /// Carries out what the log asks for.
    pub(super) fn drive_log(&mut self) {
        let Some(writer) = self.core.journal().writer() else { return };
        while let Some(effect) = writer.next_write() {
            match effect {
                LogEffect::Write { id, segment, offset_bytes, block, dsync } => {
                    let file = self.segments.get(&segment).expect("a ready segment is open");
                    self.ring.write(WriteRequest {
                        file: Arc::clone(file),
                        offset_bytes,
                        buffer: block,
                        sync: if dsync { WriteSync::Durable } else { WriteSync::AsOpened },
                        token: IoToken(id.0),
                    });
                }
                LogEffect::NeedSegment { index } => {
                    let _ = self.provider.send(ToProvider::Prepare { shard: self.id, index });
                }
                LogEffect::Sync { id, segment } => {
                    let file = self.segments.get(&segment).expect("an unsynced segment is open");
                    let token = IoToken(id.0 | SYNC_TOKEN);
                    self.ring.sync(Arc::clone(file), FileSync::Data, token);
                }
            }
        }
    }

    /// Sends each peer its batch, behind what a full queue gave back.
    pub(super) fn send_mail(&mut self) -> usize {
        let mut left = 0;
        for to in 0..self.doorbells.len() as u16 {
            let to = ShardId(to);
            if to == self.id {
                continue;
            }
            let unsent = &mut self.unsent[to.0 as usize];
            if unsent.is_empty() {
                *unsent = self.mesh.empty_batch(to);
            }
            self.core.take_mail(to, unsent);
            if let Err(batch) = self.mesh.send_batch(to, std::mem::take(unsent)) {
                *unsent = batch;
                left += 1;
            }
        }
        self.mesh.ring_peers(&self.doorbells);
        left
    }
}
