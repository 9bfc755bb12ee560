//! Nodes' handlers for tests.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, join_all};
use tokio::sync::mpsc;

use super::messages::{hello_of, sender};
use super::net::{Net, Node};
use crate::key::Key;
use crate::message::{After, Answer, Ask, Get, GetMany, Outcome, Refusal, Reply, Request};
use crate::transport::Handler;

pub(super) struct Handling<F>(F);

impl<F> Handler for Handling<F>
where
    F: Fn(Request) -> BoxFuture<'static, Result<Reply, Refusal>> + Send + Sync + 'static,
{
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        self.0(request)
    }
}

pub(super) fn handling<F>(handle: F) -> Arc<dyn Handler>
where
    F: Fn(Request) -> BoxFuture<'static, Result<Reply, Refusal>> + Send + Sync + 'static,
{
    Arc::new(Handling(handle))
}

pub(super) fn replying(reply: impl Fn(Request) -> Result<Reply, Refusal> + Send + Sync + 'static) -> Arc<dyn Handler> {
    handling(move |request| std::future::ready(reply(request)).boxed())
}

/// A node that never answers, and what it tells of its requests: `begun`, `given up`.
pub(super) async fn never_answering(net: &Net) -> (Node, mpsc::UnboundedReceiver<&'static str>) {
    let (tell, events) = mpsc::unbounded_channel();
    let node = net.serve(handling(move |_| {
        let tell = tell.clone();
        async move {
            let _ = tell.send("begun");
            let _guard = GivenUp(tell);
            std::future::pending().await
        }
        .boxed()
    }));
    (node.await, events)
}

pub(super) struct GivenUp(mpsc::UnboundedSender<&'static str>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        let _ = self.0.send("given up");
    }
}

pub(super) fn fitting_reply(ask: &Ask) -> Reply {
    let nothing = || Answer { outcome: Outcome::NotFound, held: Duration::ZERO };
    match ask {
        Ask::Hello(_) => Reply::Hello(hello_of(&sender("b"), false)),
        Ask::Get(_) => Reply::Get(nothing()),
        Ask::GetMany(get) => Reply::GetMany(get.keys.iter().map(|_| nothing()).collect()),
        Ask::Remove(_) => Reply::Remove(None),
        Ask::Insert(_) => Reply::Insert { stored: true, ack: None },
    }
}

/// Has keys answered one by one, however they were asked for.
pub(super) fn answering<F>(answer: F) -> Arc<dyn Handler>
where
    F: Fn(Get) -> BoxFuture<'static, Result<Answer, Refusal>> + Send + Sync + 'static,
{
    handling(move |request| match request.ask {
        Ask::Get(get) => answer(get).map(|answer| Ok(Reply::Get(answer?))).boxed(),
        Ask::GetMany(GetMany { terms, keys }) => {
            let gets = keys.into_iter().map(|key| answer(Get { terms: terms.clone(), key, after: After::default() }));
            let answers = join_all(gets);
            async move { Ok(Reply::GetMany(answers.await.into_iter().collect::<Result<_, _>>()?)) }.boxed()
        }
        ask => std::future::ready(Ok(fitting_reply(&ask))).boxed(),
    })
}

/// The same for answers that are there at once.
pub(super) fn answering_now(
    answer: impl Fn(&Key) -> Result<Answer, Refusal> + Send + Sync + 'static,
) -> Arc<dyn Handler> {
    answering(move |get| std::future::ready(answer(&get.key)).boxed())
}
