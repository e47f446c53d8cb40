use proptest::prelude::*;

use super::*;
use crate::config::{LoginHome, Secret};

fn text(value: &str) -> Raw {
    Raw::Text(value.to_owned())
}

fn place() -> Place {
    Place { working_dir: "/srv/app".into(), home: Some("/home/me".into()) }
}

#[test]
fn listening_is_an_address_or_a_socket() {
    for (value, address) in [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        (" [::1]:8000 ", "[::1]:8000"),
        ("0.0.0.0:0", "0.0.0.0:0"),
        ("localhost:80", "127.0.0.1:80"),
    ] {
        assert_eq!(
            listen(&text(value), &place()),
            Ok(Listen::Tcp(address.parse().unwrap())),
            "{value}"
        );
    }
    for (value, path) in [("unix:/run/a.sock", "/run/a.sock"), ("unix:a.sock", "/srv/app/a.sock")] {
        assert_eq!(listen(&text(value), &place()), Ok(Listen::Unix(path.into())), "{value}");
    }
    let long = format!("unix:/{}", "x".repeat(107));
    for value in [
        "",
        "8000",
        ":8000",
        "*:8000",
        "host:8000",
        "127.0.0.1",
        "127.0.0.1:65536",
        "unix:",
        "unix:@a",
        &long,
    ] {
        assert!(listen(&text(value), &place()).is_err(), "{value}");
    }
    assert!(listen(&text(&long[..long.len() - 1]), &place()).is_ok());
}

#[test]
fn permissions_are_octal_and_nothing_else() {
    for (value, expected) in [("0660", 0o660), ("0000", 0), (" 0777 ", 0o777), ("0600", 0o600)] {
        assert_eq!(mode(&text(value)), Ok(expected), "{value}");
    }
    // 432 is 0o660 of a TOML file.
    for value in ["", "660", "432", "0o660", "01000", "1777", "0680", "rw-rw----", "0x1b"] {
        assert!(mode(&text(value)).is_err(), "{value}");
    }
}

#[test]
fn an_owner_is_a_user_a_group_or_both() {
    let named = |user: &str, group: &str| {
        let name = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
        Ok(Some(Owner { user: name(user), group: name(group) }))
    };
    assert_eq!(owner(&text("")), Ok(None));
    assert_eq!(owner(&text("www-data")), named("www-data", ""));
    assert_eq!(owner(&text("www-data:33")), named("www-data", "33"));
    assert_eq!(owner(&text(" :nginx ")), named("", "nginx"));
    for value in [":", "a:", "a:b:c", "a b", "a: b", "/etc"] {
        assert!(owner(&text(value)).is_err(), "{value}");
    }
}

#[test]
fn paths_are_absolute_and_know_the_home() {
    for (value, absolute) in [
        ("/a/b", "/a/b"),
        ("./data/x", "/srv/app/data/x"),
        ("data/./x/", "/srv/app/data/x"),
        ("../x", "/srv/app/../x"),
        ("~", "/home/me"),
        ("~/x", "/home/me/x"),
        ("~other/x", "/srv/app/~other/x"),
    ] {
        assert_eq!(path(&text(value), &place()), Ok(absolute.into()), "{value}");
    }
    assert!(path(&text("  "), &place()).is_err());
    assert!(path(&text("a\0b"), &place()).is_err());
    let homeless = Place { working_dir: "/".into(), home: None };
    assert!(path(&text("~/x"), &homeless).is_err());
    assert!(codex_visible(&text("/a,b"), &place()).is_err());
}

#[test]
fn a_command_is_looked_up_unless_it_is_a_path() {
    for (value, expected) in
        [("codex", "codex"), ("./codex", "/srv/app/codex"), ("~/bin/codex", "/home/me/bin/codex")]
    {
        assert_eq!(command(&text(value), &place()), Ok(expected.into()), "{value}");
    }
    assert!(command(&text(""), &place()).is_err());
}

#[test]
fn database_urls_are_read_as_the_original_reads_them() {
    for (value, file) in [
        ("sqlite:///./data/app.db", "/srv/app/data/app.db"),
        ("sqlite:///app.db", "/srv/app/app.db"),
        ("sqlite:////var/lib/x.db", "/var/lib/x.db"),
    ] {
        assert_eq!(database(&text(value), &place()), Ok(file.into()), "{value}");
    }
    for value in [
        "",
        "app.db",
        "sqlite://app.db",
        "sqlite:app.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///a.db?mode=ro",
        "sqlite+aiosqlite:///a.db",
        "mysql://h/x",
    ] {
        assert!(database(&text(value), &place()).is_err(), "{value}");
    }
    let refusal = database(&text("postgresql://h/x"), &place());
    assert_eq!(refusal, Err(Some("PostgreSQL is not supported yet".to_owned())));
}

#[test]
fn urls_lose_the_slash_at_their_end() {
    for (value, url) in [
        ("http://localhost:8000/", "http://localhost:8000"),
        ("https://a.example/images//", "https://a.example/images"),
        ("http://[::1]:80", "http://[::1]:80"),
    ] {
        assert_eq!(public_base_url(&text(value)).as_deref(), Ok(url), "{value}");
    }
    for value in
        ["", "localhost:8000", "ftp://a", "/x", "http://", "http://u@a", "http://a?b", "http://a#b"]
    {
        assert!(public_base_url(&text(value)).is_err(), "{value}");
    }
    for (value, prefix) in
        [("", ""), ("/", ""), ("/codex-image/", "/codex-image"), ("/a/b", "/a/b")]
    {
        assert_eq!(url_prefix(&text(value)).as_deref(), Ok(prefix), "{value}");
    }
    for value in ["codex", "//a", "/a/../b", "/a?b", "/a b", "/ä"] {
        assert!(url_prefix(&text(value)).is_err(), "{value}");
    }
}

#[test]
fn published_secrets_are_nobodys() {
    for value in [
        "",
        "  ",
        "admin",
        "PASSWORD",
        "change-me",
        "Change_Me!",
        "changeme123",
        "change-me-now",
        "change-this-session-secret",
        "dev-only-session-secret",
        "please-change-me",
        "<your password>",
    ] {
        assert!(secret(&text(value)).is_err(), "{value}");
    }
    for value in ["administrator of pictures", " blanks stay ", "xchange-me", "päss"] {
        let taken = secret(&text(value)).ok().flatten();
        assert_eq!(taken.as_ref().map(Secret::expose), Some(value));
    }
}

#[test]
fn logins_are_called_like_their_folders_or_by_their_labels() {
    let home = |label: &str, path: &str| LoginHome { label: label.to_owned(), path: path.into() };
    for (value, expected) in [
        ("", vec![]),
        (" : ", vec![]),
        ("~/.codex", vec![home("codex", "/home/me/.codex")]),
        ("/h/a:/h/b/", vec![home("a", "/h/a"), home("b", "/h/b")]),
        ("one=/h/x : two=/i/x", vec![home("one", "/h/x"), home("two", "/i/x")]),
        ("/h/a=b", vec![home("a=b", "/h/a=b")]),
        ("x=/h/a=b", vec![home("x", "/h/a=b")]),
    ] {
        assert_eq!(homes(&text(value), &place()), Ok(expected), "{value}");
    }
    for value in ["/h/a:/i/a", "/h/a:a=/i/b", "x=/h/a:y=/h/a", "=/h/a", "x=", "/"] {
        assert!(homes(&text(value), &place()).is_err(), "{value}");
    }
    let list = Raw::List(vec!["a=/with:colon".to_owned()]);
    assert_eq!(homes(&list, &place()), Ok(vec![home("a", "/with:colon")]));
}

#[test]
fn origins_are_as_browsers_send_them() {
    let parsed = origins(&text("https://A.example/, http://localhost:3000,,https://a.example"));
    assert_eq!(
        parsed,
        Ok(vec!["https://a.example".to_owned(), "http://localhost:3000".to_owned()])
    );
    assert_eq!(origins(&text("*")), Ok(vec!["*".to_owned()]));
    for value in ["a.example", "https://a/b", "https://", "https://*.a.example", "null"] {
        assert!(origins(&text(value)).is_err(), "{value}");
    }
}

#[test]
fn models_are_words_that_no_command_line_mistakes() {
    assert_eq!(model(&text("")), Ok(None));
    assert_eq!(model(&text("gpt-5.1-codex")), Ok(Some("gpt-5.1-codex".to_owned())));
    for value in ["-m", "a b", "a\"b", &"x".repeat(129)] {
        assert!(model(&text(value)).is_err(), "{value}");
    }
}

#[test]
fn switches_and_levels_have_relatives() {
    for value in ["on", "TRUE", "yes", "1"] {
        assert_eq!(switch(&text(value)), Ok(true));
    }
    for value in ["off", "False", "no", "0"] {
        assert_eq!(switch(&text(value)), Ok(false));
    }
    assert!(switch(&text("maybe")).is_err());
    assert_eq!(level(&text("WARNING")), Ok(Level::WARN));
    assert!(level(&text("verbose")).is_err());
}

#[test]
fn numbers_keep_to_their_range() {
    let allowed = Allowed::Number { min: 0.5, max: 10.0, unit: "hours", zero: Some("off") };
    for (value, expected) in [("0", 0.0), ("0.5", 0.5), ("10", 10.0), (" 2.25 ", 2.25)] {
        let parsed = number(&text(value), allowed);
        assert!(parsed.is_ok_and(|n| n.to_bits() == f64::to_bits(expected)), "{value}");
    }
    for value in ["", "0.4", "10.1", "-1", "NaN", "inf", "1h"] {
        assert!(number(&text(value), allowed).is_err(), "{value}");
    }
    let allowed = Allowed::Whole { min: 1, max: 64 };
    for value in ["", "0", "65", "1.5", "-1", "1e1", "0x10", "99999999999999999999"] {
        assert!(whole(&text(value), allowed).is_err(), "{value}");
    }
    assert_eq!(whole(&text("64"), allowed), Ok(64));
    assert_eq!(duration(0.25, 3_600.0), Duration::from_mins(15));
}

#[test]
fn lists_belong_where_lists_are_taken() {
    let list = Raw::List(vec!["a".to_owned()]);
    assert!(line(&list).is_err());
    assert!(secret(&list).is_err());
    assert_eq!(items(&list, ','), Ok(vec!["a"]));
}

#[test]
fn the_state_directory_is_systemds_the_desktops_or_the_homes() {
    let with = |pairs: &'static [(&str, &str)], home: Option<&str>| {
        let variable = |name: &str| {
            pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| std::ffi::OsStr::new(*value))
        };
        state_dir(variable, home.map(Path::new))
    };
    let systemd: &[_] = &[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("XDG_STATE_HOME", "/x")];
    assert_eq!(with(systemd, None), Some(("/var/lib/a".into(), "STATE_DIRECTORY")));
    let desktop = with(&[("XDG_STATE_HOME", "/x")], Some("/home/me"));
    assert_eq!(desktop, Some(("/x/codex-image-service".into(), "XDG_STATE_HOME")));
    let home = with(&[("XDG_STATE_HOME", "relative")], Some("/home/me"));
    assert_eq!(home, Some(("/home/me/.local/state/codex-image-service".into(), "HOME")));
    assert_eq!(with(&[], None), None);
}

proptest! {
    /// Whatever stands in an environment, reading it ends with a value or a refusal.
    #[test]
    fn no_text_makes_a_parser_panic(value in "\\PC{0,40}|[a-z:/=~@.#?\\[\\]0-9 ,*-]{0,40}") {
        let (raw, place) = (text(&value), place());
        let _ = (listen(&raw, &place), database(&raw, &place), homes(&raw, &place));
        let _ = (mode(&raw), owner(&raw), public_base_url(&raw), url_prefix(&raw), origins(&raw), model(&raw));
        if let Ok(path) = path(&raw, &place) {
            prop_assert!(path.is_absolute());
        }
        if let Ok(url) = public_base_url(&raw) {
            prop_assert!(!url.ends_with('/'));
        }
    }
}
