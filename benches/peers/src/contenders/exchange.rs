//! The bare exchange: one long bidirectional tonic stream, many gets a frame, and nothing of the library.
//!
//! It is what the library's own exchange is held against: the same transport, the same batching, a server that answers
//! from a map and nothing else. No value passes through a protobuf message: a codec writes values into the frame and
//! slices them out of it.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::{Buf, BufMut, Bytes};
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::desk::{Desk, Hands};
use super::unary::incoming;
use crate::data;
use crate::load::Remote;
use crate::servers::Orders;

use generated::frames_client::FramesClient;
use generated::frames_server::{Frames, FramesServer};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/peers.v1.Frames.rs"));
}

/// Frames of answers are cut at about this many bytes.
const FRAME: usize = 256 << 10;
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// HTTP/2 frames as large as they may be, so that a message is one.
const MAX_FRAME_SIZE: u32 = (1 << 24) - 1;
const MAX_MESSAGE: usize = 64 << 20;

/// Many requests: number, length and bytes of each key, one after the other.
#[derive(Debug)]
pub struct Questions(Bytes);

/// Many answers: number, length and bytes of each value.
#[derive(Debug)]
pub struct Answers(Vec<(u32, Bytes)>);

/// Frames without protobuf.
#[derive(Clone, Copy, Debug)]
pub struct FrameCodec<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for FrameCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// What can be a frame.
pub trait Frame: Send + Sized + 'static {
    /// How many bytes it will take.
    fn bytes(&self) -> usize;
    /// Writes it.
    fn write(self, to: &mut impl BufMut);
    /// Reads it from all of this. Parts of it share its memory.
    fn read(from: Bytes) -> Option<Self>;
}

impl Frame for Questions {
    fn bytes(&self) -> usize {
        self.0.len()
    }

    fn write(self, to: &mut impl BufMut) {
        to.put(self.0);
    }

    fn read(from: Bytes) -> Option<Self> {
        Some(Self(from))
    }
}

impl Frame for Answers {
    fn bytes(&self) -> usize {
        self.0.iter().map(|(_, value)| 8 + value.len()).sum()
    }

    fn write(self, to: &mut impl BufMut) {
        for (id, value) in self.0 {
            to.put_u32_le(id);
            to.put_u32_le(u32::try_from(value.len()).unwrap_or(u32::MAX));
            to.put(value);
        }
    }

    fn read(mut from: Bytes) -> Option<Self> {
        let mut answers = Vec::with_capacity(64);
        while from.has_remaining() {
            let (id, len) = (from.try_get_u32_le().ok()?, from.try_get_u32_le().ok()? as usize);
            answers.push((id, (len <= from.len()).then(|| from.split_to(len))?));
        }
        Some(Self(answers))
    }
}

impl Questions {
    /// The requests, one by one, up to the first that is cut short.
    fn each(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (id, len) = (rest.try_get_u32_le().ok()?, rest.try_get_u8().ok()?);
            let key;
            (key, rest) = rest.split_at_checked(usize::from(len))?;
            Some((id, key))
        })
    }
}

impl<E: Frame, D: Frame> Codec for FrameCodec<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: Frame, D: Send + 'static> Encoder for FrameCodec<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, frame: E, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(frame.bytes());
        frame.write(to);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(FRAME, FRAME)
    }
}

impl<E: Send + 'static, D: Frame> Decoder for FrameCodec<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let frame = from.copy_to_bytes(from.remaining());
        D::read(frame).map(Some).ok_or_else(|| Status::internal("a frame that is cut short"))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(FRAME, FRAME)
    }
}

/// The asking end. Clones share the stream.
#[derive(Clone, Debug)]
pub(super) struct Exchange(Arc<Desk>);

impl Remote for Exchange {
    async fn get(&self, key: &str) -> Result<Bytes> {
        let answer = self.0.ask(|batch, id| {
            batch.put_u32_le(id);
            batch.put_u8(u8::try_from(key.len()).unwrap_or(u8::MAX));
            batch.put_slice(key.as_bytes());
        });
        Ok(answer.await?)
    }
}

struct Batches(Arc<Desk>);

impl Stream for Batches {
    type Item = Questions;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Questions>> {
        self.0.poll_batch(cx).map(|batch| Some(Questions(batch.freeze())))
    }
}

/// Opens the stream.
pub(super) async fn connect(address: &str) -> Result<Exchange> {
    let channel: Channel = Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_SIZE)
        .tcp_nodelay(true)
        .connect()
        .await?;
    let mut client = FramesClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let desk = Arc::new(Desk::default());
    let mut answers = client.exchange(Batches(Arc::clone(&desk))).await?.into_inner();
    let exchange = Exchange(Arc::clone(&desk));
    tokio::spawn(async move {
        let mut hands = Hands::default();
        while let Ok(Some(Answers(frame))) = answers.message().await {
            desk.answer(frame, &mut hands);
        }
    });
    Ok(exchange)
}

struct Map(Arc<HashMap<Box<[u8]>, Bytes>>);

#[async_trait::async_trait]
impl Frames for Map {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<Answers, Status>> + Send>>;

    /// Answers each frame of requests where it arrives: no task, no wait.
    async fn exchange(
        &self,
        requests: Request<Streaming<Questions>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let map = Arc::clone(&self.0);
        let answers = requests.into_inner().flat_map(move |frame| futures::stream::iter(answers(&map, frame)));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// The answers to one frame of requests, in as few frames as their sizes allow.
fn answers(map: &HashMap<Box<[u8]>, Bytes>, frame: Result<Questions, Status>) -> Vec<Result<Answers, Status>> {
    let questions = match frame {
        Ok(questions) => questions,
        Err(status) => return vec![Err(status)],
    };
    let (mut frames, mut next, mut bytes) = (Vec::with_capacity(1), Vec::with_capacity(64), 0);
    for (id, key) in questions.each() {
        let Some(value) = map.get(key) else { return vec![Err(Status::not_found("no such key"))] };
        bytes += value.len();
        next.push((id, value.clone()));
        if bytes >= FRAME {
            frames.push(Ok(Answers(std::mem::take(&mut next))));
            bytes = 0;
        }
    }
    if !next.is_empty() {
        frames.push(Ok(Answers(next)));
    }
    frames
}

/// The other process.
pub(crate) async fn serve(orders: Orders) -> Result<()> {
    let service = FramesServer::new(Map(Arc::new(data::map()))).max_decoding_message_size(MAX_MESSAGE);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_SIZE)
        .add_service(service)
        .serve_with_incoming(incoming(listener));
    tokio::select! {
        end = server => Ok(end?),
        () = orders.ready(address) => Ok(()),
    }
}
