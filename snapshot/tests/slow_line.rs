//! An upload over a line on which its parts take longer than a request may that sends little.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use cutwater_engine::types::Lsn;
use cutwater_snapshot::store::{S3Options, StoreUrl};
use cutwater_snapshot::throttle::Throttle;
use cutwater_snapshot::upload::{PART_BYTES, Upload};
use cutwater_snapshot::verify::verify;
use cutwater_snapshot::writer::SnapshotSpec;
use object_store::ObjectStoreExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes a second that the line carries towards the store.
const LINE_BYTES_PER_S: u64 = 4 << 20;

/// A line to a server that carries so much in a second, over all its connections.
async fn slow_line(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let line = Arc::new(Throttle::new(Some(LINE_BYTES_PER_S)));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let line = line.clone();
            let server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(carry(client, server, line));
        }
    });
    address
}

async fn carry(client: TcpStream, server: TcpStream, line: Arc<Throttle>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 32 << 10];
    while let Ok(bytes @ 1..) = from_client.read(&mut buffer).await {
        line.pass(bytes as u64).await;
        if to_server.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_take_the_time_that_a_slow_line_needs() {
    let server = s3::S3Server::start();
    let address = server.endpoint().strip_prefix("http://").unwrap().parse().unwrap();
    let line = slow_line(address).await;
    let options = S3Options {
        endpoint: Some(format!("http://{line}")),
        // Two parts at once take four times as long.
        request_timeout: Some(Duration::from_secs(PART_BYTES * 2 / LINE_BYTES_PER_S / 4)),
        ..server.options()
    };
    let to = StoreUrl::parse("s3://bucket/prefix").unwrap().open(&options).unwrap();
    let from = memory();
    let mut local = claimant(&from, 1).await;
    let spec = SnapshotSpec::base(Lsn(100), 2, cutwater_snapshot::ident::SnapshotUuid([1; 16]), 5);
    let manifest = write_spec(&mut local, spec, 4 << 20).await.unwrap();
    assert!(manifest.meta().data_bytes > 2 * PART_BYTES);
    let mut there = claimant(&to, 2).await;
    let name = there.claim(Lsn(100), manifest.snapshot_uuid(), 5).await.unwrap();
    let upload = Upload {
        from,
        to: to.clone(),
        manifest,
        keys: plain(),
        name,
        parent: None,
        throttle: Arc::new(Throttle::new(None)),
        done_bytes: Arc::default(),
    };
    let uploaded = upload.run().await.unwrap();
    verify(&to, uploaded.id(), &plain(), &|_| ()).await.unwrap();
    // A frozen store is noticed by what is small, as soon as ever.
    server.freeze();
    to.head(&name.manifest()).await.unwrap_err();
    server.thaw();
}
