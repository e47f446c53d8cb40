//! A body that says something at intervals while it waits for what it is to say, so that nobody on
//! the way takes the connection for dead.

use std::{io, pin::Pin, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::BodyExt as _;

use crate::images::{Base64Body, Segment};

/// Most proxies wait for a minute.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What is to be said, part by part.
type Parts = Pin<Box<dyn Stream<Item = Vec<Segment>> + Send>>;

enum State {
    /// Says a tick first, if so.
    Waiting(Parts, bool),
    Telling(Base64Body, Parts),
}

/// Says the `parts` as they come, and `tick` at each `interval` in which none does; `at_once`: the
/// first tick comes before anything is waited for.
pub(super) fn body(
    tick: &'static str,
    interval: Duration,
    at_once: bool,
    parts: impl Stream<Item = Vec<Segment>> + Send + 'static,
) -> Body {
    let state = State::Waiting(Box::pin(parts), at_once);
    Body::from_stream(stream::unfold(state, move |mut state| async move {
        loop {
            state = match state {
                State::Waiting(parts, true) => {
                    let tick = Bytes::from_static(tick.as_bytes());
                    return Some((Ok::<_, io::Error>(tick), State::Waiting(parts, false)));
                }
                State::Waiting(mut parts, false) => {
                    match tokio::time::timeout(interval, parts.next()).await {
                        Ok(Some(segments)) => State::Telling(Base64Body::new(segments), parts),
                        Ok(None) => return None,
                        Err(_) => State::Waiting(parts, true),
                    }
                }
                State::Telling(mut body, parts) => match body.frame().await {
                    None => State::Waiting(parts, false),
                    Some(Ok(frame)) => {
                        let portion = frame.into_data().unwrap_or_default();
                        return Some((Ok(portion), State::Telling(body, parts)));
                    }
                    Some(Err(error)) => return Some((Err(error), State::Telling(body, parts))),
                },
            };
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(at_once: bool, after: Duration) -> String {
        let parts = stream::iter(["part", "end"]).then(move |text| async move {
            tokio::time::sleep(after).await;
            vec![Segment::Text(Bytes::from_static(text.as_bytes()))]
        });
        let body = body("-", Duration::from_secs(10), at_once, parts);
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_ticks_until_there_is_something_to_say() {
        assert_eq!(said(false, Duration::from_secs(1)).await, "partend");
        assert_eq!(said(false, Duration::from_secs(35)).await, "---part---end");
        assert_eq!(said(true, Duration::from_secs(25)).await, "---part--end");
    }
}
