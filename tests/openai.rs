//! Promise: OpenAI's Images API, byte by byte: pictures as base64 and by URL, several, streamed,
//! converted; what is true of them is said, and errors have OpenAI's status and envelope.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{io::Write as _, thread, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{
    Backend, HomeOptions, Lab, Reply, Service, Setup, begin_within_a_day, pictures, wait_for,
};

const GENERATIONS: &str = "/v1/images/generations";
const EDITS: &str = "/v1/images/edits";

fn generations(service: &Service, body: &Value) -> Reply {
    service.post_json(GENERATIONS, body)
}

fn decoded(item: &Value) -> Vec<u8> {
    STANDARD.decode(item["b64_json"].as_str().unwrap()).unwrap()
}

fn data_url() -> String {
    let picture = pictures::unique(&pictures::Kind::default(), "reference");
    format!("data:image/png;base64,{}", STANDARD.encode(picture))
}

fn with(body: &Value, name: &str, value: &Value) -> Value {
    let mut body = body.clone();
    body[name] = value.clone();
    body
}

fn sha256(bytes: &[u8]) -> String {
    codex_image_service::images::hex(&Sha256::digest(bytes))
}

/// Events of a stream: their names and data.
fn events(text: &str) -> Vec<(String, Value)> {
    let fields = |event: &str, name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(str::to_owned)
    };
    text.split("\n\n")
        .filter_map(|event| {
            let data = fields(event, "data")?;
            Some((fields(event, "event").unwrap(), serde_json::from_str(&data).unwrap()))
        })
        .collect()
}

// Pictures

#[test]
fn a_picture_as_base64_with_what_is_true_of_it() {
    let service = Setup::painter().start();
    let reply =
        generations(&service, &json!({"prompt": "a kite", "size": "512x768", "quality": "hd"}));
    let reply = reply.expect(200);
    let body = reply.json();
    let picture = decoded(&body["data"][0]);
    let shown = image::load_from_memory(&picture).unwrap();
    assert_eq!(body["size"], format!("{}x{}", shown.width(), shown.height()));
    assert_eq!(body["output_format"], "png");
    assert_eq!(body["background"], "opaque");
    assert_eq!(body["quality"], "high");
    assert_eq!(body["x_ignored"], json!([]));
    let zeros = json!({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}});
    assert_eq!(body["usage"], zeros);
    assert!(body["created"].as_i64().unwrap() > 1_700_000_000);
    assert_eq!(body["data"].as_array().unwrap().len(), 1);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    // A known length: clients and proxies show progress, and see an answer that breaks off.
    assert_eq!(reply.header("content-length").unwrap(), reply.body.len().to_string());
    // It is the job's very file, and the job is an ordinary one.
    let id = reply.header("x-job-id").unwrap();
    let job = service.get(&format!("/v1/images/jobs/{id}")).expect(200).json();
    assert_eq!(service.picture(job["images"][0]["url"].as_str().unwrap()), picture);
}

#[test]
fn every_route_answers_without_v1_and_with_a_query() {
    let service = Setup::painter().start();
    let body = json!({"prompt": "a kite", "images": [{"image_url": data_url()}]});
    for path in
        ["/images/generations", "/images/generations?api-version=2025-01-01", "/images/edits"]
    {
        let reply = service.post_json(path, &body).expect(200);
        assert!(decoded(&reply.json()["data"][0]).starts_with(b"\x89PNG"), "{path}");
    }
    for path in ["/models", "/models/gpt-image-1", "/v1/models", "/v1/models/dall-e-3"] {
        service.get(path).expect(200);
    }
}

#[test]
fn several_pictures_by_base64_and_by_url() {
    let service = Setup::painter().start();
    let body = generations(&service, &json!({"prompt": "kites", "n": 3})).expect(200).json();
    let data = body["data"].as_array().unwrap();
    let each: Vec<Vec<u8>> = data.iter().map(decoded).collect();
    assert!(each.len() == 3 && each[0] != each[1] && each[1] != each[2]);
    let asked = json!({"prompt": "kites", "n": "2", "response_format": "url"});
    let body = generations(&service, &asked).expect(200).json();
    let data = body["data"].as_array().unwrap();
    assert_eq!(data.len(), 2);
    for item in data {
        assert!(item.get("b64_json").is_none());
        assert!(service.picture(item["url"].as_str().unwrap()).starts_with(b"\x89PNG"));
    }
    // What dall-e-3 has always answered when nothing was said.
    let body =
        generations(&service, &json!({"prompt": "x", "model": "dall-e-3"})).expect(200).json();
    assert!(body["data"][0]["url"].is_string());
}

#[test]
fn pictures_are_converted_to_the_format_that_was_asked_for() {
    let service = Setup::painter().start();
    for (format, start) in [("png", &b"\x89PNG"[..]), ("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")]
    {
        let asked = json!({"prompt": "a kite", "output_format": format, "output_compression": 60});
        let reply = generations(&service, &asked).expect(200);
        let body = reply.json();
        let picture = decoded(&body["data"][0]);
        assert!(picture.starts_with(start), "{format}");
        image::load_from_memory(&picture).unwrap();
        assert_eq!(body["output_format"], format);
        let ignored = if format == "jpeg" { json!([]) } else { json!(["output_compression"]) };
        assert_eq!(body["x_ignored"], ignored);
        // The file behind the job's URL is the converted one, with its own name and type.
        let id = reply.header("x-job-id").unwrap();
        let job = service.get(&format!("/v1/images/jobs/{id}")).json();
        let url = job["images"][0]["url"].as_str().unwrap().to_owned();
        assert_eq!(service.picture(&url), picture);
    }
    assert!(generations(&service, &json!({"prompt": "x", "output_format": "gif"})).status == 400);
}

#[test]
fn what_the_real_codex_makes_is_told_as_it_is() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| setup);
    let ask = |marker: &str, more: &Value| {
        let mut body = json!({"prompt": format!("a kite [stub {marker}]")});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        generations(&lab.service, &body).expect(200).json()
    };
    // Opaque although transparency was asked for, and of another size.
    let body = ask("size=64x64", &json!({"background": "transparent", "size": "1024x1024"}));
    assert_eq!((&body["background"], &body["size"]), (&json!("opaque"), &json!("64x64")));
    assert_eq!(body["x_ignored"], json!(["size", "background"]));
    // Transparent.
    let body = ask("transparent=1", &json!({"background": "transparent", "output_format": "webp"}));
    assert_eq!((&body["background"], &body["x_ignored"]), (&json!("transparent"), &json!([])));
    assert_eq!(body["output_format"], "webp");
    // The words reached the model.
    let said = lab.backend.turns().iter().map(ToString::to_string).collect::<String>();
    for words in ["1024 by 1024 pixels, square, aspect ratio 1:1", "background wanted: transparent"]
    {
        assert!(said.contains(words), "{words}");
    }
    // Saved as JPEG: converted to PNG, which is the default.
    let body = ask("format=jpeg", &json!({}));
    assert_eq!(body["output_format"], "png");
    assert!(decoded(&body["data"][0]).starts_with(b"\x89PNG"));
}

#[test]
fn a_picture_that_was_handed_back_is_noticed_also_when_it_is_converted() {
    let service = Setup::fake().start();
    let body = json!({"prompt": "bluer [fake picture=copy-of-reference]", "output_format": "webp",
        "images": [{"image_url": data_url()}]});
    let reply = service.post_json(EDITS, &body).expect(502);
    assert_eq!(reply.json()["error"]["code"], "duplicate_image");
}

// Edits

/// A part of a form: name, what stands behind it in the head, value.
type Part<'a> = (&'a str, &'a str, &'a [u8]);

fn form(parts: &[Part]) -> (String, Vec<u8>) {
    let boundary = "----form";
    let mut body = Vec::new();
    for (name, head, value) in parts {
        let head = format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"{head}");
        body.extend([head.as_bytes(), b"\r\n\r\n", value, b"\r\n"].concat());
    }
    body.extend(format!("--{boundary}--\r\n").into_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

const FILE: &str = "; filename=\"picture.png\"\r\ncontent-type: application/octet-stream";

#[test]
fn edits_carry_their_images_and_a_mask_to_the_model() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| setup);
    let file = || pictures::unique(&pictures::Kind::default(), "image");
    let (one, two, mask) = (file(), file(), file());
    let (kind, body) = form(&[
        ("mask", FILE, &mask),
        ("image[]", FILE, &one),
        ("prompt", "", b"make it night"),
        ("image[]", FILE, &two),
    ]);
    let reply =
        lab.service.request("POST", EDITS, &[("content-type", &kind)], Some(&body)).expect(200);
    assert_eq!(reply.json()["x_ignored"], json!(["mask"]));
    // All three went to OpenAI, the mask last, as they were sent.
    let requests = lab.backend.image_requests();
    assert_eq!(requests.len(), 1);
    let sent: Vec<&str> = requests[0].references.iter().map(|sent| sent.sha256.as_str()).collect();
    assert_eq!(sent, [&one, &two, &mask].map(|bytes| sha256(bytes)));
    let said = lab.backend.turns().iter().map(ToString::to_string).collect::<String>();
    assert!(said.contains("The last of them is a mask for the first"));
}

#[test]
fn edits_by_json_and_several_results() {
    let service = Setup::painter().start();
    let body = json!({"prompt": "x", "n": 2, "images": [{"image_url": data_url()}, {"image_url": data_url()}]});
    let reply = service.post_json(EDITS, &body).expect(200).json();
    assert_eq!(reply["data"].as_array().unwrap().len(), 2);
}

#[test]
fn a_form_without_a_length_is_read_as_well() {
    let service = Setup::painter().start();
    let picture = pictures::unique(&pictures::Kind::default(), "image");
    let (kind, body) = form(&[("image", FILE, &picture), ("prompt", "", b"x")]);
    let mut chunked = Vec::new();
    for piece in body.chunks(500) {
        chunked.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        chunked.extend(piece);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let headers = [("content-type", kind.as_str()), ("transfer-encoding", "chunked")];
    service.request("POST", EDITS, &headers, Some(&chunked)).expect(200);
}

#[test]
fn bad_uploads_are_refused_and_leave_nothing() {
    let service = Setup::painter().start();
    let picture = pictures::unique(&pictures::Kind::default(), "image");
    let big = pictures::unique(
        &pictures::Kind { size: (2000, 2000), noise: true, ..pictures::Kind::default() },
        "big",
    );
    assert!(big.len() > 10 * 1024 * 1024);
    let prompt: Part = ("prompt", "", b"x");
    let image: Part = ("image", FILE, &picture);
    let cases: [(Vec<Part>, &str); 8] = [
        (vec![prompt], "image"),
        (vec![image], "prompt"),
        (vec![prompt, ("image", FILE, b"no picture at all")], "image"),
        (vec![prompt, ("image", FILE, &picture[..picture.len() - 9])], "image"),
        (vec![prompt, ("image", FILE, &big)], "image"),
        (vec![prompt, image, image, image, image, image, image], "image"),
        (vec![prompt, image, ("n", "", b"9")], "n"),
        (vec![prompt, image, ("mask", FILE, b"<svg/>............")], "mask"),
    ];
    for (parts, param) in cases {
        let (kind, body) = form(&parts);
        let reply =
            service.request("POST", EDITS, &[("content-type", &kind)], Some(&body)).expect(400);
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["param"], &error["type"]),
            (&json!(param), &json!("invalid_request_error"))
        );
    }
    let references = service.state_dir().join("references");
    let left = std::fs::read_dir(references).map_or(0, Iterator::count);
    assert!(left <= 1, "only the folder's mark: {left}");
    let small = Setup::painter().set("MAX_REQUEST_BODY_BYTES", "2048").start();
    let (kind, body) = form(&[prompt, ("image", FILE, &[0; 4096])]);
    let reply = small.request("POST", EDITS, &[("content-type", &kind)], Some(&body)).expect(413);
    assert_eq!(reply.json()["error"]["code"], "request_too_large");
}

// Streams

#[test]
fn a_stream_ends_with_each_picture() {
    let service = Setup::painter().start();
    for (path, kind) in
        [(GENERATIONS, "image_generation.completed"), (EDITS, "image_edit.completed")]
    {
        let asked = json!({"prompt": "kites", "n": 2, "stream": true, "partial_images": 1,
            "images": [{"image_url": data_url()}]});
        let reply = service.post_json(path, &asked).expect(200);
        assert_eq!(reply.header("content-type"), Some("text/event-stream"));
        assert_eq!(reply.header("x-accel-buffering"), Some("no"));
        assert!(reply.header("x-job-id").is_some());
        let events = events(&reply.text());
        assert_eq!(events.len(), 2);
        for (name, data) in &events {
            assert_eq!((name.as_str(), &data["type"]), (kind, &json!(kind)));
            assert!(decoded(data).starts_with(b"\x89PNG"));
            for member in ["created_at", "background", "output_format", "quality", "size", "usage"]
            {
                assert!(!data[member].is_null(), "{member}");
            }
            // Only edits take pictures.
            let ignored = json!(["image", "partial_images"]);
            let expected = if path == EDITS { json!(["partial_images"]) } else { ignored };
            assert_eq!(data["x_ignored"], expected);
        }
        assert_ne!(decoded(&events[0].1), decoded(&events[1].1));
    }
}

#[test]
fn a_stream_is_kept_alive_and_tells_its_error() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| setup);
    let asked = json!({"prompt": "a kite [stub mode=moderated image_latency=17]", "stream": true});
    let reply = generations(&lab.service, &asked).expect(200);
    assert!(reply.text().starts_with(": keep-alive\n\n"), "{}", reply.text());
    let events = events(&reply.text());
    assert_eq!((events.len(), events[0].0.as_str()), (1, "error"));
    assert_eq!(events[0].1["error"]["code"], "moderation_blocked");
    assert_eq!(events[0].1["type"], "error");
}

#[test]
fn a_stream_tells_each_picture_as_it_comes() {
    let lab =
        Lab::served(&[HomeOptions::default()], |setup| setup.set("CODEX_WORKER_CONCURRENCY", "1"));
    lab.backend.hold_images();
    let bearer = format!("Bearer {}", lab.service.default_key());
    let mut connection = lab.service.connect();
    let body = json!({"prompt": "two kites", "n": 2, "stream": true}).to_string();
    let headers = [("authorization", bearer.as_str())];
    connection.send("POST", GENERATIONS, &headers, Some(body.as_bytes())).unwrap();
    lab.backend.wait_for_images(1);
    lab.backend.set("image_latency=60");
    lab.backend.release_images();
    // The second is not there for a long time.
    let head = connection.head().unwrap();
    assert_eq!(head.status, 200);
    let mut seen = String::new();
    while !seen.contains("\n\n") {
        seen += &String::from_utf8_lossy(&connection.read_some().unwrap());
    }
    assert!(seen.contains("event: image_generation.completed"), "{seen}");
    let job = head.header("x-job-id").unwrap();
    assert_eq!(lab.service.job(job)["status"], "running");
    lab.service.delete(&format!("/v1/images/jobs/{job}")).expect(200);
}

#[test]
fn what_can_be_decided_is_decided_before_a_stream_begins() {
    let service = Setup::painter().start();
    generations(&service, &json!({"prompt": "x", "stream": true, "n": 9})).expect(400);
    generations(&service, &json!({"stream": true})).expect(400);
    let full =
        Setup::fake().set("GENERATION_QUEUE_MAX_SIZE", "1").args(&["--role", "front"]).start();
    full.submit("waits");
    let reply = generations(&full, &json!({"prompt": "x", "stream": true})).expect(503);
    assert_eq!(reply.json()["error"]["code"], "queue_full");
}

#[test]
fn blank_lines_hold_a_connection_when_that_is_wanted() {
    let lab =
        Lab::served(&[HomeOptions::default()], |setup| setup.set("JSON_KEEPALIVE_SECONDS", "1"));
    let slow =
        generations(&lab.service, &json!({"prompt": "a kite [stub image_latency=3]"})).expect(200);
    assert!(slow.text().starts_with("\n\n"), "blank lines first");
    assert_eq!(slow.header("x-accel-buffering"), Some("no"), "else nginx keeps them to itself");
    decoded(&slow.json()["data"][0]);
    // An error comes under 200 then; before the first blank line it has its own status.
    let late = json!({"prompt": "a kite [stub mode=moderated image_latency=2.5]"});
    let late = generations(&lab.service, &late).expect(200);
    assert_eq!(late.json()["error"]["code"], "moderation_blocked");
    generations(&lab.service, &json!({"prompt": ""})).expect(400);
}

// Errors

#[test]
fn errors_have_openais_status() {
    let service = Setup::painter().start();
    let good = json!({"prompt": "a kite"});
    for (name, value) in [
        ("prompt", json!("")),
        ("n", json!(11)),
        ("size", json!("huge")),
        ("model", json!("gpt-4o")),
        ("background", json!("blue")),
        ("response_format", json!("xml")),
    ] {
        let reply = generations(&service, &with(&good, name, &value)).expect(400);
        let error = &reply.json()["error"];
        assert_eq!(error["param"], name);
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("invalid_request_error"), &json!("invalid_value"))
        );
    }
    let nothing = service.request_bare("POST", GENERATIONS, &[], Some(b"{}")).expect(401);
    assert_eq!(nothing.json()["error"]["code"], "missing_api_key");
    let broken = service.request("POST", GENERATIONS, &[], Some(b"{")).expect(400);
    assert_eq!(broken.json()["error"]["code"], "invalid_json");
    let variations = service.post_json("/v1/images/variations", &good).expect(404);
    assert!(variations.json()["error"]["message"].as_str().unwrap().contains("/v1/images/edits"));
    let model = service.get("/v1/models/gpt-4o").expect(404);
    assert_eq!(model.json()["error"]["code"], "model_not_found");
    service.request("GET", GENERATIONS, &[], None).expect(405);
}

#[test]
fn what_the_model_declines_is_the_callers_error_and_not_repeated() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| setup);
    for (mode, code) in [("moderated", "moderation_blocked"), ("refuse", "model_refused")] {
        let asked = json!({"prompt": format!("a kite [stub mode={mode}]")});
        let reply = generations(&lab.service, &asked).expect(400);
        assert_eq!(reply.json()["error"]["code"], code);
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        // The native API keeps its 502.
        lab.service.generate(asked["prompt"].as_str().unwrap()).expect(502);
    }
    let broken = json!({"prompt": "a kite [stub mode=500]"});
    let reply = generations(&lab.service, &broken).expect(502);
    assert_eq!(reply.json()["error"]["type"], "server_error");
    assert_eq!(reply.header("x-should-retry"), Some("false"), "it would join the job that failed");
}

#[test]
fn a_long_limit_is_not_worth_repeating_and_a_short_one_is() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| {
        setup.set("REQUEST_WAIT_TIMEOUT_SECONDS", "15")
    });
    lab.backend.set("mode=image-limit reset=3600");
    for _ in 0..2 {
        let reply = generations(&lab.service, &json!({"prompt": "a kite"})).expect(429);
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((3500..=3600).contains(&seconds), "{seconds}");
    }
    let lab = Lab::served(&[HomeOptions::default()], |setup| {
        setup.set("REQUEST_WAIT_TIMEOUT_SECONDS", "15")
    });
    lab.backend.set("mode=image-limit reset=50");
    let reply = generations(&lab.service, &json!({"prompt": "a kite"})).expect(429);
    assert!(reply.header("x-should-retry").is_none());
    assert!(reply.header("retry-after").is_some());
}

#[test]
fn patience_ends_with_the_job_named() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| {
        setup.set("REQUEST_WAIT_TIMEOUT_SECONDS", "0.5")
    });
    let reply =
        generations(&lab.service, &json!({"prompt": "a kite [stub image_latency=2]"})).expect(504);
    // A repetition finds the job; nothing keeps a client from it.
    assert!(reply.header("x-should-retry").is_none());
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(lab.service.wait_job(&id)["status"], "succeeded");
}

#[test]
fn partly_failed_is_a_success_that_says_so() {
    let lab =
        Lab::served(&[HomeOptions::default()], |setup| setup.set("CODEX_WORKER_CONCURRENCY", "1"));
    lab.backend.set("mode=ok");
    lab.backend.hold_images();
    let reply = thread::scope(|scope| {
        let asked =
            scope.spawn(|| generations(&lab.service, &json!({"prompt": "two kites", "n": 2})));
        lab.backend.wait_for_images(1);
        lab.backend.set("mode=moderated");
        lab.backend.release_images();
        asked.join().unwrap()
    });
    let body = reply.expect(200).json();
    assert_eq!((body["data"].as_array().unwrap().len(), &body["missing"]), (1, &json!(1)));
    assert_eq!(body["errors"][0]["code"], "moderation_blocked");
}

#[test]
fn who_sends_a_large_upload_reads_why_it_is_refused() {
    let full =
        Setup::fake().set("GENERATION_QUEUE_MAX_SIZE", "1").args(&["--role", "front"]).start();
    full.submit("waits");
    let small = Setup::painter().set("MAX_REQUEST_BODY_BYTES", "2048").start();
    let (kind, body) = form(&[("prompt", "", b"x"), ("image", FILE, &vec![0; 20_000_000])]);
    for (service, status) in [(&full, 503), (&small, 413)] {
        let bearer = format!("Bearer {}", service.default_key());
        let head = format!(
            "POST {EDITS} HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\n\
             content-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // Like most clients: everything is sent before anything is read.
        let mut connection = service.connect();
        connection.write_all(head.as_bytes()).unwrap();
        connection.write_all(&body).unwrap();
        assert_eq!(connection.reply("POST").unwrap().status, status);
    }
}

// Models, use, browsers

#[test]
fn models_are_listed_for_those_who_look_for_pictures() {
    let service = Setup::painter().start();
    let list = service.get("/v1/models").expect(200).json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids[0], "gpt-image-2");
    for id in ids {
        let model = service.get(&format!("/v1/models/{id}")).expect(200).json();
        assert_eq!((&model["id"], &model["object"]), (&json!(id), &json!("model")));
    }
    service.request_bare("GET", "/v1/models", &[], None).expect(401);
}

#[test]
fn a_key_sees_its_own_use() {
    begin_within_a_day();
    let service = Setup::painter().start();
    let other = service.key("other");
    generations(&service, &json!({"prompt": "kites", "n": 3})).expect(200);
    service.generate("a kite").expect(200);
    service
        .request_as(&other, "POST", "/v1/images/generate", Some(br#"{"prompt":"x"}"#))
        .expect(200);
    let mine = service.get("/v1/usage").expect(200).json();
    assert_eq!((&mine["images_today"], &mine["images_30_days"]), (&json!(4), &json!(4)));
    assert_eq!(
        (&mine["jobs_queued"], &mine["jobs_running"], &mine["limits"]),
        (&json!(0), &json!(0), &json!(null))
    );
    let theirs = service.request_as(&other, "GET", "/v1/usage", None).expect(200).json();
    assert_eq!(theirs["images_today"], 1);
    assert!(!mine.to_string().contains("quota"));
    let waiting = Setup::fake().args(&["--role", "front"]).start();
    waiting.submit("a kite");
    assert_eq!(waiting.get("/v1/usage").json()["jobs_queued"], 1);
}

#[test]
fn the_setting_allows_more_pictures() {
    let service = Setup::painter().set("MAX_IMAGES_PER_REQUEST", "6").start();
    let body = generations(&service, &json!({"prompt": "kites", "n": 6})).expect(200).json();
    assert_eq!(body["data"].as_array().unwrap().len(), 6);
    generations(&service, &json!({"prompt": "kites", "n": 7})).expect(400);
}

#[test]
fn a_browser_may_send_what_openais_client_sends() {
    let service = Setup::painter().set("CORS_ALLOW_ORIGINS", "https://app.example").start();
    let asked = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization,content-type,x-stainless-lang,idempotency-key",
        ),
    ];
    let reply = service.request_bare("OPTIONS", GENERATIONS, &asked, None);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
    let allowed = reply.header("access-control-allow-headers").unwrap();
    for header in ["authorization", "x-stainless-lang", "idempotency-key"] {
        assert!(allowed.contains(header), "{allowed}");
    }
}

#[test]
fn many_large_answers_at_once_are_not_held_in_memory() {
    let backend = Backend::start();
    backend.set("size=1024x1024 noise=1");
    let service = Setup::served(&backend, &[HomeOptions::default()]).start();
    let asked = json!({"prompt": "a kite", "n": 4});
    let first = generations(&service, &asked).expect(200);
    assert!(first.body.len() > 16_000_000, "{}", first.body.len());
    let key = service.default_key().to_owned();
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
    };
    let before = resident();
    // The same request again, 20 times, each joined to the same job, read by nobody yet.
    let headers =
        [("authorization", format!("Bearer {key}")), ("x-stainless-retry-count", "1".to_owned())];
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut connection = service.connect();
        connection.send("POST", GENERATIONS, &headers, Some(asked.to_string().as_bytes())).unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        open.push(connection);
    }
    thread::sleep(Duration::from_millis(300));
    let grown = resident().saturating_sub(before);
    assert!(grown < 60_000, "{grown} KiB for 20 answers of 16 MB");
    assert_eq!(backend.image_requests().len(), 4);
    wait_for("the end of the answer", || {
        let whole = open.pop()?.read_some().ok()?;
        (!whole.is_empty()).then_some(())
    });
}
