//! The fields of the native routes, in any order.

use std::{io::Read, path::Path};

use struson::reader::ValueType;

use super::{
    Draft, MAX_PROMPT_BYTES, Place, ReferenceFolder, Text, invalid, is_quality, is_size,
    json::Json, prompt, tidy, whole,
};
use crate::{
    http::error::ApiError,
    images::{BadReference, Reference},
};

/// Text fields beside the prompt are a word.
const MAX_WORD_BYTES: u64 = 64;
/// Pictures of one job.
const MAX_COUNT: u32 = 4;

const LIST: &str = "reference_images_base64";
const SINGLE: &str = "reference_image_base64";

/// Reads a whole body; references are written to `folder`, which is made for the first of them.
/// On an error the folder is removed.
pub(in crate::http) fn read(body: impl Read, folder: &Path) -> Result<Draft, ApiError> {
    let mut fields = Fields::default();
    let mut references = ReferenceFolder::new(folder);
    let read = Json::read(body, |json, name| fields.member(json, name, &mut references));
    tidy(folder, read.and_then(|()| fields.check()))
}

#[derive(Default)]
struct Fields {
    prompt: Option<Text>,
    size: Option<Text>,
    quality: Option<Text>,
    count: Option<u32>,
    list: Option<Vec<Reference>>,
    single: Option<Reference>,
}

impl Fields {
    fn member(
        &mut self,
        json: &mut Json<impl Read>,
        name: &str,
        folder: &mut ReferenceFolder,
    ) -> Result<(), ApiError> {
        match name {
            "prompt" => self.prompt = Some(json.text("prompt", MAX_PROMPT_BYTES)?),
            "size" => self.size = Some(json.text("size", MAX_WORD_BYTES)?),
            "quality" => self.quality = Some(json.text("quality", MAX_WORD_BYTES)?),
            "count" => self.count = Some(count(json)?),
            LIST => self.list = references(json, folder)?,
            SINGLE => {
                // The old singular field may be empty.
                self.single = match json.peek()? {
                    ValueType::Null => json.null().map(|()| None)?,
                    ValueType::String => json.picture(folder, &Place::at(LIST, 0))?,
                    _ => return Err(invalid(SINGLE, "Must be a base64 string.")),
                };
            }
            _ => json.skip()?,
        }
        Ok(())
    }

    fn check(self) -> Result<Draft, ApiError> {
        let prompt = prompt(self.prompt)?;
        let size = self.size.map_or_else(|| "1024x1024".to_owned(), |text| text.value);
        if !is_size(&size) {
            return Err(invalid(
                "size",
                "'size' must be 'auto' or WIDTHxHEIGHT with 3 to 4 digits each, such as 1024x1024.",
            ));
        }
        let quality = self.quality.map_or_else(|| "medium".to_owned(), |text| text.value);
        if !is_quality(&quality) {
            return Err(invalid("quality", "'quality' must be low, medium, high or auto."));
        }
        // The list wins over the old singular field, unless it is empty.
        let references = match self.list {
            Some(list) if !list.is_empty() => list,
            _ => self.single.into_iter().collect(),
        };
        let count = if references.is_empty() { self.count.unwrap_or(1) } else { 1 };
        Ok(Draft {
            prompt,
            size,
            quality,
            background: "auto",
            output: None,
            end_user: None,
            count,
            references,
            has_mask: false,
        })
    }
}

fn references(
    json: &mut Json<impl Read>,
    folder: &mut ReferenceFolder,
) -> Result<Option<Vec<Reference>>, ApiError> {
    match json.peek()? {
        ValueType::Null => json.null().map(|()| None),
        ValueType::Array => {
            let mut list = Vec::new();
            json.items(LIST, |json, index| {
                if json.peek()? == ValueType::Null {
                    return Err(invalid(LIST, "Each item must be a base64 string."));
                }
                let place = Place::at(LIST, index);
                match json.picture(folder, &place)? {
                    Some(reference) => list.push(reference),
                    None => return Err(place.refuse(&BadReference::Empty)),
                }
                Ok(())
            })?;
            Ok(Some(list))
        }
        _ => Err(invalid(LIST, "Must be a list of base64 strings.")),
    }
}

/// An integer, also as `"2"` or `2.0`, as the original takes it.
fn count(json: &mut Json<impl Read>) -> Result<u32, ApiError> {
    let refused = || invalid("count", "'count' must be an integer from 1 to 4.");
    let digits = match json.peek()? {
        ValueType::Number => json.number()?,
        ValueType::String => json.text("count", MAX_WORD_BYTES)?.value.trim().to_owned(),
        _ => return Err(refused()),
    };
    whole(&digits).filter(|count| (1..=MAX_COUNT).contains(count)).ok_or_else(refused)
}

#[cfg(test)]
mod tests;
