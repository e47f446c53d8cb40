//! The bare things that the routes are compared with: an axum route that says ok, and one that
//! reads a row by its index. The same hyper settings, the same runtime, nothing else.

use std::{convert::Infallible, net::SocketAddr, path::Path, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path as UrlPath, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio::{net::TcpListener, runtime::Runtime};
use tower::ServiceExt as _;

/// A running server; it ends with this value.
pub struct Bare {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Bare {
    /// `/health` says ok.
    pub fn health() -> Self {
        Self::serve(async {
            let answer =
                async || ([(header::CONTENT_TYPE, "application/json")], r#"{"status":"ok"}"#);
            Router::new().route("/health", get(answer))
        })
    }

    /// `/{id}` reads a job's row by its id and says it.
    pub fn poll(database: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(database).read_only(true);
        Self::serve(async {
            let pool = SqlitePoolOptions::new()
                .max_connections(2)
                .test_before_acquire(false)
                .connect_lazy_with(options);
            Router::new().route("/{id}", get(row)).with_state(pool)
        })
    }

    /// Where `path` is.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn serve(router: impl Future<Output = Router>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let address = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(accept(listener, router.await));
            address
        });
        Self { address, _runtime: runtime }
    }
}

async fn row(State(pool): State<SqlitePool>, UrlPath(id): UrlPath<String>) -> Response {
    let (id, state, created_at): (String, String, i64) =
        sqlx::query_as("SELECT id, state, created_at FROM jobs WHERE id = ?")
            .bind(id)
            .fetch_one(&pool)
            .await
            .unwrap();
    let body = format!(r#"{{"id":"{id}","status":"{state}","created_at":{created_at}}}"#);
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn accept(listener: TcpListener, router: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let router = router.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = router.clone().oneshot(request.map(Body::new));
            async move { answer.await.map_err(|never: Infallible| match never {}) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(30))
            .max_headers(128)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}
