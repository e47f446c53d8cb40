use super::*;

fn painted(prompt: &str, size: &str, seed: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    paint(&Card { prompt, size, quality: "medium", seed }, &mut bytes).unwrap();
    bytes
}

#[test]
fn sizes_are_kept_within_reason() {
    for (asked, painted) in [
        ("auto", (1024, 1024)),
        ("1024x1536", (1024, 1536)),
        ("100x100", (100, 100)),
        ("9999x9999", (2048, 2048)),
        ("3840x2160", (2048, 1152)),
        ("9999x100", (2048, 64)),
        ("100x9999", (64, 2048)),
        ("000x000", (1024, 1024)),
        ("nonsense", (1024, 1024)),
    ] {
        assert_eq!(dimensions(asked), painted, "{asked}");
    }
}

#[test]
fn every_picture_is_another_file() {
    let one = painted("a fox", "300x200", "1");
    assert_eq!(one, painted("a fox", "300x200", "1"));
    assert_ne!(one, painted("a fox", "300x200", "2"));
    assert_ne!(one, painted("a wolf", "300x200", "1"));
}

#[test]
fn any_prompt_and_size_can_be_painted() {
    let long = "word ".repeat(6_400);
    let endless = "x".repeat(32_000);
    let prompts =
        ["", "\n\n\n", "a", &long, &endless, "\u{1f98a}\u{200d}\u{0}\u{10ffff}狐狸", "\r\n\t "];
    for size in ["100x100", "100x999", "999x100", "9999x100", "100x9999", "512x512"] {
        for prompt in prompts {
            let bytes = painted(prompt, size, "7");
            let picture = image::load_from_memory(&bytes).unwrap();
            assert_eq!((picture.width(), picture.height()), dimensions(size));
        }
    }
}

#[test]
fn lines_break_at_blanks_and_in_endless_words() {
    assert_eq!(wrap("the quick fox", 9), ["the quick", "fox"]);
    assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
    assert_eq!(wrap("one\n\ntwo", 9), ["one", "", "two"]);
    assert_eq!(wrap("“it’s…” — e\u{301}", 20), ["\"it's...\" - e"]);
    let mut lines = wrap("one two three", 5);
    cut(&mut lines, 2, 5);
    assert_eq!(lines, ["one", "tw..."]);
}

/// Not a test but a look: `PICTURES=<folder> cargo test --release --lib look -- --ignored --nocapture`.
#[test]
#[ignore = "for eyes and the clock"]
fn look() {
    let folder = std::path::PathBuf::from(std::env::var_os("PICTURES").unwrap());
    let fox = "A red fox asleep in fresh snow under a birch, soft morning light, watercolour";
    let long = "An isometric cutaway of a lighthouse with a spiral staircase, a library, a small \
        kitchen where someone is baking bread, and a lamp room full of brass. "
        .repeat(30);
    let world =
        "Полярное сияние над горами; 雪の中の狐 🦊; Zażółć gęślą jaźń – “naïve” café, €5 … ñandú";
    for (name, prompt, size) in [
        ("auto", fox, "auto"),
        ("portrait", fox, "1024x1536"),
        ("long", &long, "1024x1024"),
        ("world", world, "1536x1024"),
        ("tiny", fox, "100x100"),
        ("small", fox, "256x256"),
        ("wide", fox, "999x100"),
        ("tall", fox, "100x999"),
        ("huge", "Cat", "9999x9999"),
        ("strip", fox, "9999x100"),
    ] {
        let start = std::time::Instant::now();
        let bytes = painted(prompt, size, "1");
        println!("{name}: {:?}, {} bytes", start.elapsed(), bytes.len());
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }
}
