//! The try-out: a form that draws as any caller does, with the progress and the pictures below it.

mod sent;

use askama::Template;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Query, Request, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;

use self::sent::{Sent, Values};
use super::{
    super::{
        accept::{self, Admission},
        body::{self, declared_length},
        intake::form,
        trace::RequestNotes,
    },
    App,
    filter::Choice,
    job::{Picture, Progress, details},
    page::{Page, Place, html, see_other},
    session::Operator,
    texts::ENGLISH,
    trouble::Trouble,
};
use crate::{
    names::JobId,
    store::{api_keys::ApiKey, details::JobDetails},
};

/// Sizes that are offered; any other may be typed.
const SIZES: [&str; 6] = ["auto", "1024x1024", "1536x1024", "1024x1536", "2048x2048", "3840x2160"];
const QUALITIES: [&str; 4] = ["auto", "low", "medium", "high"];
/// Pictures of one job.
const COUNTS: [&str; 4] = ["1", "2", "3", "4"];

/// In bytes: a form without pictures, whose words are given back where it is refused.
const MOST_WORDS: u64 = 1024 * 1024;

/// `/admin/test` and where its form goes.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/admin/test", get(form_page))
        .route("/admin/test-generate", post(submit))
        // Ours counts while it streams, and comes after the session.
        .layer(DefaultBodyLimit::disable())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct About {
    /// The job that is shown below the form.
    job: String,
    /// The job that fills it.
    again: String,
}

#[derive(Template)]
#[template(path = "try_out.html")]
struct TryOutView {
    page: Page,
    prompt: String,
    size: String,
    sizes: [&'static str; 6],
    qualities: Vec<Choice>,
    counts: Vec<Choice>,
    keys: Vec<Choice>,
    /// The key of the form can be chosen; else another must be.
    has_chosen: bool,
    /// The job whose references can be used again, and those.
    again: Option<(String, Vec<Picture>)>,
    refused: Option<String>,
    progress: Option<Progress>,
}

async fn form_page(
    State(app): State<App>,
    _: Operator,
    Query(about): Query<About>,
) -> Result<Response, Trouble> {
    let shown = if about.job.is_empty() { None } else { Some(details(&app, &about.job).await?) };
    let filled =
        if about.again.is_empty() { None } else { Some(details(&app, &about.again).await?) };
    let values = filled.as_ref().or(shown.as_ref()).map(Values::of).unwrap_or_default();
    let source = filled.as_ref().or(shown.as_ref());
    html(StatusCode::OK, &view(&app, values, source, shown.as_ref(), None).await?)
}

async fn view(
    app: &App,
    values: Values,
    source: Option<&JobDetails>,
    shown: Option<&JobDetails>,
    refused: Option<String>,
) -> Result<TryOutView, Trouble> {
    let page = Page::new(app, Place::TryIt).of_worker(app).await;
    let keys = app.store.list_keys().await?;
    let mut again = None;
    if let Some(job) = source {
        let references = app.store.references_of(&job.id).await?.into_iter();
        // Without its mask: there is no field for one.
        let references: Vec<_> =
            references.filter(|reference| !reference.is_mask).map(Picture::from).collect();
        if !references.is_empty() {
            again = Some((job.id.clone(), references));
        }
    }
    let progress = match shown {
        Some(job) => Some(Progress::of(page.t, job, app.store.pictures_of(&job.id).await?)),
        None => None,
    };
    let is_open = progress.as_ref().is_some_and(|progress| progress.is_open);
    Ok(TryOutView {
        qualities: choices(&QUALITIES, &values.quality),
        counts: choices(&COUNTS, &values.count),
        has_chosen: values.key.is_empty()
            || keys.iter().any(|key| key.enabled && key.id == values.key),
        keys: keys.into_iter().filter(|key| key.enabled).map(|key| choice(key, &values)).collect(),
        prompt: values.prompt,
        size: values.size,
        sizes: SIZES,
        again,
        refused,
        progress,
        page: page.refreshing(is_open),
    })
}

fn choices(words: &[&str], chosen: &str) -> Vec<Choice> {
    let choice = |word: &&str| Choice {
        value: (*word).into(),
        text: (*word).into(),
        chosen: *word == chosen,
    };
    words.iter().map(choice).collect()
}

fn choice(key: ApiKey, values: &Values) -> Choice {
    // Isolated: a name that turns the direction of writing turns its own alone.
    let text = format!("\u{2068}{}\u{2069} ({})", key.name, key.handle);
    Choice { chosen: key.id == values.key, value: key.id, text }
}

async fn submit(
    State(app): State<App>,
    _: Operator,
    request: Request,
) -> Result<Response, Trouble> {
    let (parts, body) = request.into_parts();
    let notes = parts.extensions.get::<RequestNotes>().cloned();
    let Some(boundary) = form::boundary(&parts.headers) else {
        return Err(Trouble::Bad("A form of the type multipart/form-data is wanted.".to_owned()));
    };
    let boundary = boundary?;
    // Also where nothing is accepted now the words are read, to be given back.
    let (most, admission) = match Admission::of(&app, &parts.headers).await {
        Ok(admission) => (admission.most(), Ok(admission)),
        Err(refused) => match declared_length(&parts.headers, MOST_WORDS) {
            Ok(Some(length)) => (length, Err(refused)),
            _ => return Err(refused.into()),
        },
    };
    let id = JobId::fresh().to_string();
    let _upload = accept::upload(&app)?;
    let body = body::limited(body, most, app.counted());
    let sent = Sent::read(boundary, body, app.references_dir.join(&id)).await?;
    let earlier = sent.earlier(&app).await?;
    let (values, source) = (sent.values(), sent.source(&app).await?);
    let keys = app.store.list_keys().await?;
    if let (Some(notes), Some(key)) = (notes, keys.iter().find(|key| key.id == values.key)) {
        notes.set_key(&key.handle);
    }
    let entered = async {
        let admission = match admission {
            Ok(admission) => admission,
            Err(refused) => {
                // Its files go on a thread that may wait for the disk.
                let _ = tokio::task::spawn_blocking(move || drop(sent)).await;
                return Err(refused);
            }
        };
        let draft = sent.draft(earlier).await?;
        let hash = draft.hash("admin", &[]);
        let joining = admission.joining(hash);
        accept::enter(&app, accept::new_job(&app, &values.key, id, draft, joining)).await
    };
    match entered.await {
        Ok(id) => Ok(see_other(&app, &format!("/test?job={id}"))),
        Err(refused) => {
            let status = match refused.status() {
                // What the API calls an unknown key.
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => StatusCode::CONFLICT,
                StatusCode::BAD_REQUEST => StatusCode::UNPROCESSABLE_ENTITY,
                status => status,
            };
            let words = match status {
                StatusCode::CONFLICT => ENGLISH.key_is_gone.to_owned(),
                _ => refused.message(),
            };
            html(status, &view(&app, values, source.as_ref(), None, Some(words)).await?)
        }
    }
}
