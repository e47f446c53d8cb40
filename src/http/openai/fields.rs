//! What an OpenAI client may ask, in whatever packing it came: each field checked, what Codex
//! cannot do told apart from what is wrong.

use std::path::Path;

use super::super::{
    error::ApiError,
    intake::{
        Draft, MAX_PROMPT_BYTES, MAX_REFERENCES, Place, ReferenceFolder, Text, invalid, is_size,
        json::Scalar, prompt, too_many, whole,
    },
};
use crate::images::{Format, Output, Reference};

/// Fields beside the prompt are a word or a number.
const MAX_WORD_BYTES: u64 = 128;
/// The caller's word for a user.
const MAX_USER_BYTES: u64 = 512;

/// Which of the two routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Generations,
    Edits,
}

impl Route {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Generations => "generations",
            Self::Edits => "edits",
        }
    }
}

/// How the pictures travel back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseFormat {
    B64Json,
    Url,
}

/// What is asked of the answer and says nothing about the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) response_format: ResponseFormat,
    pub(super) stream: bool,
    /// The size as it was asked for.
    pub(super) size: String,
    pub(super) quality: String,
    pub(super) background: &'static str,
    pub(super) format: Format,
    /// Fields that were given and are not honoured.
    pub(super) ignored: Vec<&'static str>,
}

/// A request as it is being read.
pub(super) struct Fields {
    route: Route,
    /// Pictures of one request, at most.
    max_n: u32,
    folder: ReferenceFolder,
    prompt: Option<Text>,
    words: Vec<(&'static str, String)>,
    pub(super) images: Vec<Reference>,
    pub(super) mask: Option<Reference>,
    /// Pictures that the route does not take.
    passed_over: Vec<&'static str>,
}

/// Every field that is a word, a number or a truth value, and how long it may be.
const WORDS: [(&str, u64); 19] = [
    ("prompt", MAX_PROMPT_BYTES),
    ("model", MAX_WORD_BYTES),
    ("n", MAX_WORD_BYTES),
    ("size", MAX_WORD_BYTES),
    ("quality", MAX_WORD_BYTES),
    ("background", MAX_WORD_BYTES),
    ("output_format", MAX_WORD_BYTES),
    ("output_compression", MAX_WORD_BYTES),
    ("response_format", MAX_WORD_BYTES),
    ("stream", MAX_WORD_BYTES),
    ("user", MAX_USER_BYTES),
    ("safety_identifier", MAX_USER_BYTES),
    ("partial_images", MAX_WORD_BYTES),
    ("moderation", MAX_WORD_BYTES),
    ("style", MAX_WORD_BYTES),
    ("input_fidelity", MAX_WORD_BYTES),
    ("complexity", MAX_WORD_BYTES),
    ("frame_count", MAX_WORD_BYTES),
    ("frame_duration_ms", MAX_WORD_BYTES),
];

/// What is accepted and cannot be done: Codex has no parameter for it.
const IGNORED: [&str; 6] =
    ["moderation", "style", "input_fidelity", "complexity", "frame_count", "frame_duration_ms"];

/// A field that is a word, and how many bytes it may have.
pub(super) fn word(name: &str) -> Option<(&'static str, u64)> {
    WORDS.into_iter().find(|(known, _)| *known == name)
}

/// Fields that hold pictures, under all the names that clients give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PictureField {
    Image,
    Mask,
    /// A drawing over the first image, which Codex has no way to take.
    Markup,
}

pub(super) fn picture_field(name: &str) -> Option<PictureField> {
    match name {
        "image" | "image[]" | "images" | "images[]" => Some(PictureField::Image),
        "mask" | "mask[]" => Some(PictureField::Mask),
        "markup" => Some(PictureField::Markup),
        _ => {
            let index = name.strip_prefix("image[")?.strip_suffix(']')?;
            index.bytes().all(|digit| digit.is_ascii_digit()).then_some(PictureField::Image)
        }
    }
}

impl Fields {
    pub(super) fn new(route: Route, max_n: u32, folder: &Path) -> Self {
        Self {
            route,
            max_n,
            folder: ReferenceFolder::new(folder),
            prompt: None,
            words: Vec::new(),
            images: Vec::new(),
            mask: None,
            passed_over: Vec::new(),
        }
    }

    /// Notes that a picture came which the route does not take.
    pub(super) fn pass_over(&mut self, field: PictureField) {
        let name = match field {
            PictureField::Image => "image",
            PictureField::Mask => "mask",
            PictureField::Markup => "markup",
        };
        if !self.passed_over.contains(&name) {
            self.passed_over.push(name);
        }
    }

    pub(super) fn route(&self) -> Route {
        self.route
    }

    pub(super) fn folder(&mut self) -> &mut ReferenceFolder {
        &mut self.folder
    }

    /// Takes a word; a later one of the same name replaces it.
    pub(super) fn set(&mut self, name: &'static str, value: Scalar) -> Result<(), ApiError> {
        let Scalar { text, is_string } = value;
        match name {
            "prompt" if is_string => self.prompt = Some(text),
            _ if text.too_long => return Err(invalid(name, &format!("'{name}' is too long."))),
            "prompt" | "model" | "size" | "quality" | "background" | "output_format"
            | "response_format" | "user" | "safety_identifier"
                if !is_string =>
            {
                return Err(invalid(name, &format!("'{name}' must be a string.")));
            }
            _ => {
                self.words.retain(|(known, _)| *known != name);
                self.words.push((name, text.value));
            }
        }
        Ok(())
    }

    /// Where the next picture of this field stands; refuses one too many.
    pub(super) fn place(&self, field: PictureField) -> Result<Place, ApiError> {
        match field {
            PictureField::Image if self.images.len() == MAX_REFERENCES => Err(too_many("image")),
            PictureField::Image => Ok(Place::at("image", self.images.len())),
            PictureField::Mask if self.mask.is_some() => {
                Err(invalid("mask", "At most one mask is allowed."))
            }
            PictureField::Mask => Ok(Place::only("mask")),
            PictureField::Markup => Err(invalid(
                "markup",
                "'markup' is not supported: Codex has no way to take it. Draw it into the image, or \
                 send it as a further image and say in the prompt what it is.",
            )),
        }
    }

    pub(super) fn add(&mut self, field: PictureField, picture: Reference) {
        match field {
            PictureField::Mask => self.mask = Some(picture),
            PictureField::Image | PictureField::Markup => self.images.push(picture),
        }
    }

    /// A word that was given; an empty one is as good as none.
    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.words.iter().find(|(known, _)| *known == name)?;
        let value = value.trim();
        (!value.is_empty()).then_some(value)
    }

    /// One of the words that are allowed.
    fn one_of(
        &self,
        name: &'static str,
        allowed: &[&'static str],
    ) -> Result<Option<&'static str>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let known = allowed.iter().find(|known| **known == value).copied();
        known.map(Some).ok_or_else(|| {
            invalid(name, &format!("'{name}' must be one of {}.", allowed.join(", ")))
        })
    }

    fn number(&self, name: &'static str, min: u32, max: u32) -> Result<Option<u32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        whole(value).filter(|number| (min..=max).contains(number)).map(Some).ok_or_else(|| {
            invalid(name, &format!("'{name}' must be an integer from {min} to {max}."))
        })
    }

    /// Checks everything.
    pub(super) fn check(mut self) -> Result<(Draft, Wish), ApiError> {
        let prompt = prompt(self.prompt.take())?;
        let model = self.model()?;
        let count = self.number("n", 1, self.max_n)?.unwrap_or(1);
        let size = self.get("size").unwrap_or("auto").to_owned();
        if !is_size(&size) {
            return Err(invalid(
                "size",
                "'size' must be 'auto' or WIDTHxHEIGHT with 3 to 4 digits each, such as 1536x1024.",
            ));
        }
        let mut ignored: Vec<_> =
            IGNORED.into_iter().filter(|name| self.get(name).is_some()).collect();
        ignored.extend(&self.passed_over);
        let qualities = ["auto", "low", "medium", "high", "standard", "hd", "xhigh", "max"];
        let quality = match self.one_of("quality", &qualities)? {
            None => "auto",
            Some("standard") => "medium",
            Some("hd" | "xhigh" | "max") => "high",
            Some(quality) => quality,
        };
        let background =
            self.one_of("background", &["auto", "opaque", "transparent"])?.unwrap_or("auto");
        let output = self.output(background, &mut ignored)?;
        if self.number("partial_images", 0, 3)?.is_some_and(|count| count > 0) {
            ignored.push("partial_images");
        }
        let response_format = match self.one_of("response_format", &["b64_json", "url"])? {
            Some("url") => ResponseFormat::Url,
            // What these models have always answered when nothing was said.
            None if model.starts_with("dall-e-") && self.route == Route::Generations => {
                ResponseFormat::Url
            }
            _ => ResponseFormat::B64Json,
        };
        let switch = self.one_of("stream", &["true", "false", "1", "0", "True", "False"])?;
        let stream = matches!(switch, Some("true" | "True" | "1"));
        let end_user = self.get("safety_identifier").or(self.get("user")).map(str::to_owned);
        let has_mask = self.mask.is_some();
        if has_mask {
            // It goes along as a picture with words that say what it is.
            ignored.push("mask");
        }
        let references = self.references()?;
        let wish = Wish {
            response_format,
            stream,
            size: size.clone(),
            quality: quality.to_owned(),
            background,
            format: output.format,
            ignored,
        };
        let draft = Draft {
            prompt,
            size,
            quality: quality.to_owned(),
            background,
            output: Some(output),
            end_user,
            count,
            references,
            has_mask,
        };
        Ok((draft, wish))
    }

    /// Any model that makes pictures: there is one behind all names.
    fn model(&self) -> Result<String, ApiError> {
        let model = self.get("model").unwrap_or(super::models::REAL);
        if super::models::is_known(model) {
            return Ok(super::models::plain(model).to_owned());
        }
        Err(invalid(
            "model",
            "'model' must be gpt-image-2, or another name that begins with gpt-image-, \
             chatgpt-image- or dall-e-.",
        ))
    }

    fn output(
        &self,
        background: &str,
        ignored: &mut Vec<&'static str>,
    ) -> Result<Output, ApiError> {
        let format = match self.one_of("output_format", &["png", "jpeg", "webp"])? {
            Some("jpeg") => Format::Jpeg,
            Some("webp") => Format::Webp,
            _ => Format::Png,
        };
        if format == Format::Jpeg && background == "transparent" {
            return Err(invalid(
                "background",
                "A transparent background needs 'output_format' png or webp: jpeg has none.",
            ));
        }
        let compression = self.number("output_compression", 0, 100)?;
        if compression.is_some() && format != Format::Jpeg {
            // PNG has no loss, and WebP is written without.
            ignored.push("output_compression");
        }
        let compression = compression.and_then(|number| u8::try_from(number).ok()).unwrap_or(100);
        Ok(Output { format, compression })
    }

    /// The images in their order, the mask behind them.
    fn references(self) -> Result<Vec<Reference>, ApiError> {
        if self.route == Route::Edits && self.images.is_empty() {
            return Err(invalid("image", "'image' is required: the picture to be changed."));
        }
        let mut references = self.images;
        if let Some(mask) = self.mask {
            if references.len() == MAX_REFERENCES {
                return Err(invalid("mask", "At most 5 images are allowed, the mask included."));
            }
            references.push(mask);
        }
        Ok(references)
    }
}

#[cfg(test)]
mod tests;
