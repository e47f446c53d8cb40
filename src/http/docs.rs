//! What the description of the API says in more than one place: the errors that many routes share,
//! and the fields of requests, which are read piece by piece and have no types of their own.

use utoipa::{IntoParams, IntoResponses, ToResponse, ToSchema};

use super::error::ErrorBody;

/// The key is wrong.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "documents what error.rs answers")]
pub(super) enum Caller {
    /// `missing_api_key` or `invalid_api_key`.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// `api_key_disabled`.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// `internal_error`: a fault of this server; its log has it under `X-Request-Id`.
    #[response(status = 500)]
    Internal(ErrorBody),
}

/// What may become of a body on its way.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "documents what error.rs answers")]
pub(super) enum Sending {
    /// `request_timeout`: the body stopped coming.
    #[response(status = 408)]
    Timeout(ErrorBody),
    /// `request_too_large`.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// `quota_exceeded`: every login's quota is used up; `logins_rest`: the service's owner lets every
    /// login rest. `Retry-After` tells when the first is back, if that is known.
    #[response(status = 429, headers(("Retry-After" = Option<u32>, description = "Seconds."), ("x-should-retry" = Option<String>, description = "`false` where a repetition within a minute cannot help.")))]
    Quota(ErrorBody),
    /// `queue_full`, `too_many_uploads`, `storage_full` or `shutting_down`, with `Retry-After`.
    #[response(status = 503, headers(("Retry-After" = Option<u32>, description = "Seconds.")))]
    Unavailable(ErrorBody),
}

/// What may become of a job that is waited for.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "documents what error.rs answers")]
pub(super) enum Waiting {
    /// Codex failed; `code` says why. `x-should-retry: false` where a repetition cannot help.
    #[response(status = 502, headers(("X-Job-Id" = Option<String>, description = "The job."), ("x-should-retry" = Option<String>, description = "`false` where a repetition cannot help.")))]
    Failed(ErrorBody),
    /// `still_running`: the patience ended first. `id` and `status_url` name the job, which goes on.
    #[response(status = 504, headers(("X-Job-Id" = Option<String>, description = "The job."), ("Location" = Option<String>, description = "Where the job is asked for.")))]
    StillRunning(ErrorBody),
}

/// The header `Idempotency-Key` was sent with another request.
#[derive(ToSchema, ToResponse)]
#[response(description = "`idempotency_mismatch`: the key was sent with another request.")]
#[allow(dead_code, reason = "documents what error.rs answers")]
pub(super) struct Mismatch(ErrorBody);

/// The bytes of a file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "documents what generated.rs serves")]
pub(super) struct Binary(Vec<u8>);

/// One event of a stream of server-sent events.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documents what is written piece by piece")]
pub(super) struct ServerSentEvent {
    /// What happened.
    event: Option<String>,
    /// For the header `Last-Event-ID`, where a stream can be taken up again.
    id: Option<String>,
    /// JSON: in an answer of OpenAI's routes a `StreamEvent`, or with the event `error` an `ErrorBody`
    /// with `type`; of a job's events a phase, or with the event `result` a `JobBody`.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// What makes a repetition join the job of the first request instead of paying again.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "documents what accept.rs reads")]
pub(super) struct RepeatHeaders {
    /// Names the request for 24 hours: the same key and body find the same job.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[ -~]+$")]
    idempotency_key: Option<String>,
    /// What OpenAI's clients send: above 0, an equal request of the last minutes is joined.
    #[param(rename = "x-stainless-retry-count", minimum = 0)]
    retry_count: Option<u32>,
}

/// A request of `generations`.
#[derive(ToSchema)]
#[schema(example = json!({"model": "gpt-image-2", "prompt": "a red kite over a green hill", "size": "1536x1024"}))]
#[allow(dead_code, reason = "documents what openai/fields.rs reads")]
pub(super) struct GenerationRequest {
    /// What is to be seen.
    #[schema(min_length = 1, max_length = 32_000, pattern = r"^[^\x00]*$")]
    prompt: String,
    #[schema(inline)]
    #[serde(flatten)]
    options: Options,
}

/// Fields that both routes know.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documents what openai/fields.rs reads")]
pub(super) struct Options {
    /// `gpt-image-…`, `chatgpt-image-…` or `dall-e-…`; gpt-image-2 draws for all of them.
    #[schema(
        default = "gpt-image-2",
        max_length = 128,
        pattern = "^(openai/)?(gpt-image-|chatgpt-image-|dall-e-)[^\\x00]+$"
    )]
    model: Option<String>,
    /// Pictures: 1 to 4, or what the setting `MAX_IMAGES_PER_REQUEST` allows.
    #[schema(minimum = 1, maximum = 4, default = 1)]
    n: Option<u32>,
    /// `auto` or `WIDTHxHEIGHT`; travels in words. The answer tells the true one.
    #[schema(default = "auto", pattern = "^(auto|[0-9]{3,4}x[0-9]{3,4})$")]
    size: Option<String>,
    /// Travels in words. `standard` is medium, `hd` is high.
    #[schema(default = "auto", pattern = "^(auto|low|medium|high|standard|hd|xhigh|max)$")]
    quality: Option<String>,
    /// Travels in words. The answer tells the true one.
    #[schema(default = "auto", pattern = "^(auto|opaque|transparent)$")]
    background: Option<String>,
    /// Pictures are converted to it. JPEG has no transparent background.
    #[schema(default = "png", pattern = "^(png|jpeg|webp)$")]
    output_format: Option<String>,
    /// For jpeg; png and webp are written without loss.
    /// 100 (good) when nothing is said.
    #[schema(minimum = 0, maximum = 100)]
    output_compression: Option<u32>,
    /// `b64_json`, or `url`; the default of `dall-e-…` in generations is `url`.
    #[schema(default = "b64_json", pattern = "^(b64_json|url)$")]
    response_format: Option<String>,
    /// Answer with server-sent events.
    #[schema(default = false)]
    stream: Option<bool>,
    /// There are no partial images; accepted and ignored.
    #[schema(minimum = 0, maximum = 3)]
    partial_images: Option<u32>,
    /// For whom the picture is; kept with the job.
    #[schema(max_length = 512, pattern = r"^[^\x00]*$")]
    user: Option<String>,
    /// The same under its newer name, which wins.
    #[schema(max_length = 512, pattern = r"^[^\x00]*$")]
    safety_identifier: Option<String>,
    /// Accepted and ignored.
    #[schema(max_length = 128, pattern = r"^[^\x00]*$")]
    input_fidelity: Option<String>,
    /// Accepted and ignored.
    #[schema(max_length = 128, pattern = r"^[^\x00]*$")]
    moderation: Option<String>,
    /// Accepted and ignored.
    #[schema(max_length = 128, pattern = r"^[^\x00]*$")]
    style: Option<String>,
}

/// A request of `edits` as a form.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documents what openai/fields.rs reads")]
pub(super) struct EditForm {
    /// What is to be done.
    #[schema(min_length = 1, max_length = 32_000, pattern = r"^[^\x00]*$")]
    prompt: String,
    /// PNG, JPEG or WebP of at most 10 MiB; up to 5 in all, the mask included. `image[]` is the same.
    #[schema(value_type = Vec<String>, content_media_type = "application/octet-stream", min_items = 1, max_items = 5)]
    image: Vec<Vec<u8>>,
    /// Where the first image is to be changed: there it is transparent.
    #[schema(value_type = Option<String>, content_media_type = "application/octet-stream")]
    mask: Option<Vec<u8>>,
    #[schema(inline)]
    #[serde(flatten)]
    options: Options,
}

/// A request of `edits` as JSON.
#[derive(ToSchema)]
#[schema(example = json!({"prompt": "make it night", "images": [{"image_url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mM4YKAAAALEARHyd+jyAAAAAElFTkSuQmCC"}]}))]
#[allow(dead_code, reason = "documents what openai/fields.rs reads")]
pub(super) struct EditRequest {
    /// What is to be done.
    #[schema(min_length = 1, max_length = 32_000, pattern = r"^[^\x00]*$")]
    prompt: String,
    #[schema(min_items = 1, max_items = 5)]
    images: Vec<ImageUrl>,
    /// Where the first image is to be changed: there it is transparent.
    mask: Option<ImageUrl>,
    #[schema(inline)]
    #[serde(flatten)]
    options: Options,
}

/// A picture in JSON.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documents what openai/json.rs reads")]
pub(super) struct ImageUrl {
    /// `data:image/png;base64,…`, or the base64 alone. Web addresses are not fetched.
    #[schema(pattern = "^(data:[^,]*;base64,)?[A-Za-z0-9+/_=-]+$")]
    image_url: String,
}

/// A request of the native routes.
#[derive(ToSchema)]
#[schema(example = json!({"prompt": "a red kite over a green hill", "size": "1536x1024"}))]
#[allow(dead_code, reason = "documents what intake/native.rs reads")]
pub(super) struct NativeRequest {
    /// What is to be seen.
    #[schema(min_length = 1, max_length = 32_000, pattern = r"^[^\x00]*$")]
    prompt: String,
    /// `auto` or `WIDTHxHEIGHT`; travels in words.
    #[schema(default = "1024x1024", pattern = "^(auto|[0-9]{3,4}x[0-9]{3,4})$", nullable = false)]
    size: Option<String>,
    /// Travels in words.
    #[schema(default = "medium", pattern = "^(auto|low|medium|high)$", nullable = false)]
    quality: Option<String>,
    /// Pictures; always 1 with references.
    #[schema(minimum = 1, maximum = 4, default = 1, nullable = false)]
    count: Option<u32>,
    /// PNG, JPEG or WebP as base64 or `data:` URL, of at most 10 MiB each.
    #[schema(max_items = 5)]
    reference_images_base64: Option<Vec<String>>,
    /// The older form of a list of one; the list wins.
    reference_image_base64: Option<String>,
}
