//! What a node does when its process has stood still.
//!
//! The service here beats. If a beat finds that there was none for too long, the store is not trusted until hellos
//! have brought from the peers what was missed. Gets wait for that meanwhile: to load instead what most likely is
//! there still would cost the source, when many nodes wake together, what a cold start does. The wait has a bound:
//! from whom it does not reach in time this node is cut off, and it serves its own callers as one that is cut off
//! does.

use std::sync::Arc;

use crate::clock;
use crate::group::Context;
use crate::pulse::{BEAT, Between, Last};

use super::core::Core;

impl Core {
    /// Beats, from now on, until the node stops.
    pub(super) fn mind_pulse(&self) {
        let minded = Minded(Arc::clone(&self.context));
        let mut last = Last { beat: self.context.clock.now(), asleep: clock::asleep() };
        self.context.pulse.beat(last.beat);
        self.tasks().service(async move {
            let context = &minded.0;
            let beating = async {
                loop {
                    clock::sleep(BEAT).await;
                    loop {
                        match last.next(context.clock.now(), clock::asleep()) {
                            Between::Steady => break,
                            // And then once more: it may have stood still again meanwhile.
                            between => wake(context, between).await,
                        }
                    }
                    context.pulse.beat(last.beat);
                }
            };
            context.tasks.stopping().run_until_cancelled(beating).await;
        });
    }
}

async fn wake(context: &Context, between: Between) {
    context.pulse.stop();
    tracing::info!(?between, "this process has stood still: what it holds is served when its peers have been heard");
    if let Between::Asleep(_) = between {
        // What is held has lives that were not counted meanwhile.
        context.coherence.let_go();
    }
    context.peers.catch_up().await;
}

/// Whatever ends the service, nobody is to wait for another beat.
struct Minded(Arc<Context>);

impl Drop for Minded {
    fn drop(&mut self) {
        self.0.pulse.end();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{BoxError, Group, Key, MemoryNetwork};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_kept_after_a_pause_and_dropped_after_a_sleep() {
        let nodes = MemoryNetwork::new().start(2).await.unwrap();
        let loader = async |key: Key| Ok::<_, BoxError>(key.to_string());
        let groups: Vec<Group<String>> =
            nodes.iter().map(|node| node.group("g").loader(loader).build().unwrap()).collect();
        let time = Duration::from_secs(3);
        for (between, is_kept) in [(Between::Still(time), true), (Between::Asleep(time), false)] {
            let mut owners = 0;
            for (node, group) in nodes.iter().zip(&groups) {
                group.get("k").await.unwrap();
                let before = group.peek("k");
                owners += u32::from(before.is_some());
                let context = &node.core.context;
                wake(context, between).await;
                assert!(group.peek("k").is_none(), "not before the next beat");
                context.pulse.beat(context.clock.now());
                assert_eq!(group.peek("k"), before.filter(|_| is_kept));
            }
            assert!(owners > 0, "somebody has the key");
        }
    }
}
