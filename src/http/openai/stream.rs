//! A body that says something at intervals while it waits for what it is to say, so that nobody on
//! the way takes the connection for dead.

use std::{io, pin::Pin, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::stream;
use http_body_util::BodyExt as _;

use crate::images::{Base64Body, Segment};

/// Most proxies wait for a minute.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Waiting = Pin<Box<dyn Future<Output = Vec<Segment>> + Send>>;

enum State {
    /// Says a tick first, if so.
    Waiting(Waiting, bool),
    Telling(Base64Body),
}

/// Says `tick` at each `interval` until `segments` resolves, then these; `at_once`: the first tick
/// comes before anything is waited for.
pub(super) fn body(
    tick: &'static str,
    interval: Duration,
    at_once: bool,
    segments: impl Future<Output = Vec<Segment>> + Send + 'static,
) -> Body {
    let state = State::Waiting(Box::pin(segments), at_once);
    Body::from_stream(stream::unfold(state, move |mut state| async move {
        loop {
            match state {
                State::Waiting(waiting, true) => {
                    let tick = Bytes::from_static(tick.as_bytes());
                    return Some((Ok::<_, io::Error>(tick), State::Waiting(waiting, false)));
                }
                State::Waiting(mut waiting, false) => {
                    state = match tokio::time::timeout(interval, waiting.as_mut()).await {
                        Ok(segments) => State::Telling(Base64Body::new(segments)),
                        Err(_) => State::Waiting(waiting, true),
                    };
                }
                State::Telling(mut body) => {
                    return match body.frame().await? {
                        Ok(frame) => {
                            let portion = frame.into_data().unwrap_or_default();
                            Some((Ok(portion), State::Telling(body)))
                        }
                        Err(error) => Some((Err(error), State::Telling(body))),
                    };
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(at_once: bool, after: Duration) -> String {
        let segments = async move {
            tokio::time::sleep(after).await;
            vec![Segment::Text(Bytes::from_static(b"end"))]
        };
        let body = body("-", Duration::from_secs(10), at_once, segments);
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_ticks_until_there_is_something_to_say() {
        assert_eq!(said(false, Duration::from_secs(1)).await, "end");
        assert_eq!(said(false, Duration::from_secs(35)).await, "---end");
        assert_eq!(said(true, Duration::from_secs(25)).await, "---end");
    }
}
