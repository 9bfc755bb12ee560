//! Ends of an exchange that a test plays by hand, frame by frame, with the generated messages.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures::future::{Ready, ready};
use futures::stream::{self, BoxStream, StreamExt as _};
use prost::encoding::{DecodeContext, WireType, skip_field};
use prost::{DecodeError, Message};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::super::EXCHANGE_PATH;
use super::messages::terms;
use super::net::{accepted, soon};
use crate::batch::SLICE_BYTES;
use crate::wire::proto::{self, AnswerFrame, AskFrame};

/// The asking end.
pub(super) struct RawClient {
    asks: mpsc::UnboundedSender<AskFrame>,
    answers: Streaming<AnswerFrame>,
    channel: Channel,
}

impl RawClient {
    /// A client whose HTTP/2 takes so many bytes without its reading.
    pub(super) async fn connect(address: &str, window: u32) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let endpoint = endpoint.initial_stream_window_size(window).initial_connection_window_size(window);
        Self::on(soon(endpoint.connect()).await.expect("it listens")).await
    }

    async fn on(channel: Channel) -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        let body = stream::unfold(asked, |mut asked| async { asked.recv().await.map(|frame| (frame, asked)) });
        let mut client = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
        client.ready().await.expect("connected");
        let codec: ProstCodec<AskFrame, AnswerFrame> = ProstCodec::default();
        let streaming = client.streaming(Request::new(body), PathAndQuery::from_static(EXCHANGE_PATH), codec);
        Self { asks, answers: soon(streaming).await.expect("it exchanges").into_inner(), channel }
    }

    /// Another exchange on the same connection.
    pub(super) async fn again(&self) -> Self {
        Self::on(self.channel.clone()).await
    }

    pub(super) fn send(&self, frame: AskFrame) {
        self.asks.send(frame).expect("the stream's body is there");
    }

    pub(super) async fn next(&mut self) -> Result<Option<AnswerFrame>, Status> {
        soon(self.answers.message()).await
    }

    /// The next responses, however many frames they come in.
    pub(super) async fn responses(&mut self, count: usize) -> Vec<proto::Response> {
        let mut responses = Vec::new();
        while responses.len() < count {
            let frame = self.next().await.expect("the stream goes on").expect("the stream goes on");
            responses.extend(frame.responses);
        }
        assert_eq!(responses.len(), count);
        responses
    }

    /// Asks nothing more, and goes on reading.
    pub(super) fn half_close(&mut self) {
        self.asks = mpsc::unbounded_channel().0;
    }

    /// How the stream ends, whatever comes before.
    pub(super) async fn end(mut self) -> Result<(), Status> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}

/// Sends any bytes as a frame, on another exchange of the client's connection; and how that ends.
pub(super) async fn send_bytes(client: &RawClient, frame: Bytes) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.expect("connected");
    let body = stream::iter([Bare(frame)]).chain(stream::pending());
    let codec: ProstCodec<Bare, AnswerFrame> = ProstCodec::default();
    let answers = grpc.streaming(Request::new(body), PathAndQuery::from_static(EXCHANGE_PATH), codec).await?;
    let mut answers = answers.into_inner();
    while soon(answers.message()).await?.is_some() {}
    Ok(())
}

/// A message of bytes that are sent as they are.
#[derive(Clone, Debug, Default)]
struct Bare(Bytes);

impl Message for Bare {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {}
}

/// A question with an id.
pub(super) fn question(id: u64, key: &[u8]) -> proto::Question {
    proto::Question { id, key: Bytes::copy_from_slice(key), ..proto::Question::default() }
}

/// A frame of questions for keys of the usual group.
pub(super) fn questions(questions: Vec<proto::Question>) -> AskFrame {
    let terms = terms();
    let gets = proto::Gets { group: terms.group.to_string(), schema: terms.schema, nested: false, questions };
    AskFrame { gets: vec![gets], ..AskFrame::default() }
}

/// An insert whose value, of so many bytes, is to come in slices; or comes with it, if there are none.
pub(super) fn insert_call(id: u64, sliced: usize) -> proto::Call {
    let removal = proto::RemovalId { origin: "a".into(), incarnation: 1, number: 1 };
    let insert = proto::InsertRequest { id: Some(removal), group: "users".into(), ..Default::default() };
    proto::Call { id, call: Some(proto::call::Call::Insert(insert)), sliced: sliced as u64 }
}

pub(super) fn remove_call(id: u64) -> proto::Call {
    let removal = proto::RemovalId { origin: "a".into(), incarnation: 1, number: 1 };
    let scope = Some(proto::remove_request::Scope::WholeGroup(proto::WholeGroup {}));
    let remove = proto::RemoveRequest { id: Some(removal), group: "users".into(), scope, ..Default::default() };
    proto::Call { id, call: Some(proto::call::Call::Remove(remove)), sliced: 0 }
}

/// A value's slices.
pub(super) fn slices(id: u64, value: &Bytes) -> impl Iterator<Item = proto::Slice> + use<> {
    let mut rest = value.clone();
    std::iter::from_fn(move || {
        (!rest.is_empty()).then(|| proto::Slice { id, bytes: rest.split_to(rest.len().min(SLICE_BYTES)) })
    })
}

/// A response with a value that is in it, or of which so many bytes are to come in slices.
pub(super) fn value_response(id: u64, value: Bytes, sliced: usize) -> proto::Response {
    let value = proto::Value { value, ..Default::default() };
    let answer = proto::Answer { outcome: Some(proto::answer::Outcome::Value(value)), held_us: 0 };
    let response = Some(proto::response::Response::Answer(answer));
    proto::Response { id, response, sliced: sliced as u64 }
}

/// The answering end: what its clients ask, and where to put what they are answered.
pub(super) struct RawServer {
    pub(super) address: Arc<str>,
    exchanges: mpsc::UnboundedReceiver<RawExchange>,
}

/// One exchange with a client.
pub(super) struct RawExchange {
    asked: Streaming<AskFrame>,
    answers: mpsc::UnboundedSender<Result<AnswerFrame, Status>>,
}

impl RawServer {
    /// A server whose HTTP/2 takes so many bytes without its reading.
    pub(super) async fn start(window: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string().into();
        let (tell, exchanges) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let server = tonic::transport::Server::builder()
                .initial_stream_window_size(window)
                .initial_connection_window_size(window);
            server.serve_with_incoming(Playing(tell), accepted(listener)).await.expect("it serves");
        });
        Self { address, exchanges }
    }

    pub(super) async fn exchange(&mut self) -> RawExchange {
        soon(self.exchanges.recv()).await.expect("the server is there")
    }
}

impl RawExchange {
    pub(super) fn send(&self, frame: AnswerFrame) {
        self.answers.send(Ok(frame)).expect("the stream's body is there");
    }

    pub(super) async fn next(&mut self) -> Option<AskFrame> {
        soon(self.asked.message()).await.ok().flatten()
    }

    /// The next questions, however many frames they come in.
    pub(super) async fn questions(&mut self, count: usize) -> Vec<proto::Question> {
        let mut questions = Vec::new();
        while questions.len() < count {
            let frame = self.next().await.expect("the stream goes on");
            questions.extend(frame.gets.into_iter().flat_map(|gets| gets.questions));
        }
        assert_eq!(questions.len(), count);
        questions
    }
}

#[derive(Clone)]
struct Playing(mpsc::UnboundedSender<RawExchange>);

impl StreamingService<AskFrame> for Playing {
    type Response = AnswerFrame;
    type ResponseStream = BoxStream<'static, Result<AnswerFrame, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, asked: Request<Streaming<AskFrame>>) -> Self::Future {
        let (answers, answered) = mpsc::unbounded_channel();
        // A test that has ended wants no more of them.
        let _ = self.0.send(RawExchange { asked: asked.into_inner(), answers });
        let body =
            stream::unfold(answered, |mut answered| async { answered.recv().await.map(|frame| (frame, answered)) });
        ready(Ok(Response::new(body.boxed())))
    }
}

impl Service<http::Request<Body>> for Playing {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let playing = self.clone();
        Box::pin(async move {
            let codec: ProstCodec<AnswerFrame, AskFrame> = ProstCodec::default();
            let mut grpc = tonic::server::Grpc::new(codec).apply_max_message_size_config(Some(usize::MAX), None);
            Ok(grpc.streaming(playing, request).await)
        })
    }
}

impl NamedService for Playing {
    const NAME: &'static str = "peerage.v1.Peerage";
}
