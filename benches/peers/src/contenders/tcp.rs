//! The floor: frames with their length in front on one bare TCP connection, batched as the exchange batches.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;

use anyhow::Result;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};

use super::desk::{Desk, Hands};
use crate::data;
use crate::load::Remote;
use crate::servers::Orders;

/// How much is read at a time, and written.
const BATCH: usize = 256 << 10;

/// The asking end. Clones share the connection.
#[derive(Clone, Debug)]
pub(super) struct Tcp(Arc<Desk>);

impl Remote for Tcp {
    async fn get(&self, key: &str) -> Result<Bytes> {
        let answer = self.0.ask(|batch, id| put(batch, id, key.as_bytes()));
        Ok(answer.await?)
    }
}

/// Length and number, then the bytes: of a key on the way out, of a value on the way back.
fn put(to: &mut BytesMut, id: u32, bytes: &[u8]) {
    to.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    to.put_u32_le(id);
    to.put_slice(bytes);
}

/// How many bytes at the front are whole frames.
fn whole(buffer: &[u8]) -> usize {
    let mut end = 0;
    loop {
        let Ok(len) = (&buffer[end..]).try_get_u32_le() else { return end };
        let next = end + 8 + len as usize;
        if next > buffer.len() {
            return end;
        }
        end = next;
    }
}

pub(super) async fn connect(address: &str) -> Result<Tcp> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let desk = Arc::new(Desk::default());
    let (mut reading, writing) = stream.into_split();
    tokio::spawn(write_batches(Arc::clone(&desk), writing));
    let read_by = Arc::clone(&desk);
    tokio::spawn(async move {
        let (mut buffer, mut hands) = (BytesMut::new(), Hands::default());
        loop {
            buffer.reserve(BATCH);
            if reading.read_buf(&mut buffer).await? == 0 {
                return anyhow::Ok(());
            }
            let end = whole(&buffer);
            let mut frames = buffer.split_to(end).freeze();
            let answers = std::iter::from_fn(|| {
                let len = frames.try_get_u32_le().ok()? as usize;
                Some((frames.get_u32_le(), frames.split_to(len)))
            });
            read_by.answer(answers, &mut hands);
        }
    });
    Ok(Tcp(desk))
}

/// Writes one batch after the other, for as long as the connection lives.
pub(super) async fn write_batches(desk: Arc<Desk>, mut writing: OwnedWriteHalf) -> Result<()> {
    loop {
        let batch = poll_fn(|cx| desk.poll_batch(cx)).await;
        writing.write_all(&batch).await?;
    }
}

/// The other process.
pub(crate) async fn serve(orders: Orders) -> Result<()> {
    let map = Arc::new(data::map());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let accepting = async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(answer(stream, Arc::clone(&map)));
        }
    };
    tokio::select! {
        end = accepting => end,
        () = orders.ready(address) => Ok(()),
    }
}

/// Answers whatever was read in one write.
async fn answer(mut stream: TcpStream, map: Arc<HashMap<Box<[u8]>, Bytes>>) -> Result<()> {
    let (mut requests, mut answers) = (BytesMut::new(), BytesMut::new());
    loop {
        requests.reserve(BATCH);
        if stream.read_buf(&mut requests).await? == 0 {
            return Ok(());
        }
        let mut frames = &requests[..whole(&requests)];
        let read = frames.len();
        while frames.has_remaining() {
            let (len, id) = (frames.get_u32_le() as usize, frames.get_u32_le());
            if let Some(value) = map.get(&frames[..len]) {
                put(&mut answers, id, value);
            }
            frames.advance(len);
            if answers.len() >= BATCH {
                stream.write_all(&answers).await?;
                answers.clear();
            }
        }
        requests.advance(read);
        stream.write_all(&answers).await?;
        answers.clear();
    }
}
