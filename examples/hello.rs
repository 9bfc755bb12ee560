//! One node, one group, one loader: a miss, a hit, a removal.
//!
//! `cargo run --example hello`

use std::error::Error;
use std::time::Duration;

use peerage::{Group, Key, Node};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // To grow into a cluster, list every node's address here, the same list on each.
    let node = Node::builder("127.0.0.1:7400").peers(["127.0.0.1:7400"]).start().await?;

    let greetings: Group<String> = node
        .group("greetings")
        .capacity(1 << 20)
        .time_to_live(Duration::from_secs(60))
        .loader(|name: Key| async move {
            println!("  the loader runs for {name}");
            Ok::<_, Box<dyn Error + Send + Sync>>(Some(format!("Hello, {name}!")))
        })
        .build()?;

    println!("a miss: {}", greetings.get("Ada").await?);
    println!("a hit:  {}", greetings.get("Ada").await?);
    greetings.remove("Ada").await?.everywhere()?;
    println!("a miss: {}", greetings.get("Ada").await?);
    println!("{:#?}", greetings.stats().gets);

    node.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
