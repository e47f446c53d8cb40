//! Paints the pictures of `demo`: a calm gradient, the prompt in large letters and the plain word
//! that no model drew it. Every size that a caller may ask for gives a legible picture, and two
//! pictures are never the same file.
//!
//! Letters outside of Latin are shown as replacement signs, and the small print says why: a font
//! for them all would outweigh the service.

use std::io::{self, Write};

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, RasterizedChar, get_raster};
use sha2::{Digest, Sha256};

/// `auto` means this.
const DEFAULT_SIDE: u32 = 1024;

/// Larger pictures are painted with this long side and the same aspect: the demo shows what a
/// caller gets, not how long a machine can be kept busy.
const LONGEST: u32 = 2048;

/// No side is shorter, so that there is room for letters, even if the aspect suffers.
const SHORTEST: u32 = 64;

/// Heights of a line of the prompt, tried from the largest. 16 and 32 are in the font as such.
const HEIGHTS: [u32; 10] = [128, 96, 80, 64, 48, 40, 32, 24, 20, 16];

const SMALL_PRINT: &str = "DEMO - no Codex, no model";

/// Added where it is so.
const MISSING_LETTERS: &str = "the demo's font has Latin letters only";

/// What to paint.
pub(super) struct Card<'a> {
    /// Any text.
    pub prompt: &'a str,
    /// `WIDTHxHEIGHT`; anything else counts as `auto`.
    pub size: &'a str,
    /// Shown as it is.
    pub quality: &'a str,
    /// Shades the colours and stands in the file: another seed, another file.
    pub seed: &'a str,
}

/// Writes the picture as PNG: some 20 ms for 1024 x 1024.
pub(super) fn paint(card: &Card<'_>, out: impl Write) -> io::Result<()> {
    let (width, height) = dimensions(card.size);
    let mut canvas = Canvas::background(width, height, &Palette::of(card));
    write_words(&mut canvas, card);

    let mut encoder = png::Encoder::new(out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    encoder.add_text_chunk("Comment".into(), SMALL_PRINT.into())?;
    encoder.add_text_chunk("Seed".into(), card.seed.into())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&canvas.pixels)?;
    Ok(writer.finish()?)
}

/// The dimensions of the picture painted for a size that was asked for.
fn dimensions(size: &str) -> (u32, u32) {
    let asked = size.split_once('x').and_then(|(width, height)| {
        let (width, height) = (width.parse::<u32>().ok()?, height.parse::<u32>().ok()?);
        (1..=9999).contains(&width.min(height)).then_some((width.min(9999), height.min(9999)))
    });
    let Some((width, height)) = asked else { return (DEFAULT_SIDE, DEFAULT_SIDE) };
    let longest = width.max(height);
    let fit = |length: u32| {
        if longest > LONGEST { length * LONGEST / longest } else { length }.max(SHORTEST)
    };
    (fit(width), fit(height))
}

/// Where the words go, from the top: DEMO, the prompt, the small print.
fn write_words(canvas: &mut Canvas, card: &Card<'_>) {
    let (width, height) = (canvas.width, canvas.height);
    let short = width.min(height);
    let margin = (short / 16).clamp(4, 96);
    let room = width - 2 * margin;
    let cramped = short < 200;

    let head = if cramped { 16 } else { (short / 14).clamp(24, 96) };
    let small = if short < 700 { 16 } else { (short / 40).clamp(20, 32) };
    // In the least room the word DEMO alone has to do.
    let print = if height < 200 {
        Vec::new()
    } else {
        let request = format!("{}, quality {}", card.size, card.quality);
        let mut print = wrap(SMALL_PRINT, columns(room, small));
        print.extend(wrap(&request, columns(room, small)));
        if legible(card.prompt.chars()).chars().any(|letter| letter != '\n' && !in_font(letter)) {
            print.extend(wrap(MISSING_LETTERS, columns(room, small)));
        }
        print
    };
    let print_lines = u32::try_from(print.len()).unwrap_or(0);
    let print_top = height.saturating_sub(margin + print_lines * small);

    canvas.text(margin, margin, head, Ink::HEAD, "DEMO");
    let gap = if cramped { 0 } else { head / 3 };
    let top = margin + head + gap;
    if gap > 0 {
        canvas.rule(margin, top - gap / 2, head * 2);
    }
    for (line, at) in print.iter().zip(0..) {
        canvas.text(margin, print_top + at * small, small, Ink::SMALL, line);
    }

    let bottom = if print.is_empty() { height - margin } else { print_top - gap };
    let space = bottom.saturating_sub(top);
    let largest = (short / 9).max(16);
    let fits = |lines: &[String], line: u32| lines.len() <= (space / line) as usize;
    for line in HEIGHTS.into_iter().filter(|line| *line <= largest) {
        let mut lines = wrap(card.prompt, columns(room, line));
        if !fits(&lines, line) {
            if line > 16 {
                continue;
            }
            cut(&mut lines, (space / line) as usize, columns(room, line));
        }
        let used = u32::try_from(lines.len()).unwrap_or(0) * line;
        // A little above the middle, where the eye expects it.
        let mut y = top + space.saturating_sub(used) * 2 / 5;
        for text in &lines {
            canvas.text(margin, y, line, Ink::PROMPT, text);
            y += line;
        }
        break;
    }
}

fn in_font(letter: char) -> bool {
    get_raster(letter, FontWeight::Regular, RasterHeight::Size16).is_some()
}

/// How wide a letter is in a line of this height.
fn advance(height: u32) -> u32 {
    // 7 of 16 in the font, in every size.
    (height * 7 / 16).max(1)
}

fn columns(room: u32, height: u32) -> usize {
    (room / advance(height)).max(1) as usize
}

/// Breaks text into lines of at most `columns` characters, at blanks where there are any.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    // More than the largest picture holds at the smallest size is never shown.
    let text = legible(text.chars().take(50_000));
    for paragraph in text.lines() {
        let mut line = String::new();
        let mut length = 0;
        for word in paragraph.split_whitespace() {
            let letters: Vec<char> = word.chars().collect();
            if length > 0 && length + 1 + letters.len() > columns {
                lines.push(std::mem::take(&mut line));
                length = 0;
            }
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            for letter in letters {
                if length == columns {
                    lines.push(std::mem::take(&mut line));
                    length = 0;
                }
                line.push(letter);
                length += 1;
            }
        }
        lines.push(line);
    }
    lines
}

/// Shortens to `most` lines, the last of which says so.
fn cut(lines: &mut Vec<String>, most: usize, columns: usize) {
    lines.truncate(most);
    if let Some(last) = lines.last_mut() {
        let kept: String = last.chars().take(columns.saturating_sub(3)).collect();
        *last = kept + "...";
    }
}

/// Puts letters that the font has in place of those that it has not.
fn legible(text: impl Iterator<Item = char>) -> String {
    let mut legible = String::new();
    for letter in text {
        match letter {
            '\n' => legible.push('\n'),
            '\u{2018}'..='\u{201b}' | '\u{2032}' => legible.push('\''),
            '\u{201c}'..='\u{201f}' | '\u{2033}' => legible.push('"'),
            '\u{2010}'..='\u{2015}' | '\u{2212}' => legible.push('-'),
            '\u{2022}' => legible.push('\u{b7}'),
            '\u{2026}' => legible.push_str("..."),
            '\u{20ac}' => legible.push_str("EUR"),
            // What only joins or dresses other letters.
            '\u{300}'..='\u{36f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{1f3fb}'..='\u{1f3ff}' => {}
            blank if blank.is_whitespace() || blank.is_control() => legible.push(' '),
            other => legible.push(other),
        }
    }
    legible
}

/// The colours of one picture, 0 to 255 each.
struct Palette {
    from: [f32; 3],
    to: [f32; 3],
    glow: [f32; 3],
    /// Centre (as a share of the sides) and radius (of the short side) of soft lights.
    lights: [(f32, f32, f32); 3],
}

impl Palette {
    fn of(card: &Card<'_>) -> Self {
        let prompt = Sha256::digest(card.prompt);
        let seed = Sha256::digest(card.seed);
        let share = |byte: u8| f32::from(byte) / 255.0;
        // The prompt decides the hue, the seed shades it.
        let hue = share(prompt[0]) * 360.0 + share(seed[0]) * 24.0;
        let turn = 40.0 + share(prompt[1]) * 50.0;
        let light =
            |at: usize| (share(seed[at]), share(seed[at + 1]), 0.35 + share(seed[at + 2]) * 0.45);
        Self {
            from: rgb(hue, 0.42, 0.30),
            to: rgb(hue + turn, 0.48, 0.16),
            glow: rgb(hue + turn / 2.0, 0.45, 0.42),
            lights: [light(1), light(4), light(7)],
        }
    }
}

/// From hue in degrees, saturation and lightness of 0 to 1.
fn rgb(hue: f32, saturation: f32, lightness: f32) -> [f32; 3] {
    let reach = saturation * lightness.min(1.0 - lightness);
    [0.0, 8.0, 4.0].map(|offset: f32| {
        let k = (offset + hue / 30.0).rem_euclid(12.0);
        (lightness - reach * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0)) * 255.0
    })
}

/// How letters look: colour, opacity, and how often they are set side by side to be bold.
struct Ink {
    colour: [f32; 3],
    opacity: f32,
    bold: bool,
}

impl Ink {
    const HEAD: Self = Self { colour: [255.0, 214.0, 120.0], opacity: 1.0, bold: true };
    const PROMPT: Self = Self { colour: [255.0, 255.0, 255.0], opacity: 1.0, bold: false };
    const SMALL: Self = Self { colour: [255.0, 255.0, 255.0], opacity: 0.8, bold: false };
    const SHADOW: Self = Self { colour: [0.0, 0.0, 0.0], opacity: 0.45, bold: false };
}

struct Canvas {
    width: u32,
    height: u32,
    /// Rows of red, green and blue.
    pixels: Vec<u8>,
}

/// Sides are at most 2048, exactly what an f32 holds.
#[allow(clippy::cast_precision_loss)]
fn real(number: u32) -> f32 {
    number as f32
}

/// Colours are 0 to 255 by construction; a cast saturates should rounding push one out.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn byte(colour: f32) -> u8 {
    (colour + 0.5) as u8
}

impl Canvas {
    fn background(width: u32, height: u32, palette: &Palette) -> Self {
        let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
        let short = real(width.min(height));
        let lights = palette.lights.map(|(x, y, radius)| {
            (x * real(width), y * real(height), 1.0 / (radius * short).powi(2))
        });
        for y in 0..height {
            let down = real(y) / real(height);
            let lights = lights.map(|(x, light_y, reach)| (x, (real(y) - light_y).powi(2), reach));
            for x in 0..width {
                let t = real(x) / real(width) * 0.4 + down * 0.6;
                let mut glow = 0.0;
                for (light_x, dy, reach) in lights {
                    let distance = ((real(x) - light_x).powi(2) + dy) * reach;
                    let near = (1.0 - distance).max(0.0);
                    glow += near * near * 0.3;
                }
                let glow = f32::min(glow, 0.6);
                for ((from, to), light) in palette.from.iter().zip(palette.to).zip(palette.glow) {
                    let ground = from + (to - from) * t;
                    pixels.push(byte(ground + (light - ground) * glow));
                }
            }
        }
        Self { width, height, pixels }
    }

    /// Lays a colour over one pixel; outside of the canvas nothing happens.
    fn blend(&mut self, x: u32, y: u32, ink: &Ink, cover: f32) {
        if x < self.width && y < self.height {
            let at = (y as usize * self.width as usize + x as usize) * 3;
            for (pixel, colour) in self.pixels[at..at + 3].iter_mut().zip(ink.colour) {
                let below = f32::from(*pixel);
                *pixel = byte(below + (colour - below) * cover * ink.opacity);
            }
        }
    }

    fn rule(&mut self, x: u32, y: u32, length: u32) {
        let thickness = (length / 48).max(1);
        for (x, y) in (x..x + length).flat_map(|x| (y..y + thickness).map(move |y| (x, y))) {
            self.blend(x, y, &Ink::HEAD, 0.7);
        }
    }

    /// One line of letters, with a shadow that keeps them legible on every ground.
    fn text(&mut self, x: u32, y: u32, height: u32, ink: Ink, line: &str) {
        let shift = (height / 24).max(1);
        let bold = if ink.bold { shift } else { 0 };
        let inks = [(shift, Ink::SHADOW), (0, ink)];
        for (offset, ink) in inks {
            for (letter, column) in line.chars().zip(0..) {
                let x = x + column * advance(height) + offset;
                self.letter(x, y + offset, height, bold, &ink, letter);
            }
        }
    }

    fn letter(&mut self, x: u32, y: u32, height: u32, bold: u32, ink: &Ink, letter: char) {
        let source = if height < 24 { RasterHeight::Size16 } else { RasterHeight::Size32 };
        let raster = |letter| get_raster(letter, FontWeight::Regular, source);
        let Some(glyph) = raster(letter).or_else(|| raster('\u{fffd}')) else { return };
        let scale = real(u32::try_from(source.val()).unwrap_or(16)) / real(height);
        for row in 0..height {
            for column in 0..advance(height) + bold {
                let cover = (0..=bold)
                    .filter_map(|shift| column.checked_sub(shift))
                    .map(|column| {
                        sample(&glyph, (real(column) + 0.5) * scale, (real(row) + 0.5) * scale)
                    })
                    .fold(0.0, f32::max);
                if cover > 0.0 {
                    self.blend(x + column, y + row, ink, cover);
                }
            }
        }
    }
}

/// The glyph's intensity around a point, between its four nearest pixels: 0 to 1.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn sample(glyph: &RasterizedChar, x: f32, y: f32) -> f32 {
    let (x, y) = ((x - 0.5).max(0.0), (y - 0.5).max(0.0));
    let (left, top) = (x as usize, y as usize);
    let (right_share, lower_share) = (x.fract(), y.fract());
    let pixel = |x, y| f32::from(glyph.pixel(x, y).unwrap_or(0)) / 255.0;
    let between = |y| {
        let (one, two) = (pixel(left, y), pixel(left + 1, y));
        one + (two - one) * right_share
    };
    let (upper, lower) = (between(top), between(top + 1));
    upper + (lower - upper) * lower_share
}

#[cfg(test)]
mod tests;
