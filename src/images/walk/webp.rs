//! WebP: a RIFF container that says its own length, chunks of type, length and padded data in it
//! (RFC 9649).

use super::{Field, Flaw, Shape, cut};

/// How many first bytes of a chunk are looked at.
const HEAD: u32 = 10;

#[derive(Default)]
pub(in super::super) struct Walk {
    state: State,
    field: Field,
    /// Bytes of the container still to come.
    left: u32,
    shape: Option<Shape>,
    pixels_seen: bool,
}

#[derive(Default)]
enum State {
    #[default]
    Container,
    ChunkStart,
    /// The first bytes of a chunk's data.
    Head {
        kind: [u8; 4],
        left: u32,
    },
    Data {
        left: u32,
    },
    End,
}

impl Walk {
    pub(super) fn feed(&mut self, input: &mut &[u8]) -> Result<(), Flaw> {
        while !input.is_empty() {
            match &mut self.state {
                State::Container => {
                    if let Some(head) = self.field.take::<12>(input) {
                        let [b'R', b'I', b'F', b'F', a, b, c, d, b'W', b'E', b'B', b'P'] = head
                        else {
                            return Err(Flaw::Damaged("it does not start as a WebP does"));
                        };
                        let length = u32::from_le_bytes([a, b, c, d]);
                        // The four letters at the end of the head count.
                        self.left = length
                            .checked_sub(4)
                            .filter(|left| *left < u32::MAX - 16)
                            .ok_or(Flaw::Damaged("the length of the WebP is not valid"))?;
                        self.state = self.next()?;
                    }
                }
                State::ChunkStart => {
                    if let Some([kind @ .., a, b, c, d]) = self.field.take::<8>(input) {
                        self.left -= 8;
                        self.state = self.start(kind, u32::from_le_bytes([a, b, c, d]))?;
                    }
                }
                State::Head { kind, left } => {
                    let (kind, left) = (*kind, *left);
                    let head = left.min(HEAD);
                    // At most 10.
                    let want = head as usize;
                    if let Some(bytes) = self.field.take_up_to(want, input) {
                        self.look(kind, bytes.get(..want).unwrap_or_default())?;
                        self.left -= head;
                        self.state = State::Data { left: left - head };
                        self.skip(&mut &[][..])?;
                    }
                }
                State::Data { .. } => self.skip(input)?,
                State::End => break,
            }
        }
        Ok(())
    }

    /// Passes over the rest of a chunk.
    fn skip(&mut self, input: &mut &[u8]) -> Result<(), Flaw> {
        if let State::Data { left } = &mut self.state {
            self.left -= u32::try_from(cut(left, input).len()).unwrap_or(u32::MAX);
            if *left == 0 {
                self.state = self.next()?;
            }
        }
        Ok(())
    }

    /// What follows a chunk.
    fn next(&self) -> Result<State, Flaw> {
        match self.left {
            0 if self.pixels_seen => Ok(State::End),
            0 => Err(Flaw::Damaged("the WebP ends without pixels")),
            1..8 => Err(Flaw::Damaged("a chunk of the WebP is cut short")),
            _ => Ok(State::ChunkStart),
        }
    }

    /// What follows the head of a chunk.
    fn start(&mut self, kind: [u8; 4], length: u32) -> Result<State, Flaw> {
        if length > self.left {
            return Err(Flaw::Damaged("a chunk of the WebP is longer than the file"));
        }
        // Chunks are padded to even lengths; some writers forget that of the last one.
        let padded = if length % 2 == 1 && length < self.left { length + 1 } else { length };
        match (&kind, self.shape) {
            (b"VP8 " | b"VP8L", _) | (b"ANMF", Some(_)) => self.pixels_seen = true,
            (b"VP8X", None) => {}
            (_, None) => return Err(Flaw::Damaged("the WebP does not start with its header")),
            _ => {}
        }
        Ok(if padded == 0 { self.next()? } else { State::Head { kind, left: padded } })
    }

    /// Reads dimensions out of the first bytes of a chunk.
    fn look(&mut self, kind: [u8; 4], head: &[u8]) -> Result<(), Flaw> {
        let shape = match (&kind, head) {
            (b"VP8X", [flags, _, _, _, w0, w1, w2, h0, h1, h2]) => Shape {
                animated: flags & 0x02 != 0,
                ..Shape::still(
                    u32::from_le_bytes([*w0, *w1, *w2, 0]) + 1,
                    u32::from_le_bytes([*h0, *h1, *h2, 0]) + 1,
                )?
            },
            (b"VP8 ", [tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1]) if tag & 1 == 0 => {
                // The two upper bits of each are a scale for display.
                Shape::still(
                    u32::from(u16::from_le_bytes([*w0, *w1]) & 0x3fff),
                    u32::from(u16::from_le_bytes([*h0, *h1]) & 0x3fff),
                )?
            }
            (b"VP8L", [0x2f, a, b, c, d, ..]) => {
                let bits = u32::from_le_bytes([*a, *b, *c, *d]);
                Shape::still((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1)?
            }
            (b"VP8X" | b"VP8 " | b"VP8L", _) => {
                return Err(Flaw::Damaged("the header of the WebP is not valid"));
            }
            _ => return Ok(()),
        };
        // In an extended file the canvas comes first and says the dimensions.
        self.shape.get_or_insert(shape);
        Ok(())
    }

    pub(super) fn finish(&self) -> Option<Shape> {
        if matches!(self.state, State::End) { self.shape } else { None }
    }
}
