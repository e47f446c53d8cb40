//! Promise: what Open WebUI, LibreChat, n8n and others send is understood, and what they read of an
//! answer is there.
//!
//! `clients/recorded/` holds their requests, written down from their sources or as they arrived. In
//! a fixture `$KEY` is the key and `$PNG_BASE64` a picture; a part with `file` is a picture of that
//! format; `transfer_encoding: chunked` sends the body without its length, `content_type_first` turns
//! the head of each part around. `expect` is the status, 200 unless said; `reads` are the places in
//! the answer that the client reads.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]
#![allow(clippy::doc_markdown, reason = "names of programs")]

mod support;

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::ImageFormat;
use serde_json::Value;
use support::{
    Reply, Service, Setup,
    pictures::{self, Kind},
};

const BOUNDARY: &str = "----recorded";

/// Each suite's part of the fixtures, by the beginning of their names.
const CLIENTS: [&str; 6] = ["openwebui-", "librechat-", "n8n-", "ai-sdk-", "litellm-", ""];

/// The names of a client's fixtures; those of nobody else for the empty one.
fn fixtures(client: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/recorded");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let owner = |name: &str| CLIENTS.into_iter().find(|owner| name.starts_with(owner)).unwrap();
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| owner(name) == client).collect::<BTreeSet<_>>().into_iter().collect()
}

fn picture(format: &str) -> Vec<u8> {
    let format = ImageFormat::from_extension(format).unwrap();
    // A mask is one that shines through.
    pictures::of_seed(&Kind { format, alpha: true, ..Kind::default() }, "recorded")
}

/// A fixture's body, and what it is.
fn body(fixture: &Value) -> Option<(String, Vec<u8>)> {
    if let Some(json) = fixture.get("json") {
        let text = json.to_string().replace("$PNG_BASE64", &STANDARD.encode(picture("png")));
        return Some(("application/json".to_owned(), text.into_bytes()));
    }
    let mut form = Vec::new();
    for part in fixture.get("multipart")?.as_array().unwrap() {
        let text = |name: &str| part.get(name).map(|value| value.as_str().unwrap());
        let mut place =
            format!("Content-Disposition: form-data; name=\"{}\"", text("name").unwrap());
        if let Some(name) = text("filename") {
            write!(place, "; filename=\"{name}\"").unwrap();
        }
        let kind = text("content_type").map(|kind| format!("Content-Type: {kind}"));
        let mut head: Vec<_> = [Some(place), kind].into_iter().flatten().collect();
        if fixture["content_type_first"] == true {
            head.reverse();
        }
        let value = text("file").map(picture);
        let value = value.unwrap_or_else(|| text("value").unwrap().as_bytes().to_vec());
        form.extend(format!("--{BOUNDARY}\r\n{}\r\n\r\n", head.join("\r\n")).bytes());
        form.extend(value);
        form.extend(b"\r\n");
    }
    form.extend(format!("--{BOUNDARY}--\r\n").bytes());
    Some((format!("multipart/form-data; boundary={BOUNDARY}"), form))
}

fn send(service: &Service, fixture: &Value) -> Reply {
    let key = service.default_key();
    let headers = fixture["headers"].as_object().unwrap().iter();
    let mut headers: Vec<(&str, String)> = headers
        .filter(|(name, _)| *name != "Content-Type")
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap().replace("$KEY", key)))
        .collect();
    let mut bytes = None;
    if let Some((kind, body)) = body(fixture) {
        headers.push(("Content-Type", kind));
        bytes = Some(body);
    }
    if fixture["transfer_encoding"] == "chunked" {
        headers.push(("Transfer-Encoding", "chunked".to_owned()));
        bytes = bytes.map(|bytes| {
            let chunks = bytes.chunks(100).flat_map(|chunk| {
                [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()
            });
            chunks.chain(*b"0\r\n\r\n").collect()
        });
    }
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let text = |name: &str| fixture[name].as_str().unwrap();
    service.request_bare(text("method"), text("path"), &headers, bytes.as_deref())
}

/// A field of the request, in whichever packing.
fn asked(fixture: &Value, name: &str) -> Option<String> {
    let parts = fixture["multipart"].as_array().into_iter().flatten();
    let mut values = parts.filter(|part| part["name"] == name).map(|part| &part["value"]);
    let value = fixture["json"].get(name).or_else(|| values.next())?;
    (!value.is_null()).then(|| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// What the client reads is there: pictures in the format that was asked for, or words.
fn check(service: &Service, name: &str, fixture: &Value, reply: &Reply) {
    let expected = fixture["expect"].as_u64().unwrap_or(200);
    assert_eq!(u64::from(reply.status), expected, "{name}: {reply:#?}");
    let answer = reply.json();
    let format = asked(fixture, "output_format").unwrap_or_else(|| "png".to_owned());
    let format = ImageFormat::from_extension(format).unwrap();
    for place in fixture["reads"].as_array().unwrap() {
        let place = place.as_str().unwrap();
        let found = answer.pointer(place).unwrap_or_else(|| panic!("{name}: no {place}"));
        let picture = match place.rsplit('/').next().unwrap() {
            "b64_json" => STANDARD.decode(found.as_str().unwrap()).unwrap(),
            "url" => service.picture(found.as_str().unwrap()),
            _ => {
                let is_empty = found.is_null() || found == "";
                assert!(!is_empty, "{name}: nothing in {place}: {found}");
                continue;
            }
        };
        assert_eq!(image::guess_format(&picture).unwrap(), format, "{name}: {place}");
        image::load_from_memory(&picture).unwrap();
    }
    if reply.status == 200
        && let Some(count) = asked(fixture, "n")
    {
        assert_eq!(answer["data"].as_array().unwrap().len().to_string(), count, "{name}");
    }
}

fn replay(client: &str) {
    let service = Setup::painter().start();
    let names = fixtures(client);
    assert!(!names.is_empty());
    for name in names {
        let path = format!("{}/tests/clients/recorded/{name}", env!("CARGO_MANIFEST_DIR"));
        let fixture: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let reply = send(&service, &fixture);
        check(&service, &name, &fixture, &reply);
    }
}

#[test]
fn open_webui() {
    replay("openwebui-");
}

#[test]
fn librechat() {
    replay("librechat-");
}

#[test]
fn n8n() {
    replay("n8n-");
}

#[test]
fn vercel_ai_sdk() {
    replay("ai-sdk-");
}

#[test]
fn litellm() {
    replay("litellm-");
}

#[test]
fn others() {
    replay("");
}
