//! JPEG: markers and their segments, scans of entropy-coded data between them, to EOI (ITU T.81,
//! annex B).

use super::{Field, Flaw, Shape, cut};

#[derive(Default)]
pub(in super::super) struct Walk {
    state: State,
    field: Field,
    frame: Option<Shape>,
    scan_seen: bool,
}

#[derive(Default)]
enum State {
    #[default]
    Start,
    /// 0xFF must come.
    Marker,
    /// 0xFF has come; more of them are fill bytes. In a scan, 0x00 and restarts go on with it.
    Code {
        in_scan: bool,
    },
    Length {
        marker: u8,
    },
    /// The first 6 bytes of a frame header: precision, height, width, number of components.
    Frame {
        left: u32,
    },
    Segment {
        marker: u8,
        left: u32,
    },
    Scan,
    End,
}

impl Walk {
    pub(super) fn feed(&mut self, input: &mut &[u8]) -> Result<(), Flaw> {
        while let [first, later @ ..] = *input {
            match &mut self.state {
                State::Start => {
                    if let Some(start) = self.field.take::<2>(input) {
                        if start != [0xff, 0xd8] {
                            return Err(Flaw::Damaged("it does not start as a JPEG does"));
                        }
                        self.state = State::Marker;
                    }
                }
                State::Marker => {
                    *input = later;
                    if *first != 0xff {
                        return Err(Flaw::Damaged("a marker of the JPEG is missing"));
                    }
                    self.state = State::Code { in_scan: false };
                }
                State::Code { in_scan } => {
                    *input = later;
                    let in_scan = *in_scan;
                    self.state = self.code(*first, in_scan)?;
                }
                State::Length { marker } => {
                    let marker = *marker;
                    if let Some(length) = self.field.take::<2>(input) {
                        let left = u32::from(u16::from_be_bytes(length)).checked_sub(2);
                        let left =
                            left.ok_or(Flaw::Damaged("a segment of the JPEG is too short"))?;
                        self.state = self.segment(marker, left)?;
                    }
                }
                State::Frame { left } => {
                    if let Some([_, h0, h1, w0, w1, _]) = self.field.take::<6>(input) {
                        let height = u16::from_be_bytes([h0, h1]);
                        let width = u16::from_be_bytes([w0, w1]);
                        self.frame = Some(Shape::still(width.into(), height.into())?);
                        let left = *left - 6;
                        self.state = after(0xc0, left);
                    }
                }
                State::Segment { marker, left } => {
                    cut(left, input);
                    self.state = after(*marker, *left);
                }
                State::Scan => match input.iter().position(|byte| *byte == 0xff) {
                    Some(at) => {
                        *input = &input[at + 1..];
                        self.state = State::Code { in_scan: true };
                    }
                    None => *input = &[],
                },
                State::End => break,
            }
        }
        Ok(())
    }

    /// What follows `0xFF code`.
    fn code(&self, code: u8, in_scan: bool) -> Result<State, Flaw> {
        Ok(match code {
            0xff => State::Code { in_scan },
            0x00 | 0xd0..=0xd7 if in_scan => State::Scan,
            // TEM, and restarts outside of a scan, which some encoders leave behind one.
            0x01 | 0xd0..=0xd7 => State::Marker,
            0x00 | 0xd8 => return Err(Flaw::Damaged("a marker of the JPEG is out of place")),
            0xd9 if self.scan_seen => State::End,
            0xd9 => return Err(Flaw::Damaged("the JPEG ends without pixels")),
            marker => State::Length { marker },
        })
    }

    /// What follows the length of a segment with `left` bytes to come.
    fn segment(&mut self, marker: u8, left: u32) -> Result<State, Flaw> {
        match marker {
            // Every SOFn; C4, C8 and CC in their midst are tables and a reserved one.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                if self.frame.is_some() || left < 6 {
                    return Err(Flaw::Damaged("the JPEG has no single valid frame"));
                }
                return Ok(State::Frame { left });
            }
            0xda => {
                if self.frame.is_none() || left == 0 {
                    return Err(Flaw::Damaged("a scan of the JPEG comes before its frame"));
                }
                self.scan_seen = true;
            }
            _ => {}
        }
        Ok(after(marker, left))
    }

    pub(super) fn finish(&self) -> Option<Shape> {
        if matches!(self.state, State::End) { self.frame } else { None }
    }
}

/// The state with `left` bytes of a segment to come.
fn after(marker: u8, left: u32) -> State {
    match (marker, left) {
        (0xda, 0) => State::Scan,
        (_, 0) => State::Marker,
        (marker, left) => State::Segment { marker, left },
    }
}
