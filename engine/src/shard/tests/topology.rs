//! CLUSTER: which port serves which slots.

use super::*;

#[test]
fn cluster_names_the_ports_of_the_shards() {
    for shards in 1..=3 {
        let mut cluster = TestCluster::new(shards);
        let conn = cluster.connect(shards - 1);
        let slots = cluster.call(conn, &["CLUSTER", "SLOTS"]).into_array().unwrap();
        assert_eq!(slots.len(), usize::from(shards));
        let mut next = 0;
        for (shard, entry) in slots.iter().enumerate() {
            let entry = entry.as_array().unwrap();
            assert_eq!(entry[0], Value::Integer(next));
            next = entry[1].as_integer().unwrap() + 1;
            let node = entry[2].as_array().unwrap();
            assert_eq!(node[0], bulk("127.0.0.1"));
            assert_eq!(node[1], Value::Integer(i64::from(FIRST_PORT) + shard as i64));
            assert_eq!(node[2].as_str().unwrap().len(), 40);
        }
        assert_eq!(next, 16_384);
        let nodes = cluster.text(conn, &["CLUSTER", "NODES"]);
        assert_eq!(nodes.lines().count(), usize::from(shards));
        let id = cluster.text(conn, &["CLUSTER", "MYID"]);
        let myself = nodes.lines().find(|line| line.contains("myself,master")).unwrap();
        let port = FIRST_PORT + shards - 1;
        assert!(myself.starts_with(&format!("{id} 127.0.0.1:{port}@0 myself,master - 0 0 ")));
        assert!(myself.ends_with("-16383"));
        cluster.call(conn, &["HELLO", "3"]);
        let described = cluster.call(conn, &["CLUSTER", "SHARDS"]).into_array().unwrap();
        assert_eq!(described.len(), usize::from(shards));
        let node = described.last().unwrap().field("nodes").unwrap().as_array().unwrap()[0].clone();
        assert_eq!(node.field("id"), Some(&bulk(&id)));
        assert_eq!(node.field("port"), Some(&Value::Integer(i64::from(port))));
        assert_eq!(node.field("health"), Some(&bulk("online")));
        let info = cluster.text(conn, &["CLUSTER", "INFO"]);
        assert!(info.starts_with("cluster_state:ok\r\ncluster_slots_assigned:16384\r\n"));
        assert!(info.contains(&format!("cluster_size:{shards}\r\n")));
    }
}

#[test]
fn cluster_looks_at_slots_where_they_are() {
    for shards in 1..=3 {
        let (mut cluster, conn) = with_client(shards);
        for key in ["foo", "bar", "{foo}x", "hello"] {
            cluster.call(conn, &["SET", key, "1"]);
        }
        assert_eq!(cluster.call(conn, &["CLUSTER", "KEYSLOT", "foo"]), Value::Integer(12_182));
        let count = cluster.call(conn, &["CLUSTER", "COUNTKEYSINSLOT", "12182"]);
        assert_eq!(count, Value::Integer(2));
        let keys = cluster.call(conn, &["CLUSTER", "GETKEYSINSLOT", "12182", "10"]);
        assert_eq!(keys.as_array().unwrap().len(), 2);
        let keys = cluster.call(conn, &["CLUSTER", "GETKEYSINSLOT", "5061", "10"]);
        assert_eq!(keys, bulks(&["bar"]));
        assert!(cluster.call(conn, &["CLUSTER", "COUNTKEYSINSLOT", "16384"]).as_error().is_some());
        assert!(cluster.call(conn, &["CLUSTER", "HELP"]).as_array().is_some());
    }
}
