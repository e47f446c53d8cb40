//! Promise: whatever the body holds, the answer is the right refusal, nothing of it stays on the
//! disk, and it never costs more memory than its few buffers.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    io::{self, Write as _},
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::{
    Reply, Service, Setup, lab,
    pictures::{self, Kind},
    process,
    sqlite::Database,
    wait_for,
};

const JOBS: &str = "/v1/images/jobs";
const MIB: usize = 1024 * 1024;

/// What one upload may cost: 192 KiB of buffers, a thread's stack, and what the allocator and the
/// development build add.
const ONE_UPLOAD_KIB: u64 = 2 * 1024;

fn post(service: &Service, body: impl AsRef<[u8]>) -> Reply {
    service.request("POST", JOBS, &[], Some(body.as_ref()))
}

/// Refused with this status, with the envelope, and without a trace on the disk.
#[track_caller]
fn assert_refused(service: &Service, body: impl AsRef<[u8]>, status: u16) -> String {
    let body = body.as_ref();
    let start = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    let reply = post(service, body);
    assert_eq!(reply.status, status, "{start}: {reply:?}");
    let answer = reply.json();
    assert_eq!(answer["error"]["message"], answer["detail"]);
    assert!(files_of_references(service).is_empty(), "{start}");
    answer["detail"].as_str().unwrap().to_owned()
}

/// Everything in the folder of references, folders too.
fn files_of_references(service: &Service) -> Vec<String> {
    fn walk(dir: &std::path::Path, found: &mut Vec<String>) {
        for name in lab::names(dir) {
            let path = dir.join(name);
            found.push(path.display().to_string());
            if path.is_dir() {
                walk(&path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(&service.state_dir().join("references"), &mut found);
    found
}

fn small_picture() -> Vec<u8> {
    pictures::unique(&Kind::default(), "hostile")
}

fn with_reference(bytes: &[u8]) -> String {
    json!({"prompt": "x", "reference_images_base64": [STANDARD.encode(bytes)]}).to_string()
}

/// A true PNG of just these many bytes: the rest is a chunk that viewers skip.
fn padded_png(length: usize) -> Vec<u8> {
    let mut bytes = small_picture();
    let end = bytes.split_off(bytes.len() - 12);
    let data = length - bytes.len() - end.len() - 12;
    let mut chunk = b"teSt".to_vec();
    chunk.resize(4 + data, b'.');
    bytes.extend(u32::try_from(data).unwrap().to_be_bytes());
    bytes.extend(&chunk);
    bytes.extend(crc32fast::hash(&chunk).to_be_bytes());
    bytes.extend(end);
    assert_eq!(bytes.len(), length);
    bytes
}

/// How many KiB the service's peak grew by while `work` ran.
fn growth_of(service: &Service, work: impl FnOnce()) -> u64 {
    process::forget_peak(service.pid());
    let before = process::peak_kib(service.pid()).unwrap();
    work();
    process::peak_kib(service.pid()).unwrap() - before
}

/// Threads, caches and the allocator's arenas are there before anything is measured.
fn warm_up(service: &Service) {
    let body = with_reference(&small_picture());
    for _ in 0..3 {
        post(service, &body).expect(202);
        post(service, vec![b' '; MIB]).expect(400);
    }
    wait_for("the end of the jobs", || {
        let open = "SELECT id FROM jobs WHERE state IN ('queued', 'running')";
        Database::of(service).texts(open).is_empty().then_some(())
    });
}

// Text

#[test]
fn malformed_json() {
    let service = Setup::painter().start();
    for body in [
        "",
        " ",
        "{",
        "}",
        "nul",
        "{\"prompt\":\"x\"",
        "{\"prompt\":\"x\",}",
        "{\"prompt\":\"x\"}}",
        "{\"prompt\":\"x\"} {\"prompt\":\"y\"}",
        "{\"prompt\":\"x\"}x",
        "{'prompt':'x'}",
        "{prompt:\"x\"}",
        "{\"prompt\" \"x\"}",
        "{\"prompt\":\"x\" \"size\":\"auto\"}",
        "{\"prompt\":\"a\nb\"}",
        "{\"prompt\":\"\\x\"}",
        "{\"prompt\":\"\\u12g4\"}",
        "{\"prompt\":\"x\"} // said",
        "{\"prompt\":\"x\",\"x\":[1,2}",
        "{\"prompt\":\"x\",\"x\":01}",
        "{\"prompt\":\"x\",\"count\":01}",
        "{\"prompt\":\"x\",\"count\":NaN}",
        "prompt=x&size=auto",
    ] {
        let why = assert_refused(&service, body, 400);
        assert!(why.starts_with("The request body is not valid JSON"), "{body}: {why}");
        assert!(!why.contains('$') && why.len() < 200, "{body}: {why}");
    }
    // A form begins like a negative number.
    let form = "--boundary\r\ncontent-disposition: form-data; name=\"prompt\"\r\n\r\nx";
    assert_refused(&service, form, 422);
}

#[test]
fn text_that_no_prompt_may_hold() {
    let service = Setup::painter().start();
    for prompt in [
        "\\ud800",
        "\\udc00",
        "\\ud834x",
        "\\ud834\\ud834",
        "\\udd1e\\ud834",
        "\\u0000",
        "a\\u0000",
    ] {
        assert_refused(&service, format!(r#"{{"prompt":"{prompt}"}}"#), 400);
        // Also where nobody reads it, and in the names.
        let surrogate = prompt.contains("ud");
        if surrogate {
            assert_refused(&service, format!(r#"{{"prompt":"x","size":"{prompt}"}}"#), 400);
            assert_refused(&service, format!(r#"{{"{prompt}":1,"prompt":"x"}}"#), 400);
        }
    }
    for size in ["\\u0000", "1024\\u0000"] {
        assert_refused(&service, format!(r#"{{"prompt":"x","size":"{size}"}}"#), 400);
    }
}

#[test]
fn bytes_that_are_no_utf8() {
    let service = Setup::painter().start();
    for bad in
        [&b"\xff"[..], b"\xc3(", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]
    {
        for (before, after) in [
            (&b"{\"prompt\":\""[..], &b"\"}"[..]),
            (b"{\"prompt\":\"x\",\"", b"\":1}"),
            (b"{\"prompt\":\"x\",\"y\":\"", b"\"}"),
            (b"{\"prompt\":\"x\",\"reference_image_base64\":\"", b"\"}"),
            (b"", b"{}"),
        ] {
            assert_refused(&service, [before, bad, after].concat(), 400);
        }
    }
    let utf16: Vec<u8> = "{\"prompt\":\"x\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_refused(&service, utf16, 400);
}

#[test]
fn wrong_types() {
    let service = Setup::painter().start();
    for body in ["[]", "\"x\"", "1", "null", "true", "[{\"prompt\":\"x\"}]"] {
        assert_refused(&service, body, 422);
    }
    let wrong = ["1", "1.5", "true", "null", "[]", "{}", "[\"x\"]", "{\"x\":1}"];
    for field in ["prompt", "size", "quality"] {
        for value in wrong {
            let body = format!(r#"{{"prompt":"x","{field}":{value}}}"#);
            let why = assert_refused(&service, body, 422);
            assert!(why.contains(field), "{why}");
        }
    }
    for value in ["true", "null", "[1]", "{}", "\"two\""] {
        assert_refused(&service, format!(r#"{{"prompt":"x","count":{value}}}"#), 422);
    }
    for value in ["1", "true", "{}", "\"AAAA\"", "[1]", "[null]", "[[]]", "[{}]"] {
        let body = format!(r#"{{"prompt":"x","reference_images_base64":{value}}}"#);
        assert_refused(&service, body, 422);
    }
    for value in ["1", "true", "{}", "[]"] {
        let body = format!(r#"{{"prompt":"x","reference_image_base64":{value}}}"#);
        assert_refused(&service, body, 422);
    }
}

#[test]
fn nesting() {
    let service = Setup::painter().start();
    for depth in [1_000, 1_000_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let body = format!(
                r#"{{"prompt":"x","deep":{}1{}}}"#,
                open.repeat(depth),
                close.repeat(depth)
            );
            assert_refused(&service, body, 400);
            assert_refused(&service, open.repeat(depth), if open == "[" { 422 } else { 400 });
        }
    }
    let body = format!(r#"{{"deep":{}1{},"prompt":"x"}}"#, "[".repeat(90), "]".repeat(90));
    post(&service, body).expect(202);
}

#[test]
fn order_and_repetition_of_keys() {
    let service = Setup::painter().start();
    let (first, second) = (small_picture(), small_picture());
    let (one, two) = (STANDARD.encode(&first), STANDARD.encode(&second));
    let row = |body: String| {
        post(&service, body).expect(202);
        let sql = "SELECT prompt || ' ' || size || ' ' || count || ' ' || coalesce((SELECT \
                   group_concat(sha256) FROM job_references WHERE job_id = jobs.id), '') \
                   FROM jobs ORDER BY seq DESC LIMIT 1";
        Database::of(&service).texts(sql).remove(0)
    };
    // As in every other reader of JSON, the last of equals counts.
    assert_eq!(
        row(r#"{"prompt":"a","size":"auto","prompt":"b","count":2}"#.to_owned()),
        "b auto 2 "
    );
    let expected = format!("b 1024x1024 1 {}", pictures::sha256(&second));
    for body in [
        format!(r#"{{"count":3,"reference_images_base64":["{two}"],"prompt":"b"}}"#),
        format!(r#"{{"reference_images_base64":["{two}"],"count":3,"prompt":"b"}}"#),
        format!(
            r#"{{"reference_images_base64":["{one}","{one}"],"prompt":"a",
                "reference_images_base64":["{two}"],"prompt":"b"}}"#
        ),
        format!(
            r#"{{"reference_image_base64":"{one}","reference_image_base64":"{two}","prompt":"b"}}"#
        ),
        format!(
            r#"{{"reference_image_base64":"{two}","prompt":"b","reference_images_base64":["{one}"],
                "reference_images_base64":null}}"#
        ),
    ] {
        assert_eq!(row(body), expected);
    }
    // The replaced ones are files as well, and tiny pictures would make many of them.
    let again = format!(r#""reference_image_base64":"{one}","#).repeat(1000);
    let before = files_of_references(&service).len();
    post(&service, format!(r#"{{{again}"prompt":"x"}}"#)).expect(422);
    assert_eq!(files_of_references(&service).len(), before);
}

// Pictures

#[test]
fn what_is_no_base64() {
    let service = Setup::painter().start();
    let good = STANDARD.encode(small_picture());
    let (half, rest) = good.split_at(good.len() / 2);
    for text in [
        "!".to_owned(),
        "=".to_owned(),
        "A".to_owned(),
        "====".to_owned(),
        format!("{half}%{rest}"),
        format!("{half}={rest}"),
        format!("{good}=A"),
        format!("{half}\\u0000{rest}"),
        format!("{half}é{rest}"),
        format!("data:image/png,{good}"),
        format!("data:image/png;base64;{good}"),
        "data:".to_owned(),
        "data:,".to_owned(),
        format!("data:{};base64,{good}", "x".repeat(MIB)),
        format!("http://example.org/{good}"),
    ] {
        for index in [0, 2] {
            let list = [vec![format!("\"{good}\""); index], vec![format!("\"{text}\"")]].concat();
            let list = list.join(",");
            let body = format!(r#"{{"prompt":"x","reference_images_base64":[{list}]}}"#);
            let why = assert_refused(&service, body, 400);
            let named = format!("reference_images_base64[{index}]: ");
            assert!(why.starts_with(&named), "{why}");
        }
    }
}

#[test]
fn what_is_no_picture() {
    let service = Setup::painter().start();
    let png = small_picture();
    let jpeg =
        pictures::unique(&Kind { format: image::ImageFormat::Jpeg, ..Kind::default() }, "hostile");
    let webp =
        pictures::unique(&Kind { format: image::ImageFormat::WebP, ..Kind::default() }, "hostile");
    let mut damaged = png.clone();
    damaged[40] ^= 1;
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec();
    let mut bodies: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "empty"),
        (svg, "not a PNG, JPEG or WebP"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;".to_vec(), "not a PNG, JPEG or WebP"),
        (b"%PDF-1.7 and so on and on and on".to_vec(), "not a PNG, JPEG or WebP"),
        (vec![0; 5000], "not a PNG, JPEG or WebP"),
        (png[..4].to_vec(), ""),
        (png[..8].to_vec(), ""),
        (damaged, "damaged"),
        // Bombs: a few bytes that claim to be gigabytes.
        (pictures::lying_png(60_000, 60_000), "pixels"),
        (pictures::lying_png(u32::MAX, 1), "pixels"),
        (pictures::lying_png(0, 10), "pixels"),
    ];
    for whole in [&png, &jpeg, &webp] {
        for length in [whole.len() / 4, whole.len() / 2, whole.len() - 1] {
            bodies.push((whole[..length].to_vec(), "truncated"));
        }
    }
    for (bytes, why) in bodies {
        let said = assert_refused(&service, with_reference(&bytes), 400);
        assert!(said.contains(why), "{why}: {said}");
    }
    for whole in [png, jpeg, webp] {
        post(&service, with_reference(&whole)).expect(202);
    }
}

#[test]
fn too_many_and_too_large() {
    let service = Setup::painter().start();
    let one = STANDARD.encode(small_picture());
    for count in [6, 1000] {
        let body = json!({"prompt": "x", "reference_images_base64": vec![&one; count]});
        assert_refused(&service, body.to_string(), 422);
    }
    let largest = padded_png(10 * MIB);
    let too_large = padded_png(10 * MIB + 1);
    let why = assert_refused(&service, with_reference(&too_large), 400);
    assert!(why.contains("larger than 10 MiB"), "{why}");
    // Also when what is too much stands behind the picture's end.
    let trailing = [small_picture(), vec![0; 11 * MIB]].concat();
    assert_refused(&service, with_reference(&trailing), 400);

    post(&service, with_reference(&largest)).expect(202);
    // Five of the largest are just what the limit is made for.
    let five: Vec<String> = (0..5).map(|_| STANDARD.encode(padded_png(10 * MIB))).collect();
    let body = json!({"prompt": "x", "reference_images_base64": five}).to_string();
    post(&service, body).expect(202);
}

#[test]
fn a_late_flaw_takes_back_what_was_stored() {
    let service = Setup::painter().start();
    let one = STANDARD.encode(small_picture());
    let list = format!(r#""reference_images_base64":["{one}","{one}"]"#);
    for (body, status) in [
        (format!("{{{list}"), 400),
        (format!("{{{list},\"prompt\":\"\"}}"), 422),
        (format!("{{{list}}}"), 422),
        (format!("{{{list},\"prompt\":\"x\",\"size\":\"1\"}}"), 422),
        (format!("{{{list},\"prompt\":\"x\"}} trailing"), 400),
        (format!("{{{list},\"reference_image_base64\":\"A\",\"prompt\":\"x\"}}"), 400),
    ] {
        assert_refused(&service, body, status);
    }
    // A caller that hangs up in the middle.
    let bearer = format!("Bearer {}", service.default_key());
    let mut connection = service.connect();
    let headers = [("authorization", bearer.as_str()), ("content-length", "1000000")];
    connection.send("POST", JOBS, &headers, Some(format!("{{{list}").as_bytes())).unwrap();
    wait_for("the first files", || (!files_of_references(&service).is_empty()).then_some(()));
    drop(connection);
    wait_for("no files", || files_of_references(&service).is_empty().then_some(()));
    let jobs = Database::of(&service).texts("SELECT id FROM jobs");
    assert!(jobs.is_empty(), "{jobs:?}");
}

// Memory

#[test]
fn what_is_huge_is_not_held() {
    let service = Setup::painter().start();
    warm_up(&service);
    let huge = |unit: &str, mib: usize| unit.repeat(mib * MIB / unit.len());
    let cases: [(&str, String, u16); 11] = [
        ("prompt", format!(r#"{{"prompt":"{}"}}"#, huge("x", 10)), 422),
        ("escaped prompt", format!(r#"{{"prompt":"{}"}}"#, huge("\\u00e9", 10)), 422),
        ("size", format!(r#"{{"prompt":"x","size":"{}"}}"#, huge("1", 10)), 422),
        ("count", format!(r#"{{"prompt":"x","count":"{}"}}"#, huge("1", 10)), 422),
        ("number", format!(r#"{{"prompt":"x","count":{}}}"#, huge("1", 60)), 400),
        ("name", format!(r#"{{"{}":1,"prompt":"x"}}"#, huge("n", 60)), 400),
        ("blanks", huge(" ", 60), 400),
        // These are read to their end, byte by byte.
        ("unknown number", format!(r#"{{"prompt":"","x":{}}}"#, huge("1", 15)), 422),
        ("unknown text", format!(r#"{{"prompt":"","x":"{}"}}"#, huge("x", 15)), 422),
        ("unknown list", format!(r#"{{"prompt":"","x":[{}1]}}"#, huge("1,", 5)), 422),
        ("unknown name", format!(r#"{{"prompt":"","x":{{"{}":1}}}}"#, huge("n", 15)), 422),
    ];
    for (what, body, status) in cases {
        let grown = growth_of(&service, || {
            assert_refused_quickly(&service, &body, status, what);
        });
        assert!(grown < ONE_UPLOAD_KIB, "{what}: {grown} KiB");
    }
}

#[track_caller]
fn assert_refused_quickly(service: &Service, body: &str, status: u16, what: &str) {
    let reply = post(service, body);
    assert_eq!(reply.status, status, "{what}: {reply:?}");
    assert!(reply.body.len() < 1000, "{what}: {reply:?}");
}

/// Pictures of 8.4 million bytes each.
fn large_body(pictures: usize) -> String {
    let list: Vec<String> = (0..pictures).map(|_| STANDARD.encode(padded_png(8_400_000))).collect();
    json!({"prompt": "x", "reference_images_base64": list}).to_string()
}

#[test]
fn a_large_body_costs_two_mib() {
    let service = Setup::painter().start();
    warm_up(&service);
    let body = large_body(4);
    assert!(body.len() > 44_000_000);
    let grown = growth_of(&service, || {
        post(&service, &body).expect(202);
    });
    println!("{grown} KiB");
    assert!(grown < ONE_UPLOAD_KIB, "{grown} KiB");
}

#[test]
fn twenty_large_bodies_at_once_cost_64_mib_in_all() {
    let service = Setup::painter().start();
    let _ = service.default_key();
    // All of them are in the middle of their picture at the same time; more pictures would only
    // take longer.
    let body = large_body(1);
    let grown = growth_of(&service, || {
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| post(&service, &body).expect(202));
            }
        });
    });
    let peak = process::peak_kib(service.pid()).unwrap();
    println!("{grown} KiB more, {peak} KiB in all");
    assert!(peak < 64 * 1024, "{peak} KiB");
}

#[test]
fn a_compressed_body_is_no_body() {
    // Nothing is ever unpacked: a bomb is just bytes that are no JSON.
    let service = Setup::painter().start();
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56\x2a\x28\xca\xcf";
    let reply = service.request("POST", JOBS, &[("content-encoding", "gzip")], Some(gzip));
    reply.expect(400);
}

/// Chunks of every size make the same request.
#[test]
fn however_it_is_cut() -> io::Result<()> {
    let service = Setup::painter().start();
    let bytes = small_picture();
    let body = json!({"prompt": "ä𝄞", "reference_images_base64": [STANDARD.encode(&bytes)]});
    let body = body.to_string();
    let bearer = format!("Bearer {}", service.default_key());
    let headers = [("authorization", bearer.as_str()), ("transfer-encoding", "chunked")];
    for size in [1, 2, 3, 7, 64, 1000] {
        let mut connection = service.connect();
        connection.send("POST", JOBS, &headers, None)?;
        let mut chunks = Vec::new();
        for piece in body.as_bytes().chunks(size) {
            write!(chunks, "{:x}\r\n", piece.len())?;
            chunks.extend([piece, b"\r\n"].concat());
        }
        chunks.extend(b"0\r\n\r\n");
        connection.write_all(&chunks)?;
        connection.reply("POST")?.expect(202);
    }
    let sql =
        "SELECT DISTINCT prompt || ' ' || sha256 FROM jobs JOIN job_references ON job_id = id";
    assert_eq!(Database::of(&service).texts(sql), [format!("ä𝄞 {}", pictures::sha256(&bytes))]);
    let _: Value = serde_json::from_str(&body)?;
    Ok(())
}

/// What was refused after all of it was read leaves nothing behind that the connection must end for.
#[test]
fn a_refused_body_that_was_read_ends_no_connection() -> io::Result<()> {
    let service = Setup::painter().start();
    let bearer = format!("Bearer {}", service.default_key());
    let headers = [("authorization", bearer.as_str())];
    let mut connection = service.connect();
    for _ in 0..2 {
        let body = json!({"prompt": "a kite", "size": "huge"}).to_string();
        connection.send("POST", JOBS, &headers, Some(body.as_bytes()))?;
        let reply = connection.reply("POST")?.expect(422);
        assert_eq!(reply.header("connection"), None);
    }
    Ok(())
}
