//! PNG: signature, then chunks of length, type, data and CRC, to IEND (PNG specification, third
//! edition, section 5).

use super::{Field, Flaw, Shape, cut};

/// Longer chunks are forbidden by the specification.
const MAX_CHUNK: u32 = i32::MAX.cast_unsigned();

#[derive(Default)]
pub(in super::super) struct Walk {
    state: State,
    field: Field,
    header: Option<Shape>,
    pixels_seen: bool,
}

#[derive(Default)]
enum State {
    #[default]
    Signature,
    ChunkStart,
    Data {
        kind: [u8; 4],
        left: u32,
        crc: crc32fast::Hasher,
    },
    Crc {
        kind: [u8; 4],
        computed: u32,
    },
    End,
}

impl Walk {
    pub(super) fn feed(&mut self, input: &mut &[u8]) -> Result<(), Flaw> {
        while !input.is_empty() {
            match &mut self.state {
                State::Signature => {
                    if let Some(signature) = self.field.take::<8>(input) {
                        if signature != *b"\x89PNG\r\n\x1a\n" {
                            return Err(Flaw::Damaged("its signature is not PNG's"));
                        }
                        self.state = State::ChunkStart;
                    }
                }
                State::ChunkStart => {
                    if let Some([a, b, c, d, kind @ ..]) = self.field.take::<8>(input) {
                        self.state = self.start(u32::from_be_bytes([a, b, c, d]), kind)?;
                    }
                }
                State::Data { kind, left, crc } => {
                    if kind == b"IHDR" {
                        let Some(header) = self.field.take::<13>(input) else { continue };
                        crc.update(&header);
                        *left = 0;
                        self.header = Some(read_header(&header)?);
                    } else {
                        crc.update(cut(left, input));
                    }
                    if *left == 0 {
                        self.state = State::Crc { kind: *kind, computed: crc.clone().finalize() };
                    }
                }
                State::Crc { kind, computed } => {
                    if let Some(stored) = self.field.take::<4>(input) {
                        if u32::from_be_bytes(stored) != *computed {
                            return Err(Flaw::Damaged("a checksum of the PNG is wrong"));
                        }
                        self.state = if kind == b"IEND" { State::End } else { State::ChunkStart };
                    }
                }
                State::End => break,
            }
        }
        Ok(())
    }

    /// What follows the head of a chunk.
    fn start(&mut self, left: u32, kind: [u8; 4]) -> Result<State, Flaw> {
        if left > MAX_CHUNK || !kind.iter().all(u8::is_ascii_alphabetic) {
            return Err(Flaw::Damaged("a chunk of the PNG has no valid head"));
        }
        match (&kind, self.header.as_mut()) {
            (b"IHDR", None) if left == 13 => {}
            (b"IHDR", _) | (_, None) => {
                return Err(Flaw::Damaged("the PNG does not start with one header"));
            }
            (b"IDAT", _) => self.pixels_seen = true,
            (b"acTL", Some(header)) => header.animated = true,
            (b"IEND", _) if left != 0 || !self.pixels_seen => {
                return Err(Flaw::Damaged("the PNG ends without pixels"));
            }
            _ => {}
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&kind);
        Ok(if left == 0 {
            State::Crc { kind, computed: crc.finalize() }
        } else {
            State::Data { kind, left, crc }
        })
    }

    pub(super) fn finish(&self) -> Option<Shape> {
        if matches!(self.state, State::End) { self.header } else { None }
    }
}

fn read_header(header: &[u8; 13]) -> Result<Shape, Flaw> {
    let [w0, w1, w2, w3, h0, h1, h2, h3, depth, colour, compression, filter, interlace] = *header;
    let depth_fits = match colour {
        0 => matches!(depth, 1 | 2 | 4 | 8 | 16),
        3 => matches!(depth, 1 | 2 | 4 | 8),
        2 | 4 | 6 => matches!(depth, 8 | 16),
        _ => false,
    };
    if !depth_fits || compression != 0 || filter != 0 || interlace > 1 {
        return Err(Flaw::Damaged("the header of the PNG is not valid"));
    }
    Shape::still(u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3]))
}
