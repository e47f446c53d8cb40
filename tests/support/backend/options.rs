//! How the stand-in behaves: options of the whole backend, of one account, or of one request by a
//! marker in the caller's words such as `[stub mode=moderated images=2 image_latency=0.3]`.

use std::{str::FromStr, time::Duration};

use image::ImageFormat;

use crate::support::pictures;

/// One way to go right and many to go wrong; the names are those of the marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything works.
    Ok,
    /// `401`: the backend refuses every token, and the token endpoint every refresh.
    Unauthorized,
    /// `401-once`: a token is refused unless it came from a refresh.
    UnauthorizedOnce,
    /// The turn is refused with 429 `usage_limit_reached`.
    UsageLimit,
    /// The same answer, to the image request only; the limit is called `image_gen`.
    ImageLimit,
    /// The turn is refused with 429 `rate_limit_exceeded`.
    RateLimit,
    /// The model declines in words.
    Refuse,
    /// The image request is refused with 400 `moderation_blocked`.
    Moderated,
    /// The stream ends in `response.failed`.
    Policy,
    /// The stream breaks off early, every time.
    Drop,
    /// The stream breaks off early, once per thread.
    DropOnce,
    /// The image request's connection is closed unanswered.
    ImageDrop,
    /// The stream opens and stays silent.
    Hang,
    /// `500`: the turn fails.
    Status500,
    /// `503`: the turn fails.
    Status503,
    /// The image request fails with 500.
    Image500,
    /// The picture is base64 of bytes that are no picture.
    Garbage,
    /// The picture is not base64.
    BadBase64,
    /// The image answer holds no picture.
    Empty,
    /// The stream is not made of events.
    GarbageSse,
    /// The model tries a shell command first.
    Shell,
    /// The model tries to write a file by `apply_patch` first.
    Patch,
    /// The model's script never ends (code mode only).
    Spin,
}

impl Mode {
    /// Every mode by its name in the marker.
    pub const NAMES: [(&'static str, Self); 23] = [
        ("ok", Self::Ok),
        ("401", Self::Unauthorized),
        ("401-once", Self::UnauthorizedOnce),
        ("usage-limit", Self::UsageLimit),
        ("image-limit", Self::ImageLimit),
        ("rate-limit", Self::RateLimit),
        ("refuse", Self::Refuse),
        ("moderated", Self::Moderated),
        ("policy", Self::Policy),
        ("drop", Self::Drop),
        ("drop-once", Self::DropOnce),
        ("image-drop", Self::ImageDrop),
        ("hang", Self::Hang),
        ("500", Self::Status500),
        ("503", Self::Status503),
        ("image-500", Self::Image500),
        ("garbage", Self::Garbage),
        ("bad-base64", Self::BadBase64),
        ("empty", Self::Empty),
        ("garbage-sse", Self::GarbageSse),
        ("shell", Self::Shell),
        ("patch", Self::Patch),
        ("spin", Self::Spin),
    ];
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, mode)| *mode).ok_or_else(|| format!("no mode is called {name:?}"))
    }
}

/// In whose dialect the model calls the image tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// An item of the answer that carries the picture (Codex up to 0.143).
    Hosted,
    /// A function call (models without code mode).
    Function,
    /// A script for the tool `exec` (code mode).
    Code,
}

/// What can be chosen. Each field's name is its key in the marker.
#[derive(Clone, Debug)]
pub struct Options {
    /// What goes wrong.
    pub mode: Mode,
    /// The mode begins once the model has seen a picture; before that everything works.
    pub late: bool,
    /// Pictures a turn.
    pub images: usize,
    /// One picture a round trip instead of all at once.
    pub serial: bool,
    /// Seconds before a turn is answered.
    pub latency: Duration,
    /// Seconds before an image request is answered.
    pub image_latency: Duration,
    /// An image request is not answered before [`super::Backend::release_kept`].
    pub kept: bool,
    /// Seconds between spending a refresh token and answering.
    pub oauth_latency: Duration,
    /// `size`, `format`, `noise`, `transparent`: the pictures.
    pub picture: pictures::Kind,
    /// `hosted`, `function` or `code`; otherwise what the request offers.
    pub tool: Option<Tool>,
    /// What mode `shell` tries to run; only [`super::Backend::set_shell_command`] sets it.
    pub shell_command: String,
    /// Percent used of the 5-hour window.
    pub used_percent: u32,
    /// Percent used of the weekly window.
    pub weekly_percent: u32,
    /// Percent used of the image quota, both windows.
    pub image_percent: u32,
    /// Seconds until the 5-hour windows start anew.
    pub reset: i64,
    /// Lifetime in seconds of tokens from a refresh.
    pub lifetime: i64,
    /// The caller's name for the job, see [`super::Backend::image_requests_for`].
    pub job: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Ok,
            late: false,
            images: 1,
            serial: false,
            latency: Duration::ZERO,
            kept: false,
            image_latency: Duration::ZERO,
            oauth_latency: Duration::ZERO,
            picture: pictures::Kind::default(),
            tool: None,
            shell_command: "touch intruder.txt; echo done".to_owned(),
            used_percent: 12,
            weekly_percent: 34,
            image_percent: 5,
            reset: 3600,
            lifetime: 10 * 86_400,
            job: None,
        }
    }
}

impl Options {
    /// Applies words such as `mode=ok images=2`. An unknown key or value is an error: a typo in a
    /// test must not pass for the normal case.
    pub fn apply(&mut self, words: &str) -> Result<(), String> {
        for word in words.split_whitespace() {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("{word:?} has no ="))?;
            self.apply_one(key, value).map_err(|why| format!("{word:?}: {why}"))?;
        }
        Ok(())
    }

    /// Applies the first marker in `text`, if there is one.
    pub fn apply_marker(&mut self, text: &str) -> Result<(), String> {
        let words = text.split_once("[stub ").and_then(|(_, rest)| rest.split_once(']'));
        words.map_or(Ok(()), |(words, _)| self.apply(words))
    }

    fn apply_one(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "mode" => self.mode = value.parse()?,
            "late" => self.late = flag(value)?,
            "images" => self.images = number(value)?,
            "serial" => self.serial = flag(value)?,
            "latency" => self.latency = seconds(value)?,
            "image_latency" => self.image_latency = seconds(value)?,
            "kept" => self.kept = flag(value)?,
            "oauth_latency" => self.oauth_latency = seconds(value)?,
            "size" => {
                let (width, height) = value.split_once('x').ok_or("not WIDTHxHEIGHT")?;
                self.picture.size = (number(width)?, number(height)?);
            }
            "format" => {
                self.picture.format = match value {
                    "png" => ImageFormat::Png,
                    "jpeg" => ImageFormat::Jpeg,
                    "webp" => ImageFormat::WebP,
                    _ => return Err("png, jpeg or webp".to_owned()),
                }
            }
            "noise" => self.picture.noise = flag(value)?,
            "transparent" => self.picture.alpha = flag(value)?,
            "tool" => {
                self.tool = match value {
                    "auto" => None,
                    "hosted" => Some(Tool::Hosted),
                    "function" => Some(Tool::Function),
                    "code" => Some(Tool::Code),
                    _ => return Err("auto, hosted, function or code".to_owned()),
                }
            }
            "used_percent" => self.used_percent = number(value)?,
            "weekly_percent" => self.weekly_percent = number(value)?,
            "image_percent" => self.image_percent = number(value)?,
            "reset" => self.reset = number(value)?,
            "lifetime" => self.lifetime = number(value)?,
            "job" => self.job = Some(value.to_owned()),
            _ => return Err("no such key".to_owned()),
        }
        Ok(())
    }
}

fn number<T: FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| "not a number in range".to_owned())
}

fn seconds(value: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(number(value)?).map_err(|why| why.to_string())
}

fn flag(value: &str) -> Result<bool, String> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("neither 1 nor 0".to_owned()),
    }
}
