//! A program that embeds a database: its own runtimes, its own threads, and the examples, which
//! are compiled into this test and run.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use cutwater_control::{Database, DatabaseConfig};
use cutwater_engine::{Client, Engine, EngineConfig};
use object_store::memory::InMemory;

#[path = "../examples/embedded.rs"]
#[expect(dead_code, reason = "its main is not called here")]
mod embedded;
#[path = "../examples/snapshot.rs"]
#[expect(dead_code, reason = "its main is not called here")]
mod snapshot;

#[tokio::test]
async fn the_example_of_embedding_runs() {
    let dir = tempfile::tempdir().unwrap();
    let told = embedded::run(&dir.path().join("new")).await.unwrap();
    assert!(told.contains("visits: 3"), "{told}");
}

#[tokio::test]
async fn the_example_of_snapshots_runs() {
    let dir = tempfile::tempdir().unwrap();
    let told = snapshot::run(dir.path()).await.unwrap();
    assert!(told.contains("balance: 100"), "{told}");
}

fn anywhere<T: Clone + Send + Sync + 'static>(value: T) -> T {
    value
}

/// What every runtime is to see of a client.
async fn use_client(client: Client, name: &str) {
    let set = client.execute_async(&["SET", name, "1"]).await.unwrap();
    assert_eq!(set.as_error(), None);
    for n in 2..200 {
        let reply = client.execute_async(&["INCR", name]).await.unwrap();
        assert_eq!(reply.as_integer(), Some(n));
    }
    let commands: Vec<Vec<String>> =
        (0..100).map(|n| vec!["SET".into(), format!("{name}:{n}"), n.to_string()]).collect();
    let replies = client.batch_async(&commands).await.unwrap();
    assert!(replies.len() == 100 && replies.iter().all(|reply| reply.as_error().is_none()));
    let keys = client.execute_async(&["EXISTS", &format!("{name}:7"), "none", name]).await.unwrap();
    assert_eq!(keys.as_integer(), Some(2));
}

#[test]
fn a_client_works_on_every_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = EngineConfig::directory(dir.path());
    config.segment_bytes = 1 << 20;
    let engine = Engine::open(config).unwrap();
    let client = anywhere(engine.client());

    futures::executor::block_on(use_client(client.clone(), "futures"));

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(use_client(client.clone(), "tokio, one thread"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let tasks = (0..8).map(|n| {
            let client = client.clone();
            tokio::spawn(async move { use_client(client, &format!("tokio {n}")).await })
        });
        futures::future::join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    });

    let on_glommio = client.clone();
    let executor = glommio::LocalExecutorBuilder::default();
    let thread = executor.spawn(move || use_client(on_glommio, "glommio")).unwrap();
    thread.join().unwrap();

    // Without any, from a thread that has a runtime too.
    runtime.block_on(async {
        let blocking = client.clone();
        tokio::task::spawn_blocking(move || blocking.set("blocking", "1")).await.unwrap().unwrap();
    });
    engine.close().unwrap();
    let stopped = futures::executor::block_on(client.execute_async(&["PING"]));
    assert!(stopped.is_err());
}

/// Calls that wait on other runtimes end when the engine does.
#[test]
fn waiting_calls_of_other_runtimes_end_with_the_engine() {
    let engine = Engine::open(EngineConfig::memory()).unwrap();
    let (client, local) = (engine.client(), engine.client());
    let until_stopped = async |client: Client| {
        while client.batch_async(&[vec!["INCR", "a"], vec!["INCR", "b"]]).await.is_ok() {}
    };
    let executor = glommio::LocalExecutorBuilder::default();
    let on_glommio = executor.spawn(move || until_stopped(local)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let on_tokio = runtime.spawn(async move {
        while client.execute_async(&["MSET", "a", "1", "b", "2"]).await.is_ok() {}
    });
    while engine.client().get("b").unwrap().is_none() {}
    engine.close().unwrap();
    on_glommio.join().unwrap();
    runtime.block_on(on_tokio).unwrap();
}

/// Several databases in one process, two with listeners, each with a store of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_databases_in_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut open = Vec::new();
    for n in 0..3 {
        let mut config = match n {
            0 => DatabaseConfig::memory(Arc::new(InMemory::new())).unwrap(),
            _ => DatabaseConfig::directory(dir.path().join(n.to_string())).unwrap(),
        };
        config.engine.segment_bytes = 1 << 20;
        config.engine.listen = (n < 2).then(|| "127.0.0.1:0".parse().unwrap());
        let database = Database::open(config).await.unwrap();
        database.client().set("number", n.to_string()).unwrap();
        open.push(database);
    }
    for (n, database) in open.iter().enumerate() {
        let number = database.client().get("number").unwrap();
        assert_eq!(number, Some(n.to_string().into_bytes()));
        assert_eq!(database.engine().ports().common.is_some(), n < 2);
        assert!(database.snapshot().await.unwrap().id().0 > 0);
    }
    for database in open {
        database.close().await.unwrap();
    }
}
