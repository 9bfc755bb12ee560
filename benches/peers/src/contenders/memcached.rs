//! memcached, pipelined: a writer that sends what has gathered in one go, a reader that hands out what comes back.
//!
//! The meta protocol carries a number with each request and its answer, so that both yardsticks share their desk.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::desk::{Desk, Hands};
use super::tcp::write_batches;
use crate::data;
use crate::load::Remote;
use crate::servers::Orders;

/// How much is read at a time.
const READ: usize = 256 << 10;

/// The asking end. Clones share the connection.
#[derive(Clone, Debug)]
pub(super) struct Memcached(Arc<Desk>);

impl Remote for Memcached {
    async fn get(&self, key: &str) -> Result<Bytes> {
        let answer = self.0.ask(|batch, id| {
            batch.put_slice(b"mg ");
            batch.put_slice(key.as_bytes());
            batch.put_slice(b" v O");
            put_decimal(batch, id);
            batch.put_slice(b"\r\n");
        });
        Ok(answer.await?)
    }
}

fn put_decimal(to: &mut BytesMut, mut number: u32) {
    let (mut digits, mut at) = ([0; 10], 10);
    loop {
        at -= 1;
        digits[at] = b'0' + number.to_le_bytes()[0].wrapping_sub(((number / 10) * 10).to_le_bytes()[0]);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    to.put_slice(&digits[at..]);
}

/// Connects and stores all values.
pub(super) async fn connect(address: &str) -> Result<Memcached> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    for (size, _) in data::SIZES {
        for keys in data::keys(size).chunks(500) {
            store(&mut stream, keys).await?;
        }
    }
    let desk = Arc::new(Desk::default());
    let (reading, writing) = stream.into_split();
    tokio::spawn(write_batches(Arc::clone(&desk), writing));
    let read_by = Arc::clone(&desk);
    tokio::spawn(async move {
        let (mut reading, mut buffer, mut hands) = (reading, BytesMut::new(), Hands::default());
        loop {
            buffer.reserve(READ);
            if reading.read_buf(&mut buffer).await? == 0 {
                return anyhow::Ok(());
            }
            let mut answers = Vec::new();
            while let Some(answer) = next(&mut buffer)? {
                answers.push(answer);
            }
            read_by.answer(answers, &mut hands);
        }
    });
    Ok(Memcached(desk))
}

/// Stores some values, and waits until they are.
async fn store(stream: &mut TcpStream, keys: &[String]) -> Result<()> {
    let mut sets = BytesMut::new();
    for key in keys {
        let value = data::value(key).context("a key of ours")?;
        sets.put_slice(format!("set {key} 0 0 {}\r\n", value.len()).as_bytes());
        sets.put_slice(&value);
        sets.put_slice(b"\r\n");
    }
    let (reading, mut writing) = stream.split();
    let replies = async {
        let mut replies = BufReader::new(reading).lines();
        for _ in keys {
            let reply = replies.next_line().await?.context("memcached hung up")?;
            ensure!(reply == "STORED", "memcached says {reply}");
        }
        Ok(())
    };
    let sent = async { anyhow::Ok(writing.write_all(&sets).await?) };
    futures::future::try_join(sent, replies).await?;
    Ok(())
}

/// The next answer, if all of it has come: `VA <length> O<number>\r\n<value>\r\n`.
fn next(buffer: &mut BytesMut) -> Result<Option<(u32, Bytes)>> {
    let Some(end) = buffer.iter().take(64).position(|byte| *byte == b'\n') else { return Ok(None) };
    let mut words = std::str::from_utf8(&buffer[..end])?.split_ascii_whitespace();
    let (Some("VA"), Some(len), Some(id)) = (words.next(), words.next(), words.next()) else {
        bail!("memcached says {:?}", String::from_utf8_lossy(&buffer[..end]));
    };
    let (len, id): (usize, u32) = (len.parse()?, id.trim_start_matches('O').parse()?);
    if buffer.len() < end + 1 + len + 2 {
        return Ok(None);
    }
    buffer.advance(end + 1);
    let value = buffer.split_to(len).freeze();
    buffer.advance(2);
    Ok(Some((id, value)))
}

/// The other process: as Debian has it, with room for all values. It refuses to run as root unless told who to be.
pub(crate) async fn serve(orders: Orders) -> Result<()> {
    let args = |port: u16| {
        let port = port.to_string();
        ["-l", "127.0.0.1", "-p", &port, "-U", "0", "-m", "1024", "-u", "nobody"].map(String::from).to_vec()
    };
    orders.keep("memcached", args).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 4_294_967_295] {
            let mut text = BytesMut::new();
            put_decimal(&mut text, number);
            assert_eq!(text, number.to_string().as_bytes());
        }
    }

    #[test]
    fn an_answer_is_taken_when_all_of_it_is_there() {
        let mut buffer = BytesMut::from("VA 3 O17\r\nabc\r");
        assert_eq!(next(&mut buffer).unwrap(), None);
        buffer.put_slice(b"\nVA 0");
        assert_eq!(next(&mut buffer).unwrap(), Some((17, Bytes::from_static(b"abc"))));
        assert_eq!(next(&mut buffer).unwrap(), None);
        assert!(next(&mut BytesMut::from("EN\r\n")).is_err());
    }
}
