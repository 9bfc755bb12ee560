//! Loaders: the user's code that fills a miss from the source of truth.
//!
//! A closure is a [`Loader`]; so is anything that implements the trait. A [`BatchLoader`] takes many keys in one call.
//! Inside, both are a [`Load`]: called with a list of keys, and never panicking, whatever the user's code does.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::error::{BoxError, LoadError};
use crate::key::{AsKey, HashedKey, Key};
use crate::tags::TagHash;

/// What a load found out: a value, perhaps with its own time to live, or that there is none.
///
/// A loader rarely names it: a value `V` and an `Option<V>` turn into one by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<V> {
    pub(crate) value: Option<V>,
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) refresh_after: Option<Duration>,
    pub(crate) tags: Vec<TagHash>,
}

impl<V> Loaded<V> {
    /// A value.
    #[must_use]
    pub fn value(value: V) -> Self {
        Self::from(Some(value))
    }

    /// "There is none": callers get [`Error::NotFound`](crate::Error::NotFound) (or `None`), and it is remembered for a
    /// while.
    #[must_use]
    pub fn none() -> Self {
        Self::from(None)
    }

    /// How long this one may be kept, instead of as long as the group says. Zero: not at all; who waits for it gets it.
    #[must_use]
    pub fn time_to_live(mut self, life: Duration) -> Self {
        self.time_to_live = Some(life);
        self
    }

    /// After how long this one is refreshed, instead of after as long as
    /// [the group says](crate::GroupBuilder::refresh_after). If that is no less than its time to live, it is not
    /// refreshed, but loaded again once it has expired.
    #[must_use]
    pub fn refresh_after(mut self, age: Duration) -> Self {
        self.refresh_after = Some(age);
        self
    }

    /// Tags this one: [`Group::remove_tag`](crate::Group::remove_tag) takes out everything that bears the tag, on every
    /// node. For values that are made of something that many keys share: all pages of a team, say. What "there is none"
    /// was found out from can be tagged, too.
    ///
    /// A tag is text or bytes, as a key is. It travels with every copy, as a hash of 8 bytes: a few tags are cheap. A
    /// value of more than 64 is taken out by the removal of any tag.
    ///
    /// ```
    /// # use peerage::Loaded;
    /// let page = Loaded::value("<h1>Ada</h1>").tag("team:7").tag("user:42");
    /// ```
    #[must_use]
    pub fn tag(self, tag: &(impl AsKey + ?Sized)) -> Self {
        self.tags([tag.as_key()])
    }

    /// Tags this one with several: see [`tag`](Self::tag).
    #[must_use]
    pub fn tags<T: AsKey>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags.extend(tags.into_iter().map(|tag| TagHash::of(tag.as_key())));
        self
    }
}

impl<V> From<V> for Loaded<V> {
    fn from(value: V) -> Self {
        Self::value(value)
    }
}

impl<V> From<Option<V>> for Loaded<V> {
    fn from(value: Option<V>) -> Self {
        Self { value, time_to_live: None, refresh_after: None, tags: Vec::new() }
    }
}

/// Fills a miss from the source of truth. Runs only where the key is owned (or where its owner is stood in for).
///
/// A closure `Fn(Key) -> Future<Output = Result<T, E>>` is one, with `T` a value, an `Option` of it, or a [`Loaded`],
/// and `E` any error. Implement the trait for a loader with a name and a state.
///
/// **Cancellation.** A load is not cancelled when its callers leave. The future is dropped when the group's
/// `load_timeout` has passed or the node's shutdown limit has; it must leave nothing half-done behind then, as any
/// future.
///
/// ```
/// use peerage::{BoxError, Key, Loaded, Loader};
///
/// struct Files(std::path::PathBuf);
///
/// impl Loader<Vec<u8>> for Files {
///     async fn load(&self, key: Key) -> Result<Loaded<Vec<u8>>, BoxError> {
///         let name = key.as_str().ok_or("a file's name is text")?;
///         match tokio::fs::read(self.0.join(name)).await {
///             Ok(bytes) => Ok(Loaded::value(bytes)),
///             Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Loaded::none()),
///             Err(error) => Err(error.into()),
///         }
///     }
/// }
/// ```
pub trait Loader<V>: Send + Sync + 'static {
    /// Loads the value of `key`.
    fn load(&self, key: Key) -> impl Future<Output = Result<Loaded<V>, BoxError>> + Send;
}

impl<V, F, Fut, T, E> Loader<V> for F
where
    V: Send,
    F: Fn(Key) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send,
    T: Into<Loaded<V>>,
    E: Into<BoxError>,
{
    async fn load(&self, key: Key) -> Result<Loaded<V>, BoxError> {
        self(key).await.map(Into::into).map_err(Into::into)
    }
}

/// Fills many misses in one call, so that a hundred misses are one query.
///
/// A closure `Fn(Vec<Key>) -> Future<Output = Result<I, E>>` is one, with `I` a `HashMap<Key, T>` or anything else that
/// yields pairs of a key and what was found. Keys that are missing from the result are "there is none"; keys that were
/// not asked for are ignored. A call that fails fails all its keys: one of them alone cannot fail.
///
/// Misses that arrive together become one call; a miss that arrives alone does not wait for others. Give it to
/// [`GroupBuilder::batch_loader`](crate::GroupBuilder::batch_loader).
pub trait BatchLoader<V>: Send + Sync + 'static {
    /// Loads the values of `keys`, which are distinct.
    fn load_many(&self, keys: Vec<Key>) -> impl Future<Output = Result<HashMap<Key, Loaded<V>>, BoxError>> + Send;
}

impl<V, F, Fut, I, T, E> BatchLoader<V> for F
where
    V: Send,
    F: Fn(Vec<Key>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<I, E>> + Send,
    I: IntoIterator<Item = (Key, T)>,
    T: Into<Loaded<V>>,
    E: Into<BoxError>,
{
    async fn load_many(&self, keys: Vec<Key>) -> Result<HashMap<Key, Loaded<V>>, BoxError> {
        let found = self(keys).await.map_err(Into::into)?;
        Ok(found.into_iter().map(|(key, value)| (key, value.into())).collect())
    }
}

/// What a load of one key ended with.
pub(crate) type LoadResult<V> = Result<Loaded<V>, LoadError>;

/// A loader of either kind, erased.
pub(crate) trait Load<V>: Send + Sync {
    /// Loads all `keys` (distinct, at least one): one result for each, in their order. Does not panic.
    fn load(&self, keys: Vec<Key>) -> BoxFuture<'_, Vec<LoadResult<V>>>;

    /// How many keys one call takes.
    fn per_call(&self) -> usize;
}

/// A [`Loader`] as a [`Load`] of one key a call.
pub(crate) struct One<L>(pub(crate) L);

impl<V: Send + 'static, L: Loader<V>> Load<V> for One<L> {
    fn load(&self, mut keys: Vec<Key>) -> BoxFuture<'_, Vec<LoadResult<V>>> {
        debug_assert_eq!(keys.len(), 1, "one key a call");
        let Some(key) = keys.pop() else { return async { Vec::new() }.boxed() };
        async move { vec![unpanicked(async || self.0.load(key).await).await] }.boxed()
    }

    fn per_call(&self) -> usize {
        1
    }
}

/// A [`BatchLoader`] as a [`Load`] of so many keys a call.
pub(crate) struct Batch<L> {
    pub(crate) loader: L,
    pub(crate) per_call: usize,
}

impl<V: Send + 'static, L: BatchLoader<V>> Load<V> for Batch<L> {
    fn load(&self, keys: Vec<Key>) -> BoxFuture<'_, Vec<LoadResult<V>>> {
        async move {
            match unpanicked(async || self.loader.load_many(keys.clone()).await).await {
                Ok(mut found) => keys.iter().map(|key| Ok(found.remove(key).unwrap_or_else(Loaded::none))).collect(),
                Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
            }
        }
        .boxed()
    }

    fn per_call(&self) -> usize {
        self.per_call
    }
}

/// Runs the user's code; a panic in it, when called or when polled, becomes an error and nothing else.
async fn unpanicked<T, F: Future<Output = Result<T, BoxError>>>(call: impl FnOnce() -> F) -> Result<T, LoadError> {
    // Unwind safety: the future is dropped right here, and what it shares with the world is the user's to keep whole.
    let outcome = AssertUnwindSafe(async move { call().await.map_err(LoadError::wrap) }).catch_unwind().await;
    match outcome {
        Ok(result) => result,
        Err(panic) => Err(panicked(&*panic)),
    }
}

/// The error that a panic of the user's code is.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> LoadError {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    LoadError::new(format!("the loader panicked: {}", text.unwrap_or("(no message)")))
}

/// Which loads a task runs inside of. A get from inside a loader finds it, so that it takes no second permit, and does
/// not wait for itself.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) group: u64,
    pub(crate) keys: Vec<HashedKey>,
    /// The loads that these were asked for from inside of.
    pub(crate) outer: Vec<Arc<Inside>>,
}

tokio::task_local! {
    static INSIDE: Arc<Inside>;
}

impl Inside {
    /// A load on another node, of which nothing is known here but that it waits.
    pub(crate) fn of_a_peer() -> Arc<Self> {
        Arc::new(Self { group: 0, keys: Vec::new(), outer: Vec::new() })
    }

    /// The loads that the current task runs inside of, if any. (A task that a loader spawns is a task of its own.)
    pub(crate) fn current() -> Option<Arc<Self>> {
        INSIDE.try_with(Arc::clone).ok()
    }

    /// Runs `load` as the load of these keys.
    pub(crate) async fn scope<T>(self: Arc<Self>, load: impl Future<Output = T>) -> T {
        INSIDE.scope(self, load).await
    }

    /// Whether `key` of `group` is being loaded here, or by a load that this one was asked for from inside of.
    pub(crate) fn loads(&self, group: u64, key: &[u8]) -> bool {
        let here = self.group == group && self.keys.iter().any(|own| own.key.as_bytes() == key);
        here || self.outer.iter().any(|outer| outer.loads(group, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn one<V: Send + 'static>(loader: impl Loader<V>) -> LoadResult<V> {
        One(loader).load(vec![Key::new("k")]).await.pop().unwrap()
    }

    #[tokio::test]
    async fn a_closure_may_return_a_value_an_option_or_more() {
        let io = |value: &str| Ok::<_, std::io::Error>(value.to_string());
        assert_eq!(one::<String>(move |_| async move { io("v") }).await.unwrap(), Loaded::value("v".into()));
        assert_eq!(one::<String>(|_| async { Ok::<_, BoxError>(None) }).await.unwrap(), Loaded::none());
        let brief = || Loaded::value(1).time_to_live(Duration::from_secs(1));
        assert_eq!(one::<u32>(move |_| async move { Ok::<_, BoxError>(brief()) }).await.unwrap(), brief());
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_nothing_else() {
        #[expect(clippy::unreachable, reason = "a panic before there is a future")]
        let at_once = |_| -> std::future::Ready<Result<u32, BoxError>> { unreachable!("at once") };
        let error = one::<u32>(at_once).await.unwrap_err();
        assert!(error.message().contains("at once"), "{error}");
    }

    #[tokio::test]
    async fn a_batch_answers_for_each_key_that_was_asked() {
        let loader = |keys: Vec<Key>| async move {
            assert_eq!(keys.len(), 2);
            Ok::<_, BoxError>(vec![(Key::new("b"), 2), (Key::new("not asked"), 9)])
        };
        let batch = Batch { loader, per_call: 10 };
        let results: Vec<LoadResult<i32>> = batch.load(vec![Key::new("a"), Key::new("b")]).await;
        assert_eq!(results[0].as_ref().unwrap(), &Loaded::none());
        assert_eq!(results[1].as_ref().unwrap(), &Loaded::value(2));
    }
}
