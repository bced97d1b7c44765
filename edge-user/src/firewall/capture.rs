//! Captured packets in files: pcapng is written (draft-ietf-opsawg-pcapng), pcapng and pcap
//! (draft-ietf-opsawg-pcap) are read. Only Ethernet. Pure: readers and writers are the caller's.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
/// Times are in units of ten to the minus nine seconds.
const NANOSECONDS: u8 = 9;

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Name of its interface.
    pub interface: &'a str,
    /// When it came.
    pub at: SystemTime,
    /// Bytes of the whole packet.
    pub length: u32,
    /// Its first bytes.
    pub captured: &'a [u8],
    /// What is to be said about it.
    pub comment: &'a str,
}

/// Writes a pcapng section: an interface is described when its first packet comes.
#[derive(Debug)]
pub struct PcapNgWriter<W> {
    out: W,
    interfaces: BTreeMap<String, u32>,
}

impl<W: Write> PcapNgWriter<W> {
    /// Writes the section header.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut body = BYTE_ORDER_MAGIC.to_ne_bytes().to_vec();
        body.extend_from_slice(&1u16.to_ne_bytes());
        body.extend_from_slice(&0u16.to_ne_bytes());
        // The section's length is not known.
        body.extend_from_slice(&(-1i64).to_ne_bytes());
        option(&mut body, SHB_USERAPPL, concat!("edge ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, OPT_END, &[]);
        block(&mut out, SECTION_HEADER, &body)?;
        Ok(Self { out, interfaces: BTreeMap::new() })
    }

    /// Writes one packet, and flushes: who reads along sees it at once.
    pub fn write(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let interface = match self.interfaces.get(packet.interface) {
            Some(number) => *number,
            None => self.describe(packet.interface)?,
        };
        let at = packet.at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        let captured = packet.captured.get(..packet.length as usize).unwrap_or(packet.captured);
        let mut body = interface.to_ne_bytes().to_vec();
        body.extend_from_slice(&((at >> 32) as u32).to_ne_bytes());
        body.extend_from_slice(&(at as u32).to_ne_bytes());
        body.extend_from_slice(&u32::try_from(captured.len()).unwrap_or(0).to_ne_bytes());
        body.extend_from_slice(&packet.length.to_ne_bytes());
        body.extend_from_slice(captured);
        pad(&mut body);
        option(&mut body, OPT_COMMENT, packet.comment.as_bytes());
        option(&mut body, OPT_END, &[]);
        block(&mut self.out, ENHANCED_PACKET, &body)?;
        self.out.flush()
    }

    fn describe(&mut self, name: &str) -> io::Result<u32> {
        let mut body = LINKTYPE_ETHERNET.to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; 2]);
        // No limit on what is captured of a packet.
        body.extend_from_slice(&0u32.to_ne_bytes());
        option(&mut body, IF_NAME, name.as_bytes());
        option(&mut body, IF_TSRESOL, &[NANOSECONDS]);
        option(&mut body, OPT_END, &[]);
        block(&mut self.out, INTERFACE_DESCRIPTION, &body)?;
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(name.to_owned(), number);
        Ok(number)
    }
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    body.extend_from_slice(&code.to_ne_bytes());
    body.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_ne_bytes());
    body.extend_from_slice(value);
    pad(body);
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 12).map_err(io::Error::other)?.to_ne_bytes();
    let mut whole = kind.to_ne_bytes().to_vec();
    whole.extend_from_slice(&length);
    whole.extend_from_slice(body);
    whole.extend_from_slice(&length);
    out.write_all(&whole)
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Why a capture cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// Another kind of file.
    #[error("this is no pcap or pcapng file: write one with `tcpdump -w` or `edge drops --pcap`")]
    Unknown,
    /// It ends in the middle.
    #[error("the capture ends in the middle of frame {0}: write it again")]
    Truncated(usize),
    /// Not Ethernet.
    #[error(
        "frame {frame} is of link type {found}, not Ethernet (1): capture on the device itself, not on `any`"
    )]
    LinkType {
        /// Its number.
        frame: usize,
        /// Its link type.
        found: u16,
    },
    /// Not so many frames.
    #[error("the capture has {there} frames, there is no frame {wanted}: frames count from 1")]
    NoFrame {
        /// What was asked for.
        wanted: usize,
        /// How many there are.
        there: usize,
    },
    /// Less than an Ethernet header.
    #[error(
        "frame {frame} has {bytes} bytes, an Ethernet header {ETHERNET}: no device hands such a frame to the firewall; name another with --frame"
    )]
    Short {
        /// Its number.
        frame: usize,
        /// How long it is.
        bytes: usize,
    },
    /// Only its beginning was captured.
    #[error(
        "of frame {frame} only {captured} of {length} bytes were captured, which is judged as truncated: capture whole frames (`tcpdump -s 0`)"
    )]
    Cut {
        /// Its number.
        frame: usize,
        /// Bytes there.
        captured: usize,
        /// Bytes it had.
        length: u32,
    },
}

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Bytes that were captured.
    pub data: Vec<u8>,
    /// Bytes it had on the wire.
    pub length: u32,
    /// Its comment, if it has one.
    pub comment: Option<String>,
    link_type: u16,
}

/// Frame number `wanted` of a capture, counted from 1; whole, or it is an error.
pub fn frame(file: &[u8], wanted: usize) -> Result<Captured, CaptureError> {
    let frames = frames(file)?;
    let index = wanted.checked_sub(1);
    let Some(found) = index.and_then(|index| frames.get(index)) else {
        return Err(CaptureError::NoFrame { wanted, there: frames.len() });
    };
    if found.link_type != LINKTYPE_ETHERNET {
        return Err(CaptureError::LinkType { frame: wanted, found: found.link_type });
    }
    if (found.data.len() as u64) < u64::from(found.length) {
        let (captured, length) = (found.data.len(), found.length);
        return Err(CaptureError::Cut { frame: wanted, captured, length });
    }
    if found.data.len() < ETHERNET {
        return Err(CaptureError::Short { frame: wanted, bytes: found.data.len() });
    }
    Ok(found.clone())
}

/// All frames of a capture.
pub fn frames(file: &[u8]) -> Result<Vec<Captured>, CaptureError> {
    let first = Reader { bytes: file, big: false }.word(0).ok_or(CaptureError::Unknown)?;
    match first {
        0xa1b2_c3d4 | 0xa1b2_3c4d => pcap(Reader { bytes: file, big: false }),
        0xd4c3_b2a1 | 0x4d3c_b2a1 => pcap(Reader { bytes: file, big: true }),
        SECTION_HEADER => pcapng(file),
        _ => Err(CaptureError::Unknown),
    }
}

/// Numbers in the file's byte order.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl<'a> Reader<'a> {
    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn half(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn slice(&self, at: usize, length: u32) -> Option<&'a [u8]> {
        self.bytes.get(at..at.checked_add(length as usize)?)
    }
}

/// File header of 24 bytes, link type in the last word; then 16 bytes before each frame.
fn pcap(file: Reader<'_>) -> Result<Vec<Captured>, CaptureError> {
    let link_type = file.word(20).ok_or(CaptureError::Truncated(0))? as u16;
    let (mut frames, mut at) = (Vec::new(), 24);
    while at < file.bytes.len() {
        let cut = || CaptureError::Truncated(frames.len() + 1);
        let captured = file.word(at + 8).ok_or_else(cut)?;
        let length = file.word(at + 12).ok_or_else(cut)?;
        let data = file.slice(at + 16, captured).ok_or_else(cut)?.to_vec();
        frames.push(Captured { data, length, comment: None, link_type });
        at += 16 + captured as usize;
    }
    Ok(frames)
}

fn pcapng(file: &[u8]) -> Result<Vec<Captured>, CaptureError> {
    let mut reader = Reader { bytes: file, big: false };
    let (mut frames, mut interfaces, mut at) = (Vec::new(), Vec::new(), 0);
    while at < file.len() {
        let cut = CaptureError::Truncated(frames.len() + 1);
        if reader.word(at) == Some(SECTION_HEADER) {
            // Every section has its own byte order and its own interfaces.
            reader.big = file.get(at + 8..at + 12) == Some(&BYTE_ORDER_MAGIC.to_be_bytes());
            interfaces.clear();
        }
        let Some((kind, length)) = reader.word(at).zip(reader.word(at + 4)) else {
            return Err(cut);
        };
        if length < 12 || !length.is_multiple_of(4) {
            return Err(cut);
        }
        let Some(body) = reader.slice(at + 8, length - 12) else { return Err(cut) };
        let body = Reader { bytes: body, big: reader.big };
        match kind {
            INTERFACE_DESCRIPTION => interfaces.push(body.half(0).ok_or(cut)?),
            ENHANCED_PACKET => frames.push(enhanced(body, &interfaces).ok_or(cut)?),
            SIMPLE_PACKET => frames.push(simple(body, &interfaces).ok_or(cut)?),
            _ => {}
        }
        at += length as usize;
    }
    Ok(frames)
}

fn enhanced(body: Reader<'_>, interfaces: &[u16]) -> Option<Captured> {
    let link_type = *interfaces.get(body.word(0)? as usize)?;
    let (captured, length) = (body.word(12)?, body.word(16)?);
    let data = body.slice(20, captured)?.to_vec();
    let options = 20 + (captured as usize).next_multiple_of(4);
    Some(Captured { data, length, comment: comment(body, options), link_type })
}

fn simple(body: Reader<'_>, interfaces: &[u16]) -> Option<Captured> {
    let length = body.word(0)?;
    let there = u32::try_from(body.bytes.len()).ok()?.checked_sub(4)?.min(length);
    let data = body.slice(4, there)?.to_vec();
    Some(Captured { data, length, comment: None, link_type: *interfaces.first()? })
}

fn comment(body: Reader<'_>, mut at: usize) -> Option<String> {
    loop {
        let (code, length) = (body.half(at)?, body.half(at + 2)?);
        let value = body.slice(at + 4, length.into())?;
        match code {
            OPT_END => return None,
            OPT_COMMENT => return Some(String::from_utf8_lossy(value).into_owned()),
            _ => at += 4 + usize::from(length).next_multiple_of(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet<'a>(interface: &'a str, captured: &'a [u8], comment: &'a str) -> Packet<'a> {
        let at = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        Packet { interface, at, length: 100, captured, comment }
    }

    #[test]
    fn what_is_written_is_pcapng_block_by_block() {
        let mut file = Vec::new();
        let mut writer = PcapNgWriter::new(&mut file).unwrap();
        writer.write(&packet("eth0", &[7; 61], "drop no-rule zone external")).unwrap();
        writer.write(&packet("eth1", &[8; 60], "x")).unwrap();
        writer.write(&packet("eth0", &[9; 60], "x")).unwrap();
        let reader = Reader { bytes: &file, big: cfg!(target_endian = "big") };
        let (mut at, mut kinds) = (0, Vec::new());
        while at < file.len() {
            let length = reader.word(at + 4).unwrap();
            assert_eq!(reader.word(at + length as usize - 4), Some(length), "both lengths");
            kinds.push(reader.word(at).unwrap());
            if kinds.len() == 3 {
                let time = u64::from(reader.word(at + 12).unwrap()) << 32
                    | u64::from(reader.word(at + 16).unwrap());
                assert_eq!(time, 1_700_000_000_123_456_789);
            }
            at += length as usize;
        }
        let expected = [
            SECTION_HEADER,
            INTERFACE_DESCRIPTION,
            ENHANCED_PACKET,
            INTERFACE_DESCRIPTION,
            ENHANCED_PACKET,
            ENHANCED_PACKET,
        ];
        assert_eq!(kinds, expected);
        let frames = frames(&file).unwrap();
        assert_eq!(frames[0].data, [7; 61]);
        assert_eq!(frames[0].length, 100);
        assert_eq!(frames[0].comment.as_deref(), Some("drop no-rule zone external"));
        assert_eq!(frames[2].data, [9; 60]);
    }

    #[test]
    fn a_frame_is_found_by_its_number_and_only_whole() {
        let mut file = Vec::new();
        let mut writer = PcapNgWriter::new(&mut file).unwrap();
        writer.write(&packet("eth0", &[7; 60], "")).unwrap();
        let whole = Packet { length: 60, ..packet("eth0", &[8; 60], "") };
        writer.write(&whole).unwrap();
        assert_eq!(frame(&file, 1), Err(CaptureError::Cut { frame: 1, captured: 60, length: 100 }));
        assert_eq!(frame(&file, 2).unwrap().data, [8; 60]);
        for wanted in [0, 3] {
            assert_eq!(frame(&file, wanted), Err(CaptureError::NoFrame { wanted, there: 2 }));
        }
        assert_eq!(frame(&file[..file.len() - 5], 1), Err(CaptureError::Truncated(2)));
        assert_eq!(frame(b"GET / HTTP/1.1", 1), Err(CaptureError::Unknown));
    }

    #[test]
    fn pcap_is_read_in_both_byte_orders() {
        for big in [false, true] {
            let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
            let head = [word(0xa1b2_c3d4), word(0x0004_0002), word(0), word(0), word(0), word(1)];
            let mut file = head.concat();
            file.extend([word(1), word(2), word(14), word(14)].concat());
            file.extend_from_slice(b"abcdefghijklmn");
            file.extend([word(1), word(2), word(13), word(13)].concat());
            file.extend_from_slice(b"abcdefghijklm");
            assert_eq!(frame(&file, 1).unwrap().data, b"abcdefghijklmn", "{big}");
            assert_eq!(frame(&file, 2), Err(CaptureError::Short { frame: 2, bytes: 13 }));
            let mut other = file.clone();
            other[20..24].copy_from_slice(&word(113));
            assert_eq!(frame(&other, 1), Err(CaptureError::LinkType { frame: 1, found: 113 }));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_fail() {
        let mut file = Vec::new();
        PcapNgWriter::new(&mut file).unwrap().write(&packet("eth0", &[7; 60], "c")).unwrap();
        for at in 0..file.len() {
            for value in [0, 0xff, file[at].wrapping_add(1)] {
                let mut bad = file.clone();
                bad[at] = value;
                let _ = frames(&bad);
            }
            let _ = frames(&file[..at]);
        }
    }
}
