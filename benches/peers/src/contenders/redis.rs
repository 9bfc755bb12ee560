//! Redis: the crate redis with its multiplexed connection, which batches what tasks ask at the same time.
//!
//! Two of its defaults would hold it back here and are off: a timer for each request, and a queue of fifty.

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Value, cmd, pipe};
use anyhow::{Context, Result, bail};
use bytes::Bytes;

use crate::data;
use crate::load::Remote;
use crate::servers::Orders;

impl Remote for MultiplexedConnection {
    async fn get(&self, key: &str) -> Result<Bytes> {
        match cmd("GET").arg(key).query_async(&mut self.clone()).await? {
            Value::BulkString(value) => Ok(value.into()),
            other => bail!("Redis has {other:?} for {key}"),
        }
    }
}

/// Connects and stores all values.
pub(super) async fn connect(address: &str) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(2_048);
    let client = Client::open(format!("redis://{address}"))?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    for (size, _) in data::SIZES {
        for keys in data::keys(size).chunks(500) {
            let mut sets = pipe();
            for key in keys {
                let value = data::value(key).context("a key of ours")?;
                sets.set(key, &value[..]).ignore();
            }
            sets.exec_async(&mut connection).await?;
        }
    }
    Ok(connection)
}

/// The other process: as Debian has it, without writing to the disk.
pub(crate) async fn serve(orders: Orders) -> Result<()> {
    let args = |port: u16| {
        let port = port.to_string();
        ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"].map(String::from).to_vec()
    };
    orders.keep("redis-server", args).await
}
