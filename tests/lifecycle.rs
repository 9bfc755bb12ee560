//! How a node starts and ends: what is in flight is finished or cut short and told, every task is joined, nothing is
//! left.

#[path = "support/cluster.rs"]
mod cluster;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use peerage::{
    ConfigError, Error, Group, Key, MemoryNetwork, Node, NodeBuilder, SelfCheck, StartError, WeakGroup, WeakNode,
};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use cluster::{Cluster, Member, Source, keys_ranked, ms, timed, until};

const SECOND: Duration = Duration::from_secs(1);

/// How many tasks this runtime has.
fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_what_is_in_flight_and_leaves_no_task() {
    let before = tasks();
    let cluster = Cluster::start(3).await;
    cluster.source.set_delay(ms(500));
    let keys = cluster.keys_ranked(&[0], 10);
    let gets: Vec<_> = cluster.members.iter().flat_map(|member| keys.iter().map(|key| member.ask(key))).collect();
    tokio::time::sleep(ms(100)).await;
    let (report, took) = timed(cluster.members[0].node.shutdown(Duration::from_secs(5))).await;
    assert!(report.is_clean(), "{report:?}");
    assert!(took >= ms(400), "it waited for the loads");
    for value in join_all(gets).await {
        value.unwrap().unwrap();
    }
    assert_eq!(cluster.source.loads(), 10);
    for member in &cluster.members[1..] {
        assert!(member.node.shutdown(SECOND).await.is_clean());
    }
    until("all tasks have ended", || tasks() == before).await;
    assert!(cluster.network.connections().is_empty());
}

#[tokio::test(start_paused = true)]
async fn shutdown_cuts_short_what_does_not_end_and_says_what() {
    let before = tasks();
    let cluster = Cluster::start(2).await;
    cluster.source.set_delay(Duration::from_secs(9));
    let own = cluster.keys_ranked(&[0], 3);
    let theirs = cluster.keys_ranked(&[1], 2);
    let gets: Vec<_> = own.iter().chain(&theirs).map(|key| cluster.members[0].ask(key)).collect();
    let outside = cluster.members[1].ask(&own[0]);
    tokio::time::sleep(ms(100)).await;
    let (report, took) = timed(cluster.members[0].node.shutdown(SECOND)).await;
    assert_eq!((report.loads_cut, report.fetches_cut, report.removals_cut), (3, 2, 0));
    assert!(!report.is_clean() && took >= SECOND && took < Duration::from_secs(5), "{took:?}");
    for value in join_all(gets).await {
        assert!(matches!(value.unwrap(), Err(Error::Closed)));
    }
    // A peer's get does not fail with it: another node can do better.
    assert!(outside.await.unwrap().is_ok());
    assert_eq!(cluster.source.loads_on("node-2:1", &own[0]), 1);
    assert!(cluster.members[1].node.shutdown(Duration::from_secs(20)).await.is_clean());
    until("all tasks have ended", || tasks() == before).await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_waits_is_cut_short_too() {
    let cluster = Cluster::start(2).await;
    let key = &cluster.keys_ranked(&[1], 1)[0];
    cluster.network.delay("node-1:1", "node-2:1", ms(900));
    let removal = cluster.members[0].removes(key);
    tokio::time::sleep(ms(10)).await;
    let report = cluster.members[0].node.shutdown(ms(100)).await;
    assert!(report.removals_cut >= 1 && report.loads_cut == 0, "{report:?}");
    assert!(matches!(removal.await.unwrap(), Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn after_a_shutdown_every_call_is_told_that_the_node_is_closed() {
    let cluster = Cluster::start(1).await;
    let Member { node, group } = &cluster.members[0];
    group.get("k").await.unwrap();
    assert!(node.shutdown(SECOND).await.is_clean());
    assert!(matches!(group.get("k").await, Err(Error::Closed)), "also a hit");
    assert!(matches!(group.get_many(["k", "l"]).await[..], [Err(Error::Closed), Err(Error::Closed)]));
    assert!(matches!(group.insert("k", "v".into()).await, Err(Error::Closed)));
    assert!(matches!(group.remove("k").await, Err(Error::Closed)));
    assert!(matches!(group.clear().await, Err(Error::Closed)));
    assert_eq!(node.set_peers(["node-2:1"]).await, Err(ConfigError::Closed));
    let late = node.group("late").loader(cluster.source.loader("late")).build::<String>();
    assert!(matches!(late, Err(ConfigError::Closed)));
    // Once more, and from elsewhere, it is the same end.
    assert!(node.shutdown(SECOND).await.is_clean());
    assert_eq!(group.stats().gets.failed_closed, 3);
}

#[tokio::test(start_paused = true)]
async fn peers_of_a_node_that_leaves_turn_to_its_stand_in_without_a_failed_get() {
    let mut cluster = Cluster::start(3).await;
    cluster.source.set_delay(ms(20));
    let leaver = cluster.members.remove(0);
    let placement = leaver.node.placement();
    let keys = keys_ranked(&placement, &["node-1:1".to_string()], 300);
    let (stop, stopped) = (AtomicBool::new(false), Mutex::new(None));
    let asking = async {
        for key in &keys {
            for member in &cluster.members {
                let (value, took) = timed(member.group.get(key)).await;
                value.unwrap();
                assert!(took <= ms(40), "{took:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    let leaving = async {
        tokio::time::sleep(SECOND).await;
        *stopped.lock().unwrap() = Some(leaver.node.shutdown(Duration::from_secs(5)).await);
    };
    futures::join!(asking, leaving);
    assert!(stop.load(Ordering::Relaxed) && stopped.lock().unwrap().unwrap().is_clean());
    for key in &keys {
        assert!(cluster.source.loads_of(key) <= 2, "{key}");
    }
    let total: u64 = keys.iter().map(|key| cluster.source.loads_of(key)).sum();
    assert!(total <= 301, "{total}: no key but the one in flight is loaded twice");
}

#[tokio::test(start_paused = true)]
async fn a_get_that_meets_a_leaving_node_turns_to_the_stand_in_too() {
    let cluster = Cluster::start(4).await;
    let keys = cluster.keys_ranked(&[0, 1], 11);
    for asker in ["node-3:1", "node-4:1"] {
        cluster.network.delay("node-1:1", asker, ms(50));
    }
    // Something that takes a while keeps the leaving node there.
    cluster.source.set_delay(SECOND);
    let slow = cluster.members[0].ask(&keys[10]);
    tokio::time::sleep(ms(10)).await;
    cluster.source.set_delay(Duration::ZERO);
    // Sent before the node leaves, there after it has begun to, and before its goodbye is heard.
    let gets: Vec<_> =
        cluster.members[2..].iter().flat_map(|member| keys[..10].iter().map(|k| member.ask(k))).collect();
    tokio::time::sleep(ms(10)).await;
    assert!(cluster.members[0].node.shutdown(Duration::from_secs(5)).await.is_clean());
    for value in join_all(gets).await {
        value.unwrap().unwrap();
    }
    slow.await.unwrap().unwrap();
    for key in &keys[..10] {
        assert_eq!((cluster.source.loads_of(key), cluster.source.loads_on("node-2:1", key)), (1, 1), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_node_and_all_its_tasks() {
    let before = tasks();
    let network = MemoryNetwork::new();
    let node = network.node("a:1").peers(["a:1", "b:1"]).start().await.unwrap();
    let loads = Arc::new(AtomicU64::new(0));
    let weak: Arc<Mutex<Option<WeakGroup<String>>>> = Arc::default();
    let loader = {
        let (loads, weak, weak_node) = (Arc::clone(&loads), Arc::clone(&weak), node.downgrade());
        move |key: Key| {
            let group = weak.lock().unwrap().as_ref().and_then(WeakGroup::upgrade);
            let (loads, node) = (Arc::clone(&loads), weak_node.upgrade());
            async move {
                loads.fetch_add(1, Ordering::SeqCst);
                if key.as_str() == Some("slow") {
                    drop((group, node));
                    tokio::time::sleep(ms(300)).await;
                    return Ok(String::new());
                }
                let name = node.expect("the caller holds a handle").name().to_string();
                match key.as_str() {
                    Some("outer") => Ok::<_, Error>(group.expect("so it does").get("inner").await? + &name),
                    _ => Ok(name),
                }
            }
        }
    };
    let group: Group<String> = node.group("g").loader(loader).build().unwrap();
    *weak.lock().unwrap() = Some(group.downgrade());
    let weak_node: WeakNode = node.downgrade();
    drop(node.clone());
    drop(node);
    // A group alone keeps the node alive.
    assert_eq!(group.get("outer").await.unwrap(), "a:1a:1");
    assert!(weak_node.upgrade().is_some());
    let clone = group.clone();
    drop(group);
    assert_eq!(clone.get("another").await.unwrap(), "a:1");
    let in_flight = clone.get("slow");
    assert!(futures::poll!(Box::pin(in_flight)).is_pending());
    drop(clone);
    assert!(weak_node.upgrade().is_none() && weak.lock().unwrap().as_ref().unwrap().upgrade().is_none());
    assert!(tasks() > before, "dropping does not wait");
    until("all tasks have ended", || tasks() == before).await;
    // Its address is free again.
    network.node("a:1").alone().start().await.unwrap();
}

#[tokio::test]
async fn over_grpc_shutdown_leaves_no_task_and_frees_the_port() {
    let before = tasks();
    let source = Source::default();
    let a = Member::new(Node::builder("127.0.0.1:0").alone().start().await.unwrap(), &source);
    let b = Member::new(Node::builder("127.0.0.1:0").peers([a.address()]).start().await.unwrap(), &source);
    a.node.set_peers([b.address()]).await.unwrap();
    until("they have met", || a.sees_all_up() && b.sees_all_up()).await;
    for number in 0..50 {
        for member in [&a, &b] {
            member.group.get(&format!("key-{number}")).await.unwrap();
        }
    }
    assert_eq!(source.loads(), 50);
    let addresses = [a.address(), b.address()];
    assert!(a.node.shutdown(SECOND * 5).await.is_clean());
    let port = TcpListener::bind(&addresses[0]).await;
    assert!(port.is_ok(), "the port is free: {port:?}");
    assert!(b.group.get("after").await.is_ok());
    let address = b.address();
    drop(b); // without a shutdown
    drop(a);
    until("all tasks have ended", || tasks() == before).await;
    TcpListener::bind(&address).await.unwrap();
}

/// Begins a shutdown that a load holds up, drops it half-way, and then the last handle. Says where the node listened.
async fn shut_down_half_way(builder: NodeBuilder) -> String {
    let node = builder.start().await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let loader = move |key: Key| {
        let opened = Arc::clone(&opened);
        async move { opened.acquire().await.map(|_| key.to_string()) }
    };
    let group: Group<String> = node.group("g").loader(loader).build().unwrap();
    assert!(group.get("k").now_or_never().is_none(), "its load goes on without it");
    let half = tokio::time::timeout(ms(20), node.shutdown(SECOND * 600)).await;
    assert!(half.is_err(), "the load is waited for");
    gate.add_permits(1);
    node.address().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_was_dropped_is_carried_on_when_the_last_handle_goes() {
    let before = tasks();
    let network = MemoryNetwork::new();
    let address = shut_down_half_way(network.node("a:1").peers(["a:1", "b:1"])).await;
    until("all tasks have ended", || tasks() == before).await;
    network.node(&address).alone().start().await.unwrap();
}

#[tokio::test]
async fn over_grpc_a_shutdown_that_was_dropped_is_carried_on_too_and_frees_the_port() {
    let before = tasks();
    let address = shut_down_half_way(Node::builder("127.0.0.1:0").alone()).await;
    until("all tasks have ended", || tasks() == before).await;
    TcpListener::bind(&address).await.unwrap();
}

#[tokio::test]
async fn a_busy_port_is_a_clear_error_and_leaves_nothing_running() {
    let before = tasks();
    let busy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let error = Node::builder(&address).alone().start().await.unwrap_err();
    assert!(matches!(&error, StartError::Bind { address: at, .. } if *at == address));
    assert!(error.to_string().contains(&address) && error.to_string().contains("in use"), "{error}");
    drop(busy);
    // An error that is found after listening frees the port as well.
    let error = Node::builder(&address).peers(["no port"]).start().await.unwrap_err();
    assert!(matches!(error, StartError::Config(ConfigError::InvalidAddress { .. })));
    until("nothing is left", || tasks() == before).await;
    let node = Node::builder(&address).alone().start().await.unwrap();
    assert!(node.shutdown(SECOND).await.is_clean());
}

#[test]
fn outside_of_a_runtime_there_is_an_error_and_no_panic() {
    let node = Node::local();
    let loader = |key: Key| async move { Ok::<_, std::io::Error>(key.to_string()) };
    let group: Group<String> = node.group("g").loader(loader).build().unwrap();
    assert!(matches!(group.get("k").now_or_never(), Some(Err(Error::NoRuntime))));
    assert!(matches!(group.get_many(["k"]).now_or_never().unwrap()[..], [Err(Error::NoRuntime)]));
    assert!(matches!(group.remove("k").now_or_never(), Some(Err(Error::NoRuntime))));
    assert!(matches!(group.insert("k", "v".into()).now_or_never(), Some(Err(Error::NoRuntime))));
    let start = Node::builder("127.0.0.1:0").alone().start().now_or_never();
    assert!(matches!(start, Some(Err(StartError::NoRuntime))));
    // It works from within one, also if the first call was not; and ends outside of one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(group.get("k")).unwrap(), "k");
    assert_eq!(group.get("k").now_or_never().unwrap().unwrap(), "k", "a hit needs no runtime");
    drop((node, group));
    drop(runtime);
}

#[test]
fn a_runtime_that_ends_takes_its_nodes_along_and_nobody_hangs() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (loading, begun) = std::sync::mpsc::channel();
    let group: Group<String> = runtime.block_on(async {
        let loader = move |_: Key| {
            loading.send(()).unwrap();
            std::future::pending::<Result<String, std::io::Error>>()
        };
        Node::local().group("g").loader(loader).build().unwrap()
    });
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let waiting = other.spawn({
        let group = group.clone();
        async move { group.get("k").await }
    });
    other.block_on(async { tokio::task::yield_now().await });
    begun.recv_timeout(Duration::from_secs(60)).unwrap();
    runtime.shutdown_background();
    assert!(matches!(other.block_on(waiting).unwrap(), Err(Error::Closed)));
    assert!(matches!(other.block_on(group.get("again")), Err(Error::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_service_serves_from_a_server_of_the_applications_own() {
    let source = Source::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (node, service) = Node::builder(&address).alone().mount().await.unwrap();
    let mounted = Member::new(node, &source);
    assert_eq!(mounted.node.stats().self_check, SelfCheck::Running, "there is no server yet");
    let (stop, stopped) = oneshot::channel::<()>();
    let incoming = futures::stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await.map(|(tcp, _)| tcp);
        Some((accepted, listener))
    });
    let server = tokio::spawn(async move {
        let server = tonic::transport::Server::builder();
        let stopped = stopped.map(drop);
        server.serve_with_incoming_shutdown(service, incoming.boxed(), stopped).await
    });
    until("it has reached itself", || mounted.node.stats().self_check == SelfCheck::Passed).await;
    let plain = Member::new(Node::builder("127.0.0.1:0").peers([&address]).start().await.unwrap(), &source);
    mounted.node.set_peers([plain.address()]).await.unwrap();
    until("they have met", || plain.sees_all_up() && mounted.sees_all_up()).await;
    for number in 0..50 {
        for member in [&plain, &mounted] {
            member.group.get(&format!("key-{number}")).await.unwrap();
        }
    }
    assert_eq!(source.loads(), 50);
    assert!(mounted.group.stats().served.total() > 0 && plain.group.stats().served.total() > 0);
    // The node ends, the application's server goes on: peers are told to turn elsewhere.
    assert!(mounted.node.shutdown(SECOND * 5).await.is_clean());
    for number in 50..100 {
        plain.group.get(&format!("key-{number}")).await.unwrap();
    }
    assert_eq!(source.loads(), 100);
    stop.send(()).unwrap();
    drop(plain);
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cluster_on_the_in_process_network_is_whole_when_it_is_there() {
    let network = MemoryNetwork::new();
    let nodes = network.start(3).await.unwrap();
    let group = |node: &Node| -> Group<String> {
        let at = node.name().to_string();
        let loader = move |_: Key| std::future::ready(Ok::<_, std::convert::Infallible>(at.clone()));
        node.group("g").loader(loader).build().unwrap()
    };
    let groups: Vec<_> = nodes.iter().map(group).collect();
    let placement = nodes[0].placement();
    for key in (0..30).map(|number| format!("key-{number}")) {
        for group in &groups {
            assert_eq!(group.get(&key).await.unwrap(), placement.owner_of(&key).as_str(), "the owner loads");
        }
        groups[0].remove(&key).await.unwrap().everywhere().unwrap();
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_is_told_before_anything_is_listened_at() {
    for address in ["127.0.0.1", "http://127.0.0.1:0"] {
        let error = Node::builder(address).alone().start().await.unwrap_err();
        assert!(matches!(error, StartError::Config(ConfigError::InvalidAddress { .. })), "{error}");
    }
    let error = Node::builder("0.0.0.0:0").alone().start().await.unwrap_err();
    assert!(matches!(error, StartError::Config(ConfigError::UnspecifiedAddress { .. })), "{error}");
    let error = Node::builder("127.0.0.1:0").alone().mount().await.map(drop).unwrap_err();
    assert!(error.to_string().contains("name the port"), "{error}");
}
