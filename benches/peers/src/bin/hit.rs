//! Hits of one key, for valgrind to count their instructions: of a value that lives for ever, or for an hour, or in a
//! program that has tombstones, a removed tag and a token, none of them for this key.
//!
//! ```text
//! cargo build --release --bin hit
//! valgrind --tool=callgrind --toggle-collect='hit::hit*' target/release/hit plain 10000
//! ```
//!
//! A ten thousandth of what was collected is what a hit takes, with the loop around it. The kinds are `plain`, `life`
//! and `removals`.

use std::convert::Infallible;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context as Poller, Poll, Waker};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use peerage::{GetOptions, Group, Key, Node};

const VALUE: Bytes = Bytes::from_static(&[7; 100]);

async fn group(kind: &str) -> Result<Group<Bytes>> {
    let node = match kind {
        "removals" => Node::builder("127.0.0.1:0").alone().start().await?,
        _ => Node::local(),
    };
    let builder = node.group("hits").loader(|_: Key| async { Ok::<_, Infallible>(VALUE) });
    let group = match kind {
        "plain" => builder.build()?,
        "life" => builder.time_to_live(Duration::from_secs(3600)).build()?,
        "removals" => {
            // A peer that is never there: no removal becomes complete, and its tombstone stays.
            let (own, away) = (node.address().to_string(), "127.0.0.1:9");
            node.set_peers([own.as_str(), away]).await?;
            let group = builder.removal_timeout(Duration::from_millis(1)).build()?;
            let _ = group.remove_tag("a tag").await?;
            let receipt = group.remove("another key").await?;
            let token = receipt.token();
            let _ = group.get_with("a third key", GetOptions::new().no_older_than(token)).await?;
            group
        }
        _ => bail!("plain, life or removals"),
    };
    let _ = group.get("key").await?;
    Ok(group)
}

#[inline(never)]
fn hit(group: &Group<Bytes>, hits: u64) -> Result<()> {
    for _ in 0..hits {
        let get = pin!(group.get(black_box("key")));
        let Poll::Ready(answer) = get.poll(&mut Poller::from_waker(Waker::noop())) else { bail!("a miss") };
        black_box(answer?);
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (kind, hits) = (args.next().context("hit KIND COUNT")?, args.next().context("hit KIND COUNT")?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let group = runtime.block_on(group(&kind))?;
    let _in = runtime.enter();
    hit(&group, hits.parse()?)
}
