//! The driver's HTTP client: one request, one answer, within limits. Connections are kept alive.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use crate::way::Way;

/// The most that a request may take. peerage's own limits are shorter, so this one is for services that hang.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// The largest body that is read.
const BODY_LIMIT: usize = 64 << 10;

#[derive(Clone, Debug)]
pub(crate) struct Web {
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// What a service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// How the service came by it, if it says so.
    pub(crate) way: Option<Way>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.body.trim_ascii())
    }
}

impl Web {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// Fails if there is no answer; an answer of any status is one.
    pub(crate) async fn get(&self, service: SocketAddr, path: &str) -> Result<Answer> {
        let uri = Uri::builder().scheme("http").authority(service.to_string()).path_and_query(path).build()?;
        timeout(REQUEST_LIMIT, self.get_uri(uri))
            .await
            .with_context(|| format!("no answer within {REQUEST_LIMIT:?}"))?
    }

    async fn get_uri(&self, uri: Uri) -> Result<Answer> {
        let (head, body) = self.client.get(uri).await?.into_parts();
        let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        let way = head.headers.get(Way::HEADER).and_then(|way| Way::from_header(way.to_str().ok()?));
        Ok(Answer { status: head.status, way, body })
    }
}
