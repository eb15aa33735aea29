//! The ring's sockets: listeners, and connections from their accept to their close.
//!
//! A connection closes in three steps: the caller (or an error) marks it, its receive is cancelled,
//! and when neither a receive nor a send can complete any more, its socket is closed and `Closed`
//! is reported. A graceful close lets the send in flight go out first; `abort` cancels it.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use super::queues::Completion;
use super::tag::Tag;
use super::{Accepting, Listener, Ring, SendRefused};
use crate::net::connection::{ConnId, Connection, Receiving, Sending};
use crate::net::event::{CloseReason, Event, ListenerId};
use crate::net::file::StableBuffer;

/// A buffer that is given back keeps at most this much; a larger allocation (one huge reply) is
/// freed.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

impl<B: StableBuffer> Ring<B> {
    /// Accepts connections on a listening socket until [`stop_listening`](Self::stop_listening).
    ///
    /// # Errors
    /// The socket does not take the options that it needs.
    pub fn listen(&mut self, socket: TcpListener) -> io::Result<ListenerId> {
        // The kernel answers EAGAIN instead of waiting on a non-blocking socket.
        socket.set_nonblocking(false)?;
        // Sockets inherit this when their handshake ends, which saves a system call for each.
        // `listen::bind` sets it before the first can come; this is for listeners from elsewhere.
        socket2::SockRef::from(&socket).set_tcp_nodelay(true)?;
        let count = u32::try_from(self.listeners.len()).expect("fewer listeners than 2^32");
        let listener = ListenerId(count);
        self.queues.accept(socket.as_raw_fd(), Tag::Accept(listener));
        self.listeners.push(Some(Listener { socket, state: Accepting::Armed }));
        Ok(listener)
    }

    /// Closes a listener; ends in [`Event::ListenerClosed`]. Connections stay.
    pub fn stop_listening(&mut self, listener: ListenerId) {
        let Some(Some(entry)) = self.listeners.get_mut(listener.0 as usize) else { return };
        match entry.state {
            Accepting::Armed => self.queues.cancel(Tag::Accept(listener)),
            Accepting::Paused => self.stopped_listeners.push(listener),
            Accepting::Stopping => {}
        }
        entry.state = Accepting::Stopping;
    }

    /// Tries again to accept where descriptors had run out. The shell calls this a few times a
    /// second; a connection that closes does it by itself.
    pub fn retry_listeners(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if let Some(listener) = listener
                && listener.state == Accepting::Paused
            {
                let id = ListenerId(u32::try_from(index).expect("fewer listeners than 2^32"));
                listener.state = Accepting::Armed;
                self.queues.accept(listener.socket.as_raw_fd(), Tag::Accept(id));
            }
        }
    }

    /// Stops receiving from a connection, so that its peer feels back pressure. What was received
    /// by then is still reported.
    pub fn pause_receive(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.paused = true;
        self.cancel_receive(conn);
    }

    /// Receives again after [`pause_receive`](Self::pause_receive).
    pub fn resume_receive(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.paused = false;
        self.arm_receive(conn);
    }

    /// Prepares to send all of `buffer`; ends in [`Event::Sent`], or in the `Closed` of the
    /// connection. An empty buffer is refused as a bug.
    ///
    /// # Errors
    /// A send is in flight, or the connection is closing or gone; the buffer comes back.
    ///
    /// # Panics
    /// If the buffer is empty.
    pub fn send(&mut self, conn: ConnId, buffer: Vec<u8>) -> Result<(), SendRefused> {
        assert!(!buffer.is_empty(), "nothing to send");
        match self.connections.get_mut(conn) {
            None => return Err(SendRefused::Gone(buffer)),
            Some(connection) if connection.closing.is_some() => {
                return Err(SendRefused::Gone(buffer));
            }
            Some(connection) if connection.sending.is_some() => {
                return Err(SendRefused::Busy(buffer));
            }
            Some(connection) => connection.sending = Some(Sending { buffer, sent: 0 }),
        }
        self.submit_send(conn);
        Ok(())
    }

    /// Whether a send is in flight.
    pub fn is_sending(&self, conn: ConnId) -> bool {
        self.connections.get(conn).is_some_and(|connection| connection.sending.is_some())
    }

    /// Closes a connection when its send in flight, if any, is out. Nothing that it receives is
    /// reported from now on. Ends in [`Event::Closed`]. A peer that does not read can hold it up
    /// for ever: [`abort`](Self::abort) it after a while.
    pub fn close(&mut self, conn: ConnId) {
        self.begin_close(conn, CloseReason::Requested);
    }

    /// Closes a connection now: a send in flight is cut off. Ends in [`Event::Closed`].
    pub fn abort(&mut self, conn: ConnId) {
        self.begin_close(conn, CloseReason::Requested);
        self.cancel_send(conn);
    }

    /// All connections that are not closing are aborted, as on shutdown.
    pub fn abort_all(&mut self) {
        for conn in self.connections.ids() {
            self.abort(conn);
        }
    }

    /// Ends every operation on a socket, when the ring is dropped.
    pub(super) fn cancel_sockets(&mut self) {
        for conn in self.connections.ids() {
            self.cancel_receive(conn);
            self.cancel_send(conn);
        }
        for index in 0..self.listeners.len() {
            self.stop_listening(ListenerId(u32::try_from(index).expect("fewer than 2^32")));
        }
    }

    pub(super) fn report_what_needs_no_completion(
        &mut self,
        visit: &mut impl FnMut(Event<'_, B>),
    ) -> usize {
        let mut reported = 0;
        while let Some(conn) = self.over.pop() {
            self.finish_if_over(conn, visit);
            reported += 1;
        }
        while let Some(listener) = self.stopped_listeners.pop() {
            self.listeners[listener.0 as usize] = None;
            visit(Event::ListenerClosed { listener, error: None });
            reported += 1;
        }
        reported
    }

    pub(super) fn feed_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        self.buffers.grow();
        for conn in std::mem::take(&mut self.starved) {
            self.arm_receive(conn);
        }
    }

    pub(super) fn accepted(
        &mut self,
        listener: ListenerId,
        completion: Completion,
        visit: &mut impl FnMut(Event<'_, B>),
    ) {
        let (outcome, goes_on) = (completion.outcome(), completion.more());
        if let Some(socket) = completion.into_socket() {
            self.take_connection(listener, socket, visit);
        }
        if goes_on {
            return;
        }
        let slot = &mut self.listeners[listener.0 as usize];
        let entry = slot.as_mut().expect("a listener stays until its accept has ended");
        if entry.state == Accepting::Stopping {
            *slot = None;
            visit(Event::ListenerClosed { listener, error: None });
            return;
        }
        match outcome {
            Err(error) if is_exhaustion(&error) => {
                entry.state = Accepting::Paused;
                visit(Event::ListenerPaused { listener, error });
            }
            Err(error) if is_final_for_a_listener(&error) => {
                *slot = None;
                visit(Event::ListenerClosed { listener, error: Some(error) });
            }
            // The kernel ends a multishot for reasons of its own, and for the error of one
            // connection (ECONNABORTED, EPROTO and the network errors that accept(2) lists).
            Ok(_) | Err(_) => {
                let fd = entry.socket.as_raw_fd();
                self.queues.accept(fd, Tag::Accept(listener));
            }
        }
    }

    fn take_connection(
        &mut self,
        listener: ListenerId,
        socket: TcpStream,
        visit: &mut impl FnMut(Event<'_, B>),
    ) {
        let is_listening = matches!(
            self.listeners[listener.0 as usize],
            Some(Listener { state: Accepting::Armed, .. })
        );
        // A peer that is gone already has no address; it and a late one are closed by the drop.
        let (Ok(peer), Ok(local), true) = (socket.peer_addr(), socket.local_addr(), is_listening)
        else {
            return;
        };
        let Ok(conn) = self.connections.insert(Connection::new(socket)) else { return };
        self.arm_receive(conn);
        visit(Event::Accepted { listener, conn, peer, local });
    }

    pub(super) fn received(
        &mut self,
        conn: ConnId,
        completion: &Completion,
        visit: &mut impl FnMut(Event<'_, B>),
    ) {
        let connection =
            self.connections.get_mut(conn).expect("a connection outlives its operations");
        if !completion.more() {
            connection.receiving = Receiving::Idle;
        }
        let is_closing = connection.closing.is_some();
        let outcome = completion.outcome();
        if let Some(buffer) = completion.buffer() {
            if let Ok(len @ 1..) = outcome
                && !is_closing
            {
                visit(Event::Received { conn, bytes: self.buffers.filled(buffer, len) });
            }
            self.buffers.give_back(buffer);
        }
        match outcome {
            Ok(0) => self.receive_ended(conn, is_closing, visit),
            Ok(_) => self.arm_receive(conn),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => self.starved.push(conn),
                // Cancelled by a pause or a close: after a quick resume it is armed again.
                Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => self.arm_receive(conn),
                _ => self.fail(conn, error),
            },
        }
        self.finish_if_over(conn, visit);
    }

    fn receive_ended(
        &mut self,
        conn: ConnId,
        is_closing: bool,
        visit: &mut impl FnMut(Event<'_, B>),
    ) {
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.receiving = Receiving::Ended;
            if !is_closing {
                visit(Event::ReceiveEnded { conn });
            }
        }
    }

    pub(super) fn sent(
        &mut self,
        conn: ConnId,
        completion: &Completion,
        visit: &mut impl FnMut(Event<'_, B>),
    ) {
        let connection =
            self.connections.get_mut(conn).expect("a connection outlives its operations");
        let sending = connection.sending.as_mut().expect("a send's buffer outlives it");
        match completion.outcome() {
            Ok(count) => {
                sending.sent += count;
                assert!(sending.sent <= sending.buffer.len(), "more sent than there was");
                if sending.sent < sending.buffer.len() {
                    // An aborted send that had begun ends with what it had sent.
                    return self.continue_send(conn, visit);
                }
                let Sending { mut buffer, .. } =
                    connection.sending.take().expect("borrowed just above");
                buffer.clear();
                buffer.shrink_to(KEPT_BUFFER_BYTES);
                visit(Event::Sent { conn, buffer });
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN) => return self.continue_send(conn, visit),
                _ => {
                    connection.sending = None;
                    self.fail(conn, error);
                }
            },
        }
        self.finish_if_over(conn, visit);
    }

    /// Sends the rest, unless the connection was aborted.
    fn continue_send(&mut self, conn: ConnId, visit: &mut impl FnMut(Event<'_, B>)) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.aborted {
            connection.sending = None;
            self.finish_if_over(conn, visit);
        } else {
            self.submit_send(conn);
        }
    }

    /// An operation failed: the connection ends, and the other operation of it too.
    fn fail(&mut self, conn: ConnId, error: io::Error) {
        self.begin_close(conn, CloseReason::Failed(error));
        self.cancel_send(conn);
    }

    fn begin_close(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.closing.is_some() {
            return;
        }
        connection.closing = Some(reason);
        if connection.is_over() {
            self.over.push(conn);
        }
        self.cancel_receive(conn);
    }

    fn finish_if_over(&mut self, conn: ConnId, visit: &mut impl FnMut(Event<'_, B>)) {
        if !self.connections.get(conn).is_some_and(Connection::is_over) {
            return;
        }
        let Some(connection) = self.connections.remove(conn) else { return };
        let Connection { socket, closing, .. } = connection;
        drop(socket);
        let reason = closing.expect("only a closing connection is over");
        visit(Event::Closed { conn, reason });
        self.retry_listeners();
    }

    fn arm_receive(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.wants_receive() {
            connection.receiving = Receiving::Armed;
            self.queues.receive(connection.socket.as_raw_fd(), Tag::Receive(conn));
        }
    }

    fn cancel_receive(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.receiving == Receiving::Armed {
            connection.receiving = Receiving::Cancelling;
            self.queues.cancel(Tag::Receive(conn));
        }
    }

    fn cancel_send(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.sending.is_some() && !connection.aborted {
            connection.aborted = true;
            self.queues.cancel(Tag::Send(conn));
        }
    }

    fn submit_send(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Some(Sending { buffer, sent }) = &connection.sending else { return };
        self.queues.send(connection.socket.as_raw_fd(), &buffer[*sent..], Tag::Send(conn));
    }
}

/// Nothing is wrong with the listener; there is no room for another connection now.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// The listener itself is broken; accepting again gives the same error at once.
fn is_final_for_a_listener(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EBADF
                | libc::EINVAL
                | libc::ENOTSOCK
                | libc::EOPNOTSUPP
                | libc::EFAULT
                | libc::EPERM
                | libc::EACCES
                | libc::ECANCELED
        )
    )
}
