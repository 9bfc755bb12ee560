//! Spans: each get, load and fetch has one, and it says how it ended.

#![cfg(feature = "test-util")]

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use peerage::{Error, Group, Key, LoadError, MemoryNetwork, Node};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// The outcomes that spans recorded, with the spans' names, in their order.
#[derive(Clone, Default)]
struct Outcomes {
    ended: Arc<Mutex<Vec<(&'static str, String)>>>,
    names: Arc<Mutex<HashMap<u64, &'static str>>>,
    last: Arc<AtomicU64>,
}

impl Outcomes {
    fn take(&self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.ended.lock().unwrap())
    }
}

struct Outcome(Option<String>);

impl Visit for Outcome {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "outcome" {
            self.0 = Some(format!("{value:?}").trim_matches('"').to_string());
        }
    }
}

impl Subscriber for Outcomes {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.names.lock().unwrap().insert(id, span.metadata().name());
        Id::from_u64(id)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut outcome = Outcome(None);
        values.record(&mut outcome);
        if let Some(outcome) = outcome.0 {
            let name = self.names.lock().unwrap()[&id.into_u64()];
            self.ended.lock().unwrap().push((name, outcome));
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn group(node: &Node) -> Group<String> {
    node.group("spans")
        .hot_share(0.0)
        .loader(|key: Key| async move {
            match key.as_str() {
                Some("bad") => Err(LoadError::new("it is bad")),
                Some("none") => Ok(None),
                _ => Ok(Some(String::from("value"))),
            }
        })
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn gets_and_loads_say_how_they_ended() {
    let outcomes = Outcomes::default();
    let _guard = tracing::subscriber::set_default(outcomes.clone());
    let node = Node::local();
    let group = group(&node);
    for (key, want) in [
        ("k", vec![("group.load", "loaded"), ("group.get", "loaded")]),
        ("k", vec![("group.get", "main_hit")]),
        ("none", vec![("group.load", "loaded"), ("group.get", "not_found")]),
        ("bad", vec![("group.load", "failed"), ("group.get", "error")]),
    ] {
        let _ = group.get(key).await;
        let ended = outcomes.take();
        let ended: Vec<_> = ended.iter().map(|(name, outcome)| (*name, outcome.as_str())).collect();
        assert_eq!(ended, want, "{key}");
    }
    group.get_many(["k", "bad"]).await;
    assert!(outcomes.take().contains(&("group.get_many", String::from("error"))));
}

#[tokio::test(start_paused = true)]
async fn fetches_say_how_they_ended() {
    let outcomes = Outcomes::default();
    let _guard = tracing::subscriber::set_default(outcomes.clone());
    let network = MemoryNetwork::new();
    let nodes = network.start(3).await.unwrap();
    let groups: Vec<_> = nodes.iter().map(group).collect();
    let placement = nodes[0].placement();
    let key = (0..1000).map(|n| format!("key {n}")).find(|key| placement.owner_of(key) == nodes[1].name()).unwrap();
    groups[0].get(&key).await.unwrap();
    assert!(outcomes.take().contains(&("peer.fetch", String::from("answered"))));
    // In flight when the link goes: the span of the first try, not of those that follow, tells of it.
    network.black_hole("node-1:1", "node-2:1");
    groups[0].get(&key).await.unwrap();
    assert!(outcomes.take().contains(&("peer.fetch", String::from("unreachable"))));
    assert!(matches!(groups[0].get("bad").await, Err(Error::Load(_))));
}
