//! An echo server on the ring inside a real glommio executor, with loopback sockets; log writes;
//! parking.
#![expect(clippy::disallowed_methods, reason = "a real ring, with real time and real files")]

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc;
use std::thread::JoinHandle;

use glommio::{LocalExecutorBuilder, Placement};

use super::*;
use crate::net::event::CloseReason;
use crate::net::file::WriteSync;
use crate::net::idle::{Idle, PREEMPT_TIMER};
use crate::net::inbox::{Inbox, InboxSender};
use crate::net::listen;

/// A client that hears nothing for this long has found a lost completion.
const CLIENT_PATIENCE: Duration = Duration::from_secs(20);

type Order = Box<dyn FnOnce(&mut Echo) + Send>;

/// A server that sends back what it receives, and closes when its peer has ended.
struct Echo {
    ring: Ring,
    clients: HashMap<ConnId, Client>,
    closed: Vec<CloseReason>,
    listener_events: Vec<String>,
    turns: usize,
    is_stopped: bool,
}

#[derive(Default)]
struct Client {
    unsent: Vec<u8>,
    spare: Vec<u8>,
    has_ended: bool,
}

enum Happened {
    Accepted(ConnId),
    Changed(ConnId),
}

impl Echo {
    /// One turn; whether anything happened.
    fn turn(&mut self) -> bool {
        let Self { ring, clients, closed, listener_events, .. } = self;
        let mut happened = Vec::new();
        let count = ring
            .turn(Wait::Never, |event| match event {
                Event::Accepted { conn, peer, local, .. } => {
                    assert!(peer.ip().is_loopback() && local.ip().is_loopback());
                    happened.push(Happened::Accepted(conn));
                }
                Event::Received { conn, bytes } => {
                    clients.entry(conn).or_default().unsent.extend_from_slice(bytes);
                    happened.push(Happened::Changed(conn));
                }
                Event::ReceiveEnded { conn } => {
                    clients.entry(conn).or_default().has_ended = true;
                    happened.push(Happened::Changed(conn));
                }
                Event::Sent { conn, buffer } => {
                    assert!(buffer.is_empty());
                    clients.get_mut(&conn).unwrap().spare = buffer;
                    happened.push(Happened::Changed(conn));
                }
                Event::Closed { conn, reason } => {
                    clients.remove(&conn);
                    closed.push(reason);
                }
                Event::ListenerPaused { error, .. } => {
                    listener_events.push(format!("paused {}", error.raw_os_error().unwrap()));
                }
                Event::ListenerClosed { error, .. } => {
                    listener_events.push(format!("closed {error:?}"));
                }
                Event::Written { .. } | Event::Synced { .. } => unreachable!("no files here"),
            })
            .unwrap();
        for happened in happened {
            match happened {
                Happened::Accepted(conn) => drop(self.clients.entry(conn).or_default()),
                Happened::Changed(conn) => self.answer(conn),
            }
        }
        self.turns += 1;
        count > 0
    }

    fn answer(&mut self, conn: ConnId) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        if self.ring.is_sending(conn) {
            return;
        }
        if !client.unsent.is_empty() {
            let spare = std::mem::take(&mut client.spare);
            let reply = std::mem::replace(&mut client.unsent, spare);
            // Refused only when the connection has failed, and then `Closed` follows.
            let _ = self.ring.send(conn, reply);
        } else if client.has_ended {
            self.ring.close(conn);
        }
    }
}

/// The echo server in an executor of its own.
struct Server {
    address: SocketAddr,
    orders: InboxSender<Order>,
    thread: JoinHandle<glommio::Result<(), ()>>,
}

impl Server {
    fn start(config: RingConfig) -> Self {
        let listener =
            listen::bind_exclusive((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let address = listener.local_addr().unwrap();
        let doorbell = Doorbell::new().unwrap();
        let (orders, inbox) = Inbox::new(16, doorbell.clone());
        let thread = LocalExecutorBuilder::new(Placement::Unbound)
            .preempt_timer(PREEMPT_TIMER)
            .io_memory(64 << 10)
            .spawn(move || serve(config, listener, doorbell, inbox))
            .unwrap();
        // glommio's handle is joined by a thread that std can wait for.
        let thread = std::thread::spawn(move || thread.join());
        Self { address, orders, thread }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(CLIENT_PATIENCE)).unwrap();
        stream.set_write_timeout(Some(CLIENT_PATIENCE)).unwrap();
        stream
    }

    /// Runs something on the shard, between two turns, and waits for its result.
    fn ask<R: Send + 'static>(&self, order: impl FnOnce(&mut Echo) -> R + Send + 'static) -> R {
        let (answer, answered) = mpsc::channel();
        let order: Order = Box::new(move |echo| answer.send(order(echo)).unwrap());
        self.orders.send(order).unwrap_or_else(|_| panic!("the shard is there"));
        answered.recv_timeout(CLIENT_PATIENCE).unwrap()
    }

    /// Asks until it is so.
    fn wait_until(&self, is_so: impl Fn(&mut Echo) -> bool + Copy + Send + 'static) {
        let started = Instant::now();
        while !self.ask(is_so) {
            assert!(started.elapsed() < CLIENT_PATIENCE, "it never came to be so");
            std::thread::yield_now();
        }
    }

    fn stop(self) {
        self.ask(|echo| echo.is_stopped = true);
        self.thread.join().unwrap().unwrap();
    }
}

/// The loop of a shard's task.
async fn serve(config: RingConfig, listener: TcpListener, doorbell: Doorbell, inbox: Inbox<Order>) {
    let mut ring = Ring::new(&config, doorbell.clone()).unwrap();
    let mut idle = Idle::new(doorbell.clone()).unwrap();
    ring.listen(listener).unwrap();
    let mut echo = Echo {
        ring,
        clients: HashMap::new(),
        closed: Vec::new(),
        listener_events: Vec::new(),
        turns: 0,
        is_stopped: false,
    };
    while !echo.is_stopped {
        let mut is_busy = echo.turn();
        is_busy |= inbox.receive(16, |order| order(&mut echo)) > 0;
        if is_busy {
            idle.give_turn_if_due().await.unwrap();
        } else if doorbell.park(|| inbox.is_empty() && echo.ring.prepare_to_wait().unwrap()) {
            idle.wait(None).await.unwrap();
        }
    }
}

fn tiny() -> RingConfig {
    RingConfig {
        submission_entries: 4,
        completion_entries: 8,
        receive_buffers: 2,
        receive_buffer_size_bytes: 64,
    }
}

/// Bytes that repeat only after long, different for each seed.
fn payload(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.push(state.to_le_bytes()[3]);
    }
    bytes
}

fn expect_echo(stream: &mut TcpStream, sent: &[u8]) {
    let mut echoed = vec![0; sent.len()];
    stream.read_exact(&mut echoed).unwrap();
    assert!(echoed == sent, "what came back differs from what was sent");
}

fn expect_end(stream: &mut TcpStream) {
    match stream.read(&mut [0; 16]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the connection should have ended: {other:?}"),
    }
}

/// Sockets of our side of a port that someone still holds a descriptor of. Those of `TIME_WAIT`
/// belong to nobody: their inode is zero.
fn held_sockets(port: u16) -> usize {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let of_port = format!(":{port:04X}");
    let is_held = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&of_port) && fields[9] != "0"
    };
    table.lines().skip(1).filter(is_held).count()
}

fn wait_for_held_sockets(port: u16, count: usize) {
    let started = Instant::now();
    while held_sockets(port) != count {
        assert!(started.elapsed() < CLIENT_PATIENCE, "{} sockets held", held_sockets(port));
        std::thread::yield_now();
    }
}

fn many_clients(server: &Server, clients: u64, rounds: u64, longest: u64) {
    let mut streams: Vec<TcpStream> = (0..clients).map(|_| server.connect()).collect();
    for round in 0..rounds {
        let sent: Vec<Vec<u8>> = (0..clients)
            .map(|client| {
                let seed = round * clients + client;
                payload(seed, usize::try_from(1 + seed * 7919 % longest).unwrap())
            })
            .collect();
        for (stream, sent) in streams.iter_mut().zip(&sent) {
            stream.write_all(sent).unwrap();
        }
        for (stream, sent) in streams.iter_mut().zip(&sent) {
            expect_echo(stream, sent);
        }
    }
}

#[test]
fn many_connections_get_their_own_bytes_back() {
    let server = Server::start(RingConfig::default());
    many_clients(&server, 200, 10, 20_000);
    server.stop();
}

#[test]
fn full_queues_and_missing_buffers_lose_nothing() {
    let server = Server::start(tiny());
    many_clients(&server, 64, 5, 3_000);
    server.stop();
}

#[test]
fn accepted_sockets_do_not_delay_small_replies() {
    let server = Server::start(RingConfig::default());
    let mut client = server.connect();
    client.write_all(b"x").unwrap();
    expect_echo(&mut client, b"x");
    server.ask(|echo| {
        let conn = *echo.clients.keys().next().unwrap();
        assert!(echo.ring.connections.get(conn).unwrap().socket.nodelay().unwrap());
    });
    server.stop();
}

#[test]
fn ten_megabytes_come_back_whole() {
    let server = Server::start(RingConfig::default());
    let sent = payload(1, 10_000_000);
    let mut client = server.connect();
    // Written whole before anything is read, so that the server's sends are partial.
    client.write_all(&sent).unwrap();
    expect_echo(&mut client, &sent);
    // And both at once, twice the size of any socket buffer in one reply.
    let mut writer = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&sent).unwrap());
        expect_echo(&mut client, &sent);
    });
    server.stop();
}

#[test]
fn a_half_closed_peer_gets_the_rest_and_then_the_end() {
    let server = Server::start(RingConfig::default());
    let sent = payload(2, 3_000_000);
    let mut client = server.connect();
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    expect_echo(&mut client, &sent);
    expect_end(&mut client);
    server.wait_until(|echo| echo.closed.len() == 1);
    server.ask(|echo| assert!(matches!(echo.closed[0], CloseReason::Requested)));
    server.stop();
}

#[test]
fn a_paused_connection_pushes_back_and_loses_nothing() {
    let server = Server::start(RingConfig::default());
    let mut client = server.connect();
    client.write_all(b"before").unwrap();
    expect_echo(&mut client, b"before");
    server.ask(|echo| {
        for conn in echo.clients.keys() {
            echo.ring.pause_receive(*conn);
        }
    });
    // Paused once the cancellation has been reaped; from then on, only socket buffers take bytes.
    server.wait_until(|echo| {
        let conn = *echo.clients.keys().next().unwrap();
        echo.ring.connections.get(conn).unwrap().receiving
            == super::super::connection::Receiving::Idle
    });
    client.set_nonblocking(true).unwrap();
    let chunk = payload(3, 1 << 16);
    let mut written = 0;
    loop {
        match client.write(&chunk[written % chunk.len()..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        assert!(written < 1 << 30, "nothing pushes back");
    }
    server.ask(|echo| assert!(echo.clients.values().all(|client| client.unsent.is_empty())));
    server.ask(|echo| {
        for conn in echo.clients.keys() {
            echo.ring.resume_receive(*conn);
        }
    });
    client.set_nonblocking(false).unwrap();
    let sent: Vec<u8> = chunk.iter().copied().cycle().take(written).collect();
    expect_echo(&mut client, &sent);
    server.stop();
}

#[test]
fn pausing_and_resuming_in_one_turn_goes_on() {
    let server = Server::start(RingConfig::default());
    let mut client = server.connect();
    for round in 0..200 {
        client.write_all(&[round]).unwrap();
        server.ask(|echo| {
            for conn in echo.clients.keys() {
                echo.ring.pause_receive(*conn);
                echo.ring.resume_receive(*conn);
            }
        });
        expect_echo(&mut client, &[round]);
    }
    server.stop();
}

#[test]
fn two_thousand_connections_leave_no_descriptor() {
    let server = Server::start(RingConfig::default());
    let port = server.address.port();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..500u32 {
                    let mut client = server.connect();
                    client.write_all(&round.to_le_bytes()).unwrap();
                    expect_echo(&mut client, &round.to_le_bytes());
                }
            });
        }
    });
    server.wait_until(|echo| echo.closed.len() == 2000);
    server.ask(|echo| {
        assert_eq!(echo.ring.connections(), 0);
        assert!(echo.clients.is_empty());
    });
    // The listener alone.
    wait_for_held_sockets(port, 1);
    server.stop();
    wait_for_held_sockets(port, 0);
}

#[test]
fn a_reset_is_reported_as_a_failure_and_the_id_is_dead() {
    let server = Server::start(RingConfig::default());
    let mut client = server.connect();
    client.write_all(b"hello").unwrap();
    expect_echo(&mut client, b"hello");
    let conn = server.ask(|echo| *echo.clients.keys().next().unwrap());
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    server.wait_until(|echo| echo.closed.len() == 1);
    server.ask(move |echo| {
        let CloseReason::Failed(error) = &echo.closed[0] else { panic!("it was a reset") };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let refused = echo.ring.send(conn, b"too late".to_vec());
        assert_eq!(refused, Err(SendRefused::Gone(b"too late".to_vec())));
    });
    // The place is used again, under another id.
    let mut client = server.connect();
    client.write_all(b"again").unwrap();
    expect_echo(&mut client, b"again");
    server.ask(move |echo| assert!(!echo.clients.contains_key(&conn)));
    server.stop();
}

#[test]
fn abort_cuts_off_a_peer_that_does_not_read() {
    let server = Server::start(RingConfig::default());
    let mut client = server.connect();
    client.write_all(b"hello").unwrap();
    expect_echo(&mut client, b"hello");
    server.ask(|echo| {
        let conn = *echo.clients.keys().next().unwrap();
        echo.ring.send(conn, vec![7; 64 << 20]).unwrap();
        assert!(matches!(echo.ring.send(conn, vec![8]), Err(SendRefused::Busy(_))));
        echo.ring.close(conn);
    });
    server.ask(|echo| assert!(echo.closed.is_empty(), "a graceful close waits for the send"));
    server.ask(|echo| {
        let conn = *echo.clients.keys().next().unwrap();
        echo.ring.abort(conn);
    });
    server.wait_until(|echo| echo.closed.len() == 1);
    let mut received = Vec::new();
    let _ = client.read_to_end(&mut received);
    assert!(received.len() < 64 << 20);
    server.stop();
}

#[test]
fn stop_listening_refuses_newcomers_and_keeps_connections() {
    let server = Server::start(RingConfig::default());
    let mut client = server.connect();
    client.write_all(b"hello").unwrap();
    expect_echo(&mut client, b"hello");
    server.ask(|echo| echo.ring.stop_listening(ListenerId(0)));
    server.wait_until(|echo| echo.listener_events == ["closed None"]);
    assert!(TcpStream::connect(server.address).is_err());
    client.write_all(b"still here").unwrap();
    expect_echo(&mut client, b"still here");
    server.ask(|echo| echo.ring.abort_all());
    expect_end(&mut client);
    server.stop();
}

#[test]
fn a_dropped_ring_frees_everything() {
    let server = Server::start(RingConfig::default());
    let port = server.address.port();
    let mut clients: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
        expect_echo(client, b"hello");
    }
    // Sends that cannot end, in the kernel when the ring goes.
    server.ask(|echo| {
        for conn in echo.clients.keys() {
            echo.ring.send(*conn, vec![7; 16 << 20]).unwrap();
        }
    });
    let started = Instant::now();
    server.stop();
    assert!(started.elapsed() < DROP_PATIENCE, "the drop waited in vain");
    let mut received = Vec::new();
    for mut client in clients {
        let _ = client.read_to_end(&mut received);
    }
    wait_for_held_sockets(port, 0);
}

#[test]
fn an_idle_shard_sleeps() {
    let server = Server::start(RingConfig::default());
    let mut client = server.connect();
    client.write_all(b"hello").unwrap();
    expect_echo(&mut client, b"hello");
    let before = server.ask(|echo| echo.turns);
    std::thread::sleep(Duration::from_millis(100));
    let after = server.ask(|echo| echo.turns);
    assert!(after - before < 50, "{} turns with nothing to do", after - before);
    client.write_all(b"awake").unwrap();
    expect_echo(&mut client, b"awake");
    server.stop();
}

#[test]
fn waits_end_by_bell_by_completion_and_by_time() {
    let (bells, bell) = mpsc::channel();
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .preempt_timer(PREEMPT_TIMER)
        .io_memory(64 << 10);
    let shard = executor
        .spawn(move || async move {
            let doorbell = Doorbell::new().unwrap();
            let mut idle = Idle::new(doorbell.clone()).unwrap();
            let mut ring = Ring::<Vec<u8>>::new(&tiny(), doorbell.clone()).unwrap();
            // By time, twice, over one registration.
            for _ in 0..2 {
                assert!(doorbell.park(|| ring.prepare_to_wait().unwrap()));
                assert!(!idle.wait(Some(Duration::from_millis(2))).await.unwrap());
            }
            bells.send(doorbell.clone()).unwrap();
            // By the bell, which the other thread rings until it is heard.
            let mut heard = false;
            while !heard {
                assert!(doorbell.park(|| ring.prepare_to_wait().unwrap()));
                heard = idle.wait(Some(CLIENT_PATIENCE)).await.unwrap();
            }
            drop(bells);
            // By a completion: a sync that a kernel thread does.
            let file = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
            ring.sync(file, FileSync::All, IoToken(9));
            let mut synced = false;
            while !synced {
                if doorbell.park(|| ring.prepare_to_wait().unwrap()) {
                    assert!(idle.wait(Some(CLIENT_PATIENCE)).await.unwrap());
                }
                ring.turn(Wait::Never, |event| {
                    assert!(matches!(event, Event::Synced { token: IoToken(9), result: Ok(()) }));
                    synced = true;
                })
                .unwrap();
            }
        })
        .unwrap();
    let doorbell = bell.recv().unwrap();
    while let Err(mpsc::TryRecvError::Empty) = bell.try_recv() {
        doorbell.ring();
        std::thread::yield_now();
    }
    shard.join().unwrap();
}

/// A buffer that starts on a block.
struct Block {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl Block {
    fn new(bytes: &[u8]) -> Self {
        let mut storage = vec![0; bytes.len() + 4096];
        let start = storage.as_ptr().align_offset(4096);
        storage[start..start + bytes.len()].copy_from_slice(bytes);
        Self { storage, start, len: bytes.len() }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl StableBuffer for Block {}

#[test]
fn the_ring_carries_direct_log_writes() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = folder.path().join("segment");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    let file = options.clone().custom_flags(libc::O_DIRECT).open(&path);
    let file = file.or_else(|_| options.open(&path)).unwrap();
    let file = Arc::new(OwnedFd::from(file));

    let mut ring = Ring::<Block>::new(&tiny(), Doorbell::new().unwrap()).unwrap();
    let blocks: Vec<Vec<u8>> = (0..32).map(|block| payload(block, 4096 << (block % 3))).collect();
    let mut offset_bytes = 0;
    for (index, bytes) in blocks.iter().enumerate() {
        ring.write(WriteRequest {
            file: file.clone(),
            offset_bytes,
            buffer: Block::new(bytes),
            sync: if index % 2 == 0 { WriteSync::Durable } else { WriteSync::AsOpened },
            token: IoToken(index as u64),
        });
        offset_bytes += bytes.len() as u64;
    }
    let mut written = 0;
    while written < blocks.len() {
        ring.turn(Wait::ForOne, |event| {
            let Event::Written { token, result, buffer } = event else {
                panic!("only writes were asked for");
            };
            let expected = &blocks[usize::try_from(token.0).unwrap()];
            assert_eq!(result.unwrap(), expected.len());
            assert_eq!(buffer.as_ref(), expected);
            written += 1;
        })
        .unwrap();
    }
    ring.sync(file.clone(), FileSync::Data, IoToken(1));
    let mut synced = false;
    while !synced {
        ring.turn(Wait::ForOne, |event| {
            assert!(matches!(event, Event::Synced { token: IoToken(1), result: Ok(()) }));
            synced = true;
        })
        .unwrap();
    }
    assert_eq!(ring.file_operations(), 0);
    assert!(fs::read(&path).unwrap() == blocks.concat());
}

#[test]
fn a_failed_write_reports_its_error_and_gives_the_buffer_back() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut ring = Ring::<Vec<u8>>::new(&tiny(), Doorbell::new().unwrap()).unwrap();
    ring.write(WriteRequest {
        file: Arc::new(full.into()),
        offset_bytes: 0,
        buffer: b"lost".to_vec(),
        sync: WriteSync::AsOpened,
        token: IoToken(5),
    });
    let mut failed = false;
    while !failed {
        ring.turn(Wait::ForOne, |event| {
            let Event::Written { token: IoToken(5), result: Err(error), buffer } = event else {
                panic!("a full disk takes nothing: {event:?}");
            };
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            assert_eq!(buffer, b"lost");
            failed = true;
        })
        .unwrap();
    }
}

#[test]
fn a_ring_dropped_with_writes_in_flight_lets_them_land() {
    let mut named = tempfile::NamedTempFile::new().unwrap();
    let file = Arc::new(OwnedFd::from(named.reopen().unwrap()));
    let bytes = payload(4, 8 << 20);
    let mut ring = Ring::<Vec<u8>>::new(&tiny(), Doorbell::new().unwrap()).unwrap();
    ring.write(WriteRequest {
        file: file.clone(),
        offset_bytes: 0,
        buffer: bytes.clone(),
        sync: WriteSync::AsOpened,
        token: IoToken(0),
    });
    ring.turn(Wait::Never, |_| {}).unwrap();
    drop(ring);
    assert_eq!(Arc::strong_count(&file), 1);
    let mut landed = Vec::new();
    named.read_to_end(&mut landed).unwrap();
    assert!(landed == bytes);
}

#[test]
fn setup_errors_are_told_apart() {
    let of = |code| RingError::from_setup(io::Error::from_raw_os_error(code));
    assert!(matches!(of(libc::EINVAL), RingError::KernelTooOld));
    assert!(matches!(of(libc::EPERM), RingError::Forbidden(_)));
    assert!(matches!(of(libc::ENOSYS), RingError::Forbidden(_)));
    assert!(matches!(of(libc::ENOMEM), RingError::LockedMemory));
    assert!(matches!(of(libc::EMFILE), RingError::Setup(_)));
}

/// The limit on descriptors is the process's, so the test runs in one of its own.
#[test]
fn out_of_descriptors_is_a_pause() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["net::ring::tests::out_of_descriptors_child", "--exact", "--ignored"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "lowers a limit of its process; run by out_of_descriptors_is_a_pause"]
fn out_of_descriptors_child() {
    // Set first: the kernel looks at the limit when an accept is armed.
    let (_, hard) = rlimit::Resource::NOFILE.get().unwrap();
    rlimit::Resource::NOFILE.set(200, hard).unwrap();
    let server = Server::start(RingConfig::default());
    let mut first = server.connect();
    first.write_all(b"hello").unwrap();
    expect_echo(&mut first, b"hello");
    // The client's socket takes a descriptor now; the server's side of it finds none.
    let second = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let fillers: Vec<fs::File> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
    second.connect(&server.address.into()).unwrap();
    let mut second = TcpStream::from(second);
    second.set_read_timeout(Some(CLIENT_PATIENCE)).unwrap();
    let paused = format!("paused {}", libc::EMFILE);
    let expected = paused.clone();
    let started = Instant::now();
    while !server.ask({
        let expected = expected.clone();
        move |echo| echo.listener_events == [expected]
    }) {
        assert!(started.elapsed() < CLIENT_PATIENCE, "the listener never paused");
    }
    // It rests: one event, however many turns go by; and one more for a retry that finds no room.
    server.ask(|echo| echo.ring.retry_listeners());
    server.wait_until(|echo| echo.listener_events.len() == 2);
    server.ask(move |echo| assert_eq!(echo.listener_events, [paused.clone(), paused]));
    // A connection that closes makes room, and the listener goes on by itself.
    server.ask(|echo| {
        let conn = *echo.clients.keys().next().unwrap();
        echo.ring.close(conn);
    });
    second.write_all(b"at last").unwrap();
    expect_echo(&mut second, b"at last");
    drop(fillers);
    server.stop();
}

/// CPU time of the calling thread.
fn thread_cpu() -> Duration {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(statistics.split_whitespace().next().unwrap().parse().unwrap())
}

/// Server CPU for a PING-like echo: `cargo test --release -p cutwater-engine --lib -- --ignored
/// --nocapture measure_echo`.
#[test]
#[ignore = "a measurement"]
fn measure_echo() {
    const CLIENTS: usize = 50;
    const ROUNDS: usize = 4000;
    for pipeline in [1usize, 16] {
        let server = Server::start(RingConfig::default());
        let request = b"*1\r\n$4\r\nPING\r\n".repeat(pipeline);
        let mut streams: Vec<TcpStream> = (0..CLIENTS).map(|_| server.connect()).collect();
        for stream in &streams {
            stream.set_nodelay(true).unwrap();
        }
        let (cpu, turns) = server.ask(|echo| (thread_cpu(), echo.turns));
        let started = Instant::now();
        let mut reply = vec![0; request.len()];
        for _ in 0..ROUNDS {
            for stream in &mut streams {
                stream.write_all(&request).unwrap();
            }
            for stream in &mut streams {
                stream.read_exact(&mut reply).unwrap();
            }
        }
        let elapsed = started.elapsed();
        let (cpu, turns) = server.ask(move |echo| (thread_cpu() - cpu, echo.turns - turns));
        let operations = (CLIENTS * ROUNDS * pipeline) as f64;
        println!(
            "pipeline {pipeline}: {:.2} us CPU per operation, {:.0} operations/s, {:.1} operations \
             per turn",
            cpu.as_secs_f64() * 1e6 / operations,
            operations / elapsed.as_secs_f64(),
            operations / turns as f64,
        );
        server.stop();
    }
}
