//! What the form of the try-out sends. Its words are kept also when they are refused: nobody types
//! a prompt twice.

use std::{
    fs::{self, File},
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
        invalid, is_quality, is_size, prompt, too_many, whole,
    },
};
use crate::{
    images::{self, BadReference, Reference},
    names::is_job_id,
    store::{StoreError, details::JobDetails},
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

/// A form that was read to its end. Its pictures are removed unless a draft was made of it.
pub(super) struct Sent {
    folder: ReferenceFolder,
    path: PathBuf,
    prompt: Option<Text>,
    size: String,
    quality: String,
    count: String,
    key: String,
    /// The job that filled it; empty for none.
    again: String,
    /// The references of that job are to be used.
    same_references: bool,
    references: Vec<Reference>,
    /// The first picture that won't do; the words behind it are still read.
    refused: Option<ApiError>,
    is_drafted: bool,
}

impl Sent {
    /// Reads a whole body; pictures are written to `folder`. Fails where the body cannot be read to
    /// its end.
    pub(super) async fn read(
        boundary: String,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        folder: PathBuf,
    ) -> Result<Self, ApiError> {
        let runtime = tokio::runtime::Handle::current();
        // The whole of it on a thread that may wait for the disk.
        accept::on_blocking_thread(move || {
            let mut form = Self::new(folder);
            runtime.block_on(form.parts(boundary, body))?;
            Ok(form)
        })
        .await
    }

    fn new(path: PathBuf) -> Self {
        let Values { size, quality, count, .. } = Values::default();
        Self {
            folder: ReferenceFolder::new(&path),
            path,
            prompt: None,
            size,
            quality,
            count,
            key: String::new(),
            again: String::new(),
            same_references: false,
            references: Vec::new(),
            refused: None,
            is_drafted: false,
        }
    }

    /// The job that filled it, when there still is one.
    pub(super) async fn source(&self, app: &App) -> Result<Option<JobDetails>, StoreError> {
        if !is_job_id(&self.again) {
            return Ok(None);
        }
        app.store.job_details(&self.again).await
    }

    /// The files of the references that are to be used again, in their order.
    pub(super) async fn earlier(&self, app: &App) -> Result<Vec<(PathBuf, String)>, StoreError> {
        if !self.same_references || !is_job_id(&self.again) {
            return Ok(Vec::new());
        }
        let folder = app.references_dir.join(&self.again);
        let references = app.store.references_of(&self.again).await?.into_iter();
        let pictures = references.filter(|reference| !reference.is_mask);
        Ok(pictures.map(|reference| (folder.clone(), reference.file)).collect())
    }

    /// What it asks for, or what is wrong with that.
    pub(super) async fn draft(self, earlier: Vec<(PathBuf, String)>) -> Result<Draft, ApiError> {
        accept::on_blocking_thread(move || self.draft_here(&earlier)).await
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
                    // Browsers send a line's end as two characters, of which a caller sends one.
                    let mut text = part.text("prompt", 2 * MAX_PROMPT_BYTES).await?;
                    text.value = text.value.replace("\r\n", "\n");
                    self.prompt = Some(text);
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

    /// Its words.
    pub(super) fn values(&self) -> Values {
        Values {
            prompt: self.prompt.as_ref().map(|text| text.value.clone()).unwrap_or_default(),
            size: self.size.clone(),
            quality: self.quality.clone(),
            count: self.count.clone(),
            key: self.key.clone(),
        }
    }

    fn draft_here(mut self, earlier: &[(PathBuf, String)]) -> Result<Draft, ApiError> {
        let values = self.values();
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        for (folder, file) in earlier {
            self.copy_reference(folder, file)?;
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
        self.is_drafted = true;
        Ok(Draft {
            prompt,
            size: values.size,
            quality: values.quality,
            background: "auto",
            output: None,
            end_user: None,
            count: if self.references.is_empty() { count } else { 1 },
            references: std::mem::take(&mut self.references),
            has_mask: false,
        })
    }

    /// A reference of an earlier job; it is verified anew.
    fn copy_reference(&mut self, folder: &Path, file: &str) -> Result<(), ApiError> {
        let place = self.place()?;
        let stored =
            images::open(folder, file).map_err(|error| place.refuse(&BadReference::Io(error)))?;
        let mut writer = self.folder.raw(&place)?;
        copy(stored.file, |portion| writer.push(portion).map_err(|reason| place.refuse(&reason)))?;
        self.references.push(writer.finish().map_err(|reason| place.refuse(&reason))?);
        Ok(())
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if !self.is_drafted {
            // Also when it was never made. A file or five: done in a moment.
            let _ = fs::remove_dir_all(&self.path);
        }
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
