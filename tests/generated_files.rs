//! Promise: a picture is served by its row and by nothing else: with the right type, conditions
//! and ranges, and no name of any shape reaches another file.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::fs;

use serde_json::json;
use support::{Reply, Service, Setup, pictures, sqlite::Database, wait_for};

/// A finished picture: its path on the wire and its bytes.
struct Picture {
    path: String,
    bytes: Vec<u8>,
}

impl Picture {
    fn of(service: &Service, prompt: &str) -> Self {
        let reply = service.generate(prompt).expect(200).json();
        let url = reply["images"][0]["url"].as_str().unwrap();
        let path = url[url.find("/generated/").unwrap()..].to_owned();
        Self { bytes: get(service, &path, &[]).expect(200).body, path }
    }

    fn file(&self, service: &Service) -> std::path::PathBuf {
        let name = self.path.strip_prefix("/generated/").unwrap();
        service.state_dir().join("generated").join(name)
    }
}

fn get(service: &Service, path: &str, headers: &[(&str, &str)]) -> Reply {
    service.request_bare("GET", path, headers, None)
}

/// The same answer as for a name that nobody ever had.
#[track_caller]
fn assert_not_found(service: &Service, path: &str) {
    let reply = get(service, path, &[]);
    assert_eq!(reply.status, 404, "{path}: {reply:?}");
    let code = reply.json()["error"]["code"].as_str().unwrap().to_owned();
    assert!(code == "file_not_found" || code == "not_found", "{path}: {code}");
}

#[test]
fn the_type_is_the_true_one() {
    let service = Setup::fake().start();
    for (kind, extension, media_type) in
        [("ok", "png", "image/png"), ("jpeg", "jpg", "image/jpeg"), ("webp", "webp", "image/webp")]
    {
        let picture = Picture::of(&service, &format!("[fake picture={kind}]"));
        assert!(picture.path.ends_with(extension), "{}", picture.path);
        let reply = get(&service, &picture.path, &[]);
        assert_eq!(reply.header("content-type"), Some(media_type));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert!(reply.header("content-security-policy").unwrap().contains("sandbox"));
        assert_eq!(reply.header("accept-ranges"), Some("bytes"));
        assert!(reply.header("cache-control").is_some());
        assert_eq!(reply.header("etag"), Some(&*format!("\"{}\"", pictures::sha256(&reply.body))));
        let stored = fs::read(picture.file(&service)).unwrap();
        assert_eq!(reply.body, stored);
    }
}

#[test]
fn head_says_the_same_without_the_bytes() {
    let service = Setup::painter().start();
    let picture = Picture::of(&service, "a kite");
    let head = service.request_bare("HEAD", &picture.path, &[], None).expect(200);
    let get = get(&service, &picture.path, &[]);
    let but_times = |reply: &Reply| {
        let mut headers = reply.headers.clone();
        headers.retain(|(name, _)| name != "date" && name != "x-request-id");
        headers
    };
    assert_eq!(but_times(&head), but_times(&get));
    assert_eq!(get.header("content-length"), Some(&*picture.bytes.len().to_string()));
    let missing = service.request_bare("HEAD", "/generated/img_0.png", &[], None).expect(404);
    assert!(missing.body.is_empty());
}

#[test]
fn a_large_picture_arrives_whole() {
    let service = Setup::fake().start();
    let picture = Picture::of(&service, "[fake picture=noise]");
    assert!(picture.bytes.len() > 2_000_000, "{}", picture.bytes.len());
    assert_eq!(picture.bytes, fs::read(picture.file(&service)).unwrap());
    image::load_from_memory(&picture.bytes).unwrap();
    // Several on one connection, and somebody who leaves in the middle.
    let mut connection = service.connect();
    for _ in 0..3 {
        connection.send("GET", &picture.path, &[], None).unwrap();
        assert_eq!(connection.reply("GET").unwrap().body, picture.bytes);
    }
    connection.send("GET", &picture.path, &[], None).unwrap();
    connection.head().unwrap();
    drop(connection);
    assert_eq!(service.picture(&picture.path), picture.bytes);
}

// Conditions

#[test]
fn conditions() {
    let service = Setup::painter().start();
    let picture = Picture::of(&service, "a kite");
    let whole = get(&service, &picture.path, &[]);
    let etag = whole.header("etag").unwrap();
    let modified = whole.header("last-modified").unwrap();
    let weak = format!("W/{etag}");
    let list = format!("\"other\", {etag}");
    let old = "Mon, 01 Jan 2024 00:00:00 GMT";
    let late = "Fri, 01 Jan 2100 00:00:00 GMT";
    for (status, headers) in [
        (304, vec![("if-none-match", etag)]),
        (304, vec![("if-none-match", &*weak)]),
        (304, vec![("if-none-match", &*list)]),
        (304, vec![("if-none-match", "*")]),
        (200, vec![("if-none-match", "\"other\"")]),
        (304, vec![("if-modified-since", modified)]),
        (304, vec![("if-modified-since", late)]),
        (200, vec![("if-modified-since", old)]),
        (200, vec![("if-modified-since", "yesterday")]),
        // The tag decides when there is one.
        (200, vec![("if-none-match", "\"other\""), ("if-modified-since", modified)]),
        (304, vec![("if-none-match", etag), ("if-modified-since", old)]),
        // A condition comes before a range.
        (304, vec![("if-none-match", etag), ("range", "bytes=0-1")]),
    ] {
        for method in ["GET", "HEAD"] {
            let reply = service.request_bare(method, &picture.path, &headers, None);
            assert_eq!(reply.status, status, "{method} {headers:?}");
            // RFC 9110, 15.4.5: what a cache needs is there again.
            for name in ["etag", "last-modified", "cache-control"] {
                assert_eq!(reply.header(name), whole.header(name), "{method} {headers:?}");
            }
            if status == 304 {
                assert_eq!(reply.header("content-type"), None);
            }
        }
    }
    // A 304 has no body that could disturb the next answer on the connection.
    let mut connection = service.connect();
    for _ in 0..2 {
        connection.send("GET", &picture.path, &[("if-none-match", etag)], None).unwrap();
        connection.reply("GET").unwrap().expect(304);
    }
    connection.send("GET", &picture.path, &[], None).unwrap();
    assert_eq!(connection.reply("GET").unwrap().expect(200).body, picture.bytes);
}

#[test]
fn ranges() {
    let service = Setup::painter().start();
    let picture = Picture::of(&service, "a kite");
    let length = picture.bytes.len();
    let last = length - 1;
    let part = |range: &str, from: usize, to: usize| {
        let reply = get(&service, &picture.path, &[("range", range)]).expect(206);
        assert_eq!(reply.body, picture.bytes[from..=to], "{range}");
        let content_range = format!("bytes {from}-{to}/{length}");
        assert_eq!(reply.header("content-range"), Some(&*content_range));
        assert_eq!(reply.header("content-type"), Some("image/png"));
        assert!(reply.header("etag").is_some());
    };
    part("bytes=0-0", 0, 0);
    part("bytes=0-99", 0, 99);
    part("bytes=10-19", 10, 19);
    part("bytes=100-", 100, last);
    part("bytes=-1", last, last);
    part("bytes=-50", length - 50, last);
    part(&format!("bytes={last}-"), last, last);
    part(&format!("bytes=5-{}", length * 2), 5, last);
    part("bytes=5-18446744073709551615", 5, last);

    for range in [format!("bytes={length}-"), format!("bytes={}-{}", length + 5, length + 9)] {
        let reply = get(&service, &picture.path, &[("range", &range)]).expect(416);
        assert_eq!(reply.header("content-range"), Some(&*format!("bytes */{length}")));
        assert!(reply.body.is_empty(), "{range}");
    }
    get(&service, &picture.path, &[("range", "bytes=-0")]).expect(416);
    for range in [
        "bytes=0-1,5-6",
        "bytes=0-,0-,0-,0-",
        "bytes=5-2",
        "bytes=-",
        "bytes=a-b",
        "bytes",
        "lines=1-2",
        "bytes=18446744073709551616-",
    ] {
        let reply = get(&service, &picture.path, &[("range", range)]).expect(200);
        assert_eq!(reply.body, picture.bytes, "{range}");
    }
    let longer = format!("bytes=-{}", length * 2);
    let reply = get(&service, &picture.path, &[("range", &longer)]);
    assert!([200, 206].contains(&reply.status) && reply.body == picture.bytes, "{reply:?}");
    // A range is of GET only.
    let head = service.request_bare("HEAD", &picture.path, &[("range", "bytes=0-1")], None);
    assert_eq!(head.expect(200).header("content-length"), Some(&*length.to_string()));
}

#[test]
fn a_range_of_an_older_file_gets_the_whole() {
    let service = Setup::painter().start();
    let picture = Picture::of(&service, "a kite");
    let whole = get(&service, &picture.path, &[]);
    let etag = whole.header("etag").unwrap();
    let modified = whole.header("last-modified").unwrap();
    let weak = format!("W/{etag}");
    for (status, condition) in [
        (206, etag),
        (206, modified),
        (200, "\"other\""),
        (200, weak.as_str()),
        (200, "Mon, 01 Jan 2024 00:00:00 GMT"),
    ] {
        let headers = [("range", "bytes=0-9"), ("if-range", condition)];
        assert_eq!(get(&service, &picture.path, &headers).status, status, "{condition}");
    }
}

// Names

#[test]
fn no_name_reaches_another_file() {
    let service = Setup::painter().start();
    let picture = Picture::of(&service, "a kite");
    let name = picture.path.strip_prefix("/generated/").unwrap().to_owned();
    let folder = service.state_dir().join("generated");
    // Files that lie there without a row, whatever they are called.
    let stray = format!("img_{}.png", "0".repeat(32));
    for file in [stray.as_str(), ".tmp-1.png", ".hidden", "notes.txt", "a.png"] {
        fs::write(folder.join(file), &picture.bytes).unwrap();
        assert_not_found(&service, &format!("/generated/{file}"));
    }
    let absolute = folder.join(&name).display().to_string().replace('/', "%2f");
    let upper = name.to_uppercase();
    for odd in [
        "",
        "/",
        ".",
        "..",
        "%2e%2e",
        "..%2fcodex-image-service.db",
        "../codex-image-service.db",
        "%2e%2e%2fcodex-image-service.db",
        "..%5ccodex-image-service.db",
        "....//codex-image-service.db",
        "%00",
        "%ff",
        "%",
        "%2",
        "'%20OR%201=1--",
        absolute.as_str(),
        upper.as_str(),
        &format!("{name}%00"),
        &format!("{name}%00.png"),
        &format!("{name}/"),
        &format!("{name}%2f"),
        &format!("{name}%20"),
        &format!(".%2f{name}"),
        &format!("x%2f..%2f{name}"),
        &format!("{name}.png"),
        name.trim_end_matches(".png"),
        &name.replace(".png", ".jpg"),
        &"x".repeat(5000),
    ] {
        assert_not_found(&service, &format!("/generated/{odd}"));
    }
    // Names are compared after decoding; a query is ignored.
    let encoded = picture.path.replace("img_", "%69mg%5F");
    assert_eq!(get(&service, &encoded, &[]).expect(200).body, picture.bytes);
    let asked = format!("{}?x=../y", picture.path);
    assert_eq!(get(&service, &asked, &[]).expect(200).body, picture.bytes);
    for method in ["POST", "PUT", "DELETE"] {
        service.request_bare(method, &picture.path, &[], None).expect(405);
    }
    assert!(picture.file(&service).exists());
}

#[test]
fn what_took_the_place_of_a_picture_is_not_served() {
    let service = Setup::painter().start();
    let secret = service.state_dir().join("secret.txt");
    fs::write(&secret, "secret").unwrap();
    let gone = Picture::of(&service, "gone");
    fs::remove_file(gone.file(&service)).unwrap();
    assert_not_found(&service, &gone.path);
    let link = Picture::of(&service, "link");
    fs::remove_file(link.file(&service)).unwrap();
    std::os::unix::fs::symlink(&secret, link.file(&service)).unwrap();
    assert_not_found(&service, &link.path);
    let folder = Picture::of(&service, "folder");
    fs::remove_file(folder.file(&service)).unwrap();
    fs::create_dir(folder.file(&service)).unwrap();
    assert_not_found(&service, &folder.path);
    let log = service.log();
    assert!(log.contains("could not be opened"), "the operator is told");
}

#[test]
fn the_picture_of_an_expired_job_is_gone() {
    let service = Setup::painter().start();
    let picture = Picture::of(&service, "a kite");
    let kept = Picture::of(&service, "another");
    let file = picture.path.strip_prefix("/generated/").unwrap();
    let id = file.trim_end_matches(".png");
    let expire = format!("UPDATE jobs SET expires_at = 1 WHERE id = '{id}'");
    assert_eq!(Database::of(&service).run(&expire), 1);
    let output = service.run(&["cleanup"]);
    assert!(output.status.success(), "{output:?}");
    assert_not_found(&service, &picture.path);
    assert!(!picture.file(&service).exists());
    let job = service.job(id);
    assert_eq!((&job["status"], &job["images"]), (&json!("expired"), &json!([])));
    assert_eq!(service.picture(&kept.path), kept.bytes);
    // Not even a copy that somebody puts back.
    fs::write(picture.file(&service), &picture.bytes).unwrap();
    assert_not_found(&service, &picture.path);
}

#[test]
fn the_pictures_of_a_cancelled_job_are_not_served() {
    let service = Setup::fake().start();
    // The first picture is there while the second is being drawn: a run takes its login alone.
    let body = json!({"prompt": "[fake later-gate]", "count": 4});
    let id = service.post_json("/v1/images/jobs", &body).expect(202).json();
    let id = id["id"].as_str().unwrap();
    let path = format!("/generated/{id}_1.png");
    let file = service.state_dir().join("generated").join(format!("{id}_1.png"));
    let stored = "SELECT file FROM images";
    wait_for("the first picture", || {
        (!Database::of(&service).texts(stored).is_empty()).then_some(())
    });
    assert!(file.exists());
    assert_not_found(&service, &path);
    service.delete(&format!("/v1/images/jobs/{id}")).expect(200);
    assert_not_found(&service, &path);
    let job = service.job(id);
    assert_eq!((&job["status"], &job["images"]), (&json!("cancelled"), &json!([])));
}
