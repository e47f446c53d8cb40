//! The gallery: the pictures that are still there, newest first.

use askama::Template;
use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::get,
};

use super::{
    App,
    filter::{FilterForm, FilterQuery},
    history::{Paging, form},
    page::{Page, Place, html},
    session::Operator,
    show::When,
    trouble::Trouble,
};
use crate::store::jobs::JobState;

/// Jobs on a page; most have one picture.
const PAGE: u32 = 36;

/// `/admin/gallery`.
pub(super) fn router() -> Router<App> {
    Router::new().route("/admin/gallery", get(gallery))
}

/// A picture and the job that it is of.
struct Tile {
    job: String,
    file: String,
    /// Hostile.
    prompt: String,
    created: When,
}

#[derive(Template)]
#[template(path = "gallery.html")]
struct GalleryView {
    page: Page,
    filter: FilterForm,
    tiles: Vec<Tile>,
    paging: Paging,
}

async fn gallery(
    State(app): State<App>,
    _: Operator,
    Query(query): Query<FilterQuery>,
) -> Result<Response, Trouble> {
    let (mut filter, before) = query.read()?;
    // No other job has pictures.
    filter.state = Some(JobState::Succeeded);
    let found = app.store.history(&filter, before, PAGE).await?;
    let page = Page::new(&app, Place::Gallery);
    let mut form = form(&app, &query).await?;
    form.states.clear();
    let paging = Paging::of(page.t, &found, before, "gallery");
    let tiles = found.rows.iter().flat_map(|row| {
        row.files().map(|file| Tile {
            job: row.id.clone(),
            file: file.to_owned(),
            prompt: row.prompt.clone(),
            created: When(row.created_at),
        })
    });
    html(StatusCode::OK, &GalleryView { tiles: tiles.collect(), page, filter: form, paging })
}
