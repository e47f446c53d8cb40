//! What the form of the try-out sends. Its words are kept also when they are refused: nobody types
//! a prompt twice.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::Stream;

use super::super::super::{
    App, accept,
    error::ApiError,
    intake::{
        Draft, MAX_PROMPT_BYTES, MAX_REFERENCES, Place, ReferenceFolder, Text, form::Parts,
        invalid, is_quality, is_size, prompt, tidy, too_many, whole,
    },
};
use crate::{
    images::{self, Reference},
    queue,
    store::history::JobDetails,
};

/// Text fields beside the prompt are a word.
const MAX_WORD_BYTES: u64 = 64;
/// Pictures of one job.
const MAX_COUNT: u32 = 4;
/// The field of the pictures.
const REFERENCE: &str = "reference";

/// The words of the form.
pub(super) struct Values {
    pub(super) prompt: String,
    pub(super) size: String,
    pub(super) quality: String,
    pub(super) count: String,
    /// The id of a key.
    pub(super) key: String,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            size: "1024x1024".to_owned(),
            quality: "medium".to_owned(),
            count: "1".to_owned(),
            key: String::new(),
        }
    }
}

impl Values {
    /// Those of a job.
    pub(super) fn of(job: &JobDetails) -> Self {
        Self {
            prompt: job.prompt.clone(),
            size: job.size.clone(),
            quality: job.quality.clone(),
            count: job.count.to_string(),
            key: job.api_key_id.clone(),
        }
    }
}

/// A form that was read to its end.
pub(super) struct Sent {
    pub(super) values: Values,
    /// The job whose references are used again; empty for none.
    pub(super) again: String,
    /// What it asks for, or what is wrong with that.
    pub(super) draft: Result<Draft, ApiError>,
}

impl Sent {
    /// Reads a whole body; pictures are written to `folder`, which is removed where the form is
    /// refused. Fails where the body cannot be read to its end.
    pub(super) async fn read(
        app: &App,
        boundary: String,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        folder: PathBuf,
    ) -> Result<Self, ApiError> {
        let earlier = app.references_dir.clone();
        let runtime = tokio::runtime::Handle::current();
        // The whole of it on a thread that may wait for the disk.
        accept::on_blocking_thread(move || {
            let mut form = Form::new(&folder);
            let read = runtime.block_on(form.parts(boundary, body));
            tidy(&folder, read)?;
            let (values, again) = (form.values(), form.again.clone());
            let draft = tidy(&folder, form.draft(&values, &earlier));
            Ok(Self { values, again, draft })
        })
        .await
    }
}

struct Form {
    folder: ReferenceFolder,
    prompt: Option<Text>,
    size: String,
    quality: String,
    count: String,
    key: String,
    again: String,
    same_references: bool,
    references: Vec<Reference>,
    /// The first picture that won't do; the words behind it are still read.
    refused: Option<ApiError>,
}

impl Form {
    fn new(folder: &Path) -> Self {
        let Values { size, quality, count, .. } = Values::default();
        Self {
            folder: ReferenceFolder::new(folder),
            prompt: None,
            size,
            quality,
            count,
            key: String::new(),
            again: String::new(),
            same_references: false,
            references: Vec::new(),
            refused: None,
        }
    }

    async fn parts(
        &mut self,
        boundary: String,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), ApiError> {
        let mut parts = Parts::of(boundary, body);
        while let Some(mut part) = parts.next().await? {
            let word = match part.name() {
                "prompt" => {
                    self.prompt = Some(part.text("prompt", MAX_PROMPT_BYTES).await?);
                    continue;
                }
                REFERENCE if self.refused.is_none() => {
                    let place = self.place();
                    match part.picture(place, &mut self.folder).await {
                        Ok(picture) => self.references.extend(picture),
                        Err(
                            refused @ (ApiError::BadReference { .. } | ApiError::Invalid { .. }),
                        ) => {
                            self.refused = Some(refused);
                            part.skip().await?;
                        }
                        Err(error) => return Err(error),
                    }
                    continue;
                }
                "same_references" => {
                    self.same_references = true;
                    part.skip().await?;
                    continue;
                }
                "size" => &mut self.size,
                "quality" => &mut self.quality,
                "count" => &mut self.count,
                "key" => &mut self.key,
                "again" => &mut self.again,
                _ => {
                    part.skip().await?;
                    continue;
                }
            };
            part.text("form", MAX_WORD_BYTES).await?.value.trim().clone_into(word);
        }
        Ok(())
    }

    fn place(&self) -> Result<Place, ApiError> {
        if self.references.len() == MAX_REFERENCES {
            return Err(too_many(REFERENCE));
        }
        Ok(Place::at(REFERENCE, self.references.len()))
    }

    fn values(&self) -> Values {
        Values {
            prompt: self.prompt.as_ref().map(|text| text.value.clone()).unwrap_or_default(),
            size: self.size.clone(),
            quality: self.quality.clone(),
            count: self.count.clone(),
            key: self.key.clone(),
        }
    }

    fn draft(mut self, values: &Values, earlier: &Path) -> Result<Draft, ApiError> {
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        if self.same_references && queue::is_job_id(&self.again) {
            self.copy_references(&earlier.join(&self.again))?;
        }
        let prompt = prompt(self.prompt.take())?;
        if !is_size(&values.size) {
            return Err(invalid(
                "size",
                "'size' must be 'auto' or WIDTHxHEIGHT with 3 to 4 digits each, such as 1024x1024.",
            ));
        }
        if !is_quality(&values.quality) {
            return Err(invalid("quality", "'quality' must be low, medium, high or auto."));
        }
        let count = whole(&values.count)
            .filter(|count| (1..=MAX_COUNT).contains(count))
            .ok_or_else(|| invalid("count", "'count' must be an integer from 1 to 4."))?;
        if values.key.is_empty() {
            return Err(invalid("key", "'key' must be one of the keys that are enabled."));
        }
        Ok(Draft {
            prompt,
            size: values.size.clone(),
            quality: values.quality.clone(),
            background: "auto",
            output: None,
            end_user: None,
            count: if self.references.is_empty() { count } else { 1 },
            references: self.references,
            has_mask: false,
        })
    }

    /// The references of an earlier job, in their order; each is verified anew.
    fn copy_references(&mut self, from: &Path) -> Result<(), ApiError> {
        let entries = std::fs::read_dir(from).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        for name in names {
            let Ok(stored) = images::open(from, &name) else { continue };
            let place = self.place()?;
            let mut writer = self.folder.raw(&place)?;
            copy(stored.file, |portion| {
                writer.push(portion).map_err(|reason| place.refuse(&reason))
            })?;
            self.references.push(writer.finish().map_err(|reason| place.refuse(&reason))?);
        }
        Ok(())
    }
}

fn copy(
    mut file: File,
    mut push: impl FnMut(&[u8]) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let mut portion = vec![0; 64 * 1024];
    loop {
        match file.read(&mut portion) {
            Ok(0) => return Ok(()),
            Ok(length) => push(&portion[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::error!(%error, "an earlier reference could not be read");
                return Err(ApiError::Internal);
            }
        }
    }
}
