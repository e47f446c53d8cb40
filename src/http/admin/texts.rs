//! Every text of the pages, in one place: a second language is a second [`Texts`].

use std::fmt;

use crate::store::jobs::JobState;

/// Declares the struct and its English values side by side.
macro_rules! texts {
    ($($name:ident: $text:literal,)+) => {
        /// The texts of one language.
        #[allow(missing_docs, reason = "each is its own description")]
        pub(super) struct Texts {
            $(pub(super) $name: &'static str,)+
        }

        /// In English.
        pub(super) static ENGLISH: Texts = Texts { $($name: $text,)+ };
    };
}

texts! {
    lang: "en",
    product: "codex-image-service",
    skip: "Skip to the content",
    navigation: "Main",
    sign_out: "Sign out",
    overview: "Overview",
    keys: "Keys",
    try_it: "Try it",
    history: "History",
    gallery: "Gallery",
    logins: "Logins",
    cleanup: "Clean-up",
    settings: "Settings",
    cancel: "Cancel",
    never: "never",
    none: "none",
    unknown: "unknown",
    details: "Details",

    // Sign in
    sign_in: "Sign in",
    user_name: "User name",
    password: "Password",
    remember: "Stay signed in for 30 days",
    session_ended: "Your session had ended, so nothing was done. Sign in, and do it again.",
    wrong_sign_in: "The user name or the password is wrong.",
    no_form: "Signing in needs a form: application/x-www-form-urlencoded.",
    form_too_large: "The form is larger than a user name and a password can be.",
    form_broken: "The form is not whole: it needs a user name and a password.",

    // Overview
    no_worker: "No worker is running: jobs are accepted and wait.",
    no_logins_told: "No login is known yet. The worker tells of them when it starts; the engine demo has none.",
    pictures: "Pictures",
    pictures_ever: "drawn so far",
    jobs: "Jobs",
    jobs_ever: "accepted so far",
    queue: "Queue",
    queued: "waiting",
    running: "being drawn",
    oldest: "the oldest came",
    stored: "On the disk",
    stored_pictures: "pictures",
    usage_48h: "Pictures in 48 hours",
    usage_hourly: "Pictures an hour",
    usage_hourly_note: "The last 7 days; failed turns are hatched.",
    usage_rolling_note: "What each login has drawn in the 48 hours before, over the last 7 days.",
    wall: "wall",
    service: "Service",
    version: "Version",
    codex_version: "Codex",
    uptime: "Up for",
    worker_uptime: "Worker up for",
    disk: "Disk",
    disk_free: "free of",
    next_cleanup: "Next clean-up",
    by_timer: "by a timer",
    address: "Address for callers",
    order_legend: "Which login draws next",
    round_robin: "In turn, those with more quota left more often",
    primary_first: "The first of the settings that does not rest",
    use_order: "Use this order",
    last_jobs: "Last jobs",
    all_jobs: "All jobs",

    // Logins
    account: "Account",
    plan: "Plan",
    token: "Access token",
    token_expires: "expires",
    token_over: "expired",
    quota: "Quota",
    quota_used: "used",
    resets: "resets",
    no_quota: "OpenAI has not told yet.",
    drawn: "Drawn",
    in_5h: "5 h",
    in_24h: "24 h",
    in_48h: "48 h",
    of_wall: "of",
    success: "Success",
    in_30d: "30 days",
    login_ready: "ready",
    login_rests: "rests",
    login_problem: "not usable",
    login_elsewhere: "in use elsewhere",
    until: "until",
    told: "As of",
    rest_quota: "Its quota is used up",
    rest_low_quota: "Little quota is left",
    rest_expired: "Its session has expired",
    rest_faults: "It failed several times in a row",
    rest_by_hand: "Somebody wants it left alone",
    test: "Test",
    rest: "Rest",
    rest_for: "Rest for",
    wake: "Wake",
    hour_1: "1 hour",
    hours_6: "6 hours",
    hours_24: "24 hours",
    until_woken: "until it is woken",
    asked_of_worker: "The worker has been asked and has not answered yet.",
    audit: "Audit trail",
    all_logins: "All logins",
    show: "Show",
    when: "When",
    login: "Login",
    what: "What",
    no_events: "Nothing has happened to a login yet.",
    sign_in_hint: "A login is signed in on the command line, as the service's user:",

    // Keys
    new_key_name: "Name of the new key",
    new_key_hint: "Such as the program that will use it.",
    create_key: "Create key",
    new_key: "The new key",
    new_key_once: "It is shown this once. Keep it where its caller finds it.",
    copy: "Copy",
    copied: "Copied",
    no_keys: "There is no key yet. A caller needs one.",
    enabled: "enabled",
    disabled: "disabled",
    enable: "Enable",
    disable: "Disable",
    rename: "Rename",
    new_name: "New name",
    save_name: "Save name",
    delete: "Delete",
    delete_key: "Delete key",
    delete_key_title: "Delete this key?",
    delete_key_words: "Whoever uses it is refused from then on. Its jobs stay in the history.",
    created: "Created",
    last_used: "Last used",
    bad_key_name: "A key's name has 1 to 100 characters, none of them a control character.",

    // History
    search: "Search",
    search_hint: "A part of the prompt as it stands, or an id: img_ and at least eight digits.",
    state: "State",
    any: "any",
    key: "Key",
    from: "From",
    to: "To",
    apply: "Apply",
    reset: "Reset",
    older: "Older",
    newest: "Newest",
    look_further: "Look further back",
    export_csv: "Export CSV",
    export_jsonl: "Export JSON lines",
    no_jobs: "No jobs to show.",
    filter: "Filter",

    state_queued: "queued",
    state_running: "running",
    state_succeeded: "succeeded",
    state_failed: "failed",
    state_cancelled: "cancelled",
    state_expired: "expired",

    // A job
    job: "Job",
    prompt: "Prompt",
    references: "References",
    mask: "mask",
    parameters: "Parameters",
    size: "Size",
    quality: "Quality",
    background: "Background",
    format: "Format",
    as_made: "as it is made",
    count: "Pictures",
    end_user: "End user",
    timings: "Times",
    accepted: "Accepted",
    since: "since",
    phase_waiting: "Waited",
    phase_starting: "Started Codex",
    phase_drawing: "Drew",
    phase_saving: "Saved",
    finished: "Finished",
    expires: "Files kept until",
    expired_note: "Its files have been removed.",
    attempts: "Attempts",
    turns: "What Codex did",
    not_drawn: "not drawn",
    turn: "Picture",
    thread: "Thread",
    stdout: "Standard output",
    stderr: "Standard error",
    note: "The model's words",
    code: "Code",
    download: "Download",
    again: "Again",
    cancel_job: "Cancel job",
    delete_job: "Delete job",
    delete_job_title: "Delete this job?",
    delete_job_words: "Its prompt, its pictures and what Codex said of it go for good. One that is being drawn is cancelled. It goes on counting in the figures.",
    open_job: "Open the job",
    waits_until: "It waits for a quota until",
    progress: "Progress",
    now_queued: "It waits for its turn.",
    now_starting: "Codex is starting.",
    now_drawing: "The picture is being drawn.",
    now_saving: "The picture is being saved.",

    // Gallery
    no_pictures: "There are no such pictures.",

    // Try-out
    draw: "Draw",
    prompt_hint: "1 to 32,000 characters.",
    reference_pictures: "Reference pictures",
    reference_hint: "Up to 5, PNG, JPEG or WebP, 10 MiB each. They can be dropped here. A job with references draws one picture.",
    same_references: "Use the references of the earlier job again, without a mask",
    size_hint: "auto, or WIDTHxHEIGHT",
    which_key: "Key",
    choose: "choose one",
    key_is_gone: "The key has been disabled or deleted. Choose another.",
    key_hint: "The job is counted as this key's.",
    no_enabled_key: "A job belongs to a key, and there is none that is enabled.",
    create_one: "Create a key",
    result: "Result",

    // Clean-up
    cleanup_words: "What has passed IMAGE_RETENTION_DAYS goes by itself: pictures, references and what Codex said. The history stays.",
    count_now: "Count what would go",
    clean_now: "Clean up now",
    would_go: "What would go",
    counted: "Counted",
    counting: "Counting …",
    cleaning: "Cleaning up …",
    last_runs: "Last clean-ups",
    no_runs: "There was none yet.",
    cause: "Cause",
    cause_schedule: "schedule",
    cause_operator: "by hand",
    cause_command: "command line",
    expired_jobs: "Expired jobs",
    orphans: "Orphans",
    threads: "Codex threads",
    bytes: "Bytes",
    took: "Took",
    skipped: "Not searched",
    nothing_would_go: "Nothing.",

    // Settings
    settings_words: "As they hold in this process, and where each comes from. They are changed there, and hold from the next start; some from a reload on (systemctl reload, SIGHUP), and the log then says which do not.",
    origin: "Origin",
    unset: "empty",
    demo_settings: "A demo has no settings of its own.",
    sessions: "Sessions",
    sessions_words: "Ends every session of these pages, this one included.",
    sign_out_everywhere: "Sign out everywhere",

    // Trouble
    not_found: "Not found",
    not_found_words: "There is no such page.",
    no_such_job: "There is no such job, or it was deleted.",
    no_such_key: "There is no such key, or it was deleted.",
    no_such_login: "There is no such login.",
    no_such_picture: "There is no such picture, or it has expired.",
    bad_request: "That was not understood",
    bad_request_words: "There is nothing to see at this address, or the form lacks something.",
    refused: "Refused",
    cross_site: "The request came from another site, or its origin can't be told.",
    broken: "Something broke",
    broken_words: "What went wrong is in the log.",

    // With a value in place of each number in braces
    wall_is_reached: "The wall is reached.",
    wall_soon: "At this pace ({0} an hour) the wall is reached within an hour.",
    wall_later: "At this pace ({0} an hour) the wall is reached in about {1} hours.",
    wall_never: "At this pace the wall is not reached.",
    too_many_tries: "There were too many tries. Try again in {0} seconds.",
    only_https: "PUBLIC_BASE_URL begins with https, so this works over https alone: {0}",
    looked_at: "{0} jobs were looked at; there are older ones.",
    hourly_chart: "{0} pictures in the last 7 days, {1} in the busiest hour.",
    rolling_chart: "Pictures in the last 48 hours: {0}.",
    rolling_wall: "The wall is at {0}.",

    // Done
    done_created: "The key has been created.",
    done_disabled: "The key is disabled.",
    done_enabled: "The key is enabled.",
    done_renamed: "The key has another name.",
    done_deleted_key: "The key is deleted. Its jobs stay in the history.",
    done_cancelled: "The job is cancelled.",
    done_too_late: "The job had already ended.",
    done_deleted_job: "The job is deleted.",
    done_order: "Logins are used in this order from now on.",
    done_asked: "The worker has been asked.",
}

impl Texts {
    /// What is said after something was done, by the word in the address.
    pub(super) fn done(&self, word: &str) -> Option<&'static str> {
        Some(match word {
            "created" => self.done_created,
            "disabled" => self.done_disabled,
            "enabled" => self.done_enabled,
            "renamed" => self.done_renamed,
            "deleted-key" => self.done_deleted_key,
            "cancelled" => self.done_cancelled,
            "too-late" => self.done_too_late,
            "deleted-job" => self.done_deleted_job,
            "order" => self.done_order,
            "asked" => self.done_asked,
            _ => return None,
        })
    }

    /// A job's state.
    pub(super) fn job_state(&self, state: JobState) -> &'static str {
        match state {
            JobState::Queued => self.state_queued,
            JobState::Running => self.state_running,
            JobState::Succeeded => self.state_succeeded,
            JobState::Failed => self.state_failed,
            JobState::Cancelled => self.state_cancelled,
            JobState::Expired => self.state_expired,
        }
    }

    /// The cause of a clean-up.
    pub(super) fn cause_of(&self, cause: &str) -> &'static str {
        match cause {
            "operator" => self.cause_operator,
            "command" => self.cause_command,
            _ => self.cause_schedule,
        }
    }

    /// When a login reaches the wall.
    pub(super) fn wall_in(&self, hours: Option<i64>, pace: &str) -> String {
        match hours {
            Some(0) => self.wall_is_reached.to_owned(),
            Some(1) => filled(self.wall_soon, &[&pace]),
            Some(hours) => filled(self.wall_later, &[&pace, &hours]),
            None => self.wall_never.to_owned(),
        }
    }

    /// The rolling chart for those who can't see it.
    pub(super) fn rolling_chart(&self, now: &[(String, i64)], wall: Option<i64>) -> String {
        let each: Vec<_> = now.iter().map(|(login, images)| format!("{login} {images}")).collect();
        let words = filled(self.rolling_chart, &[&each.join(", ")]);
        wall.map_or(words.clone(), |wall| {
            format!("{words} {}", filled(self.rolling_wall, &[&wall]))
        })
    }
}

/// A text with its values in place of `{0}`, `{1}`, …
pub(super) fn filled(text: &str, values: &[&(dyn fmt::Display + Sync)]) -> String {
    values.iter().enumerate().fold(text.to_owned(), |text, (number, value)| {
        text.replace(&format!("{{{number}}}"), &value.to_string())
    })
}
