//! Programs of a few instructions, written by hand.

use std::os::fd::RawFd;

const XDP_ABORTED: i32 = 0;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

/// A program of a few instructions.
#[derive(Clone, Copy, Debug)]
pub enum Tiny {
    /// Drops everything: the ceiling.
    Drop,
    /// Passes everything.
    Pass,
    /// Reads the headers of an IPv4 UDP packet down to the ports, then passes.
    Parse,
    /// Reads them likewise, then drops.
    ParseDrop,
    /// Sends everything back out: the generator.
    Transmit,
    /// Looks the source up in a map and drops when it is there: what a plain table costs.
    LookUp(LookUp),
    /// Writes a source made up for this run into the packet and goes on with another program.
    Scatter(Scatter),
    /// Sends an IPv4 UDP packet without checksum back out, slowly, to one of many ports.
    Pace(Pace),
}

/// When a generator sends, and to what ports.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The array whose one value is a [`Clock`].
    pub clock: RawFd,
    /// Nanoseconds from one packet to the next, below 300,000. What is late by up to sixteen of
    /// them is caught up with; later, the time begins anew.
    pub interval: u32,
    /// The first port.
    pub port: u16,
    /// Ports: every second from the first on.
    pub ports: u16,
}

/// What a paced generator keeps, in nanoseconds of `CLOCK_MONOTONIC`, each word in native order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// When the next packet goes.
    pub due: u64,
    /// When the first went; 0: none yet.
    pub first: u64,
    /// When the last went.
    pub last: u64,
}

/// A plain table that is asked about the source.
#[derive(Clone, Copy, Debug)]
pub struct LookUp {
    /// The table.
    pub map: RawFd,
    /// IPv6 sources.
    pub v6: bool,
    /// The key begins with a prefix length, as a trie's does.
    pub trie: bool,
}

/// How sources are made up: `base + (number << shift) + low`, where `number` is below `count`
/// and `low` has bits of `mask`. Of IPv6 it is the third to sixth byte of the address.
#[derive(Clone, Copy, Debug)]
pub struct Scatter {
    /// The array whose first program goes on.
    pub programs: RawFd,
    /// IPv6 sources.
    pub v6: bool,
    /// First address.
    pub base: u32,
    /// How many there are.
    pub count: u32,
    /// How far they are apart, in bits.
    pub shift: u8,
    /// What varies below.
    pub mask: u32,
}

/// What is put right before each run of a program, because the program changes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before<'a> {
    /// The frame as it came in, from its beginning on; an even number of bytes.
    pub frame: &'a [u8],
    /// The first word of an entry of a map.
    pub entry: Option<Entry<'a>>,
}

/// See [`Before::entry`].
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The map.
    pub map: RawFd,
    /// The key, a multiple of four bytes.
    pub key: &'a [u8],
    /// The word.
    pub word: u32,
}

/// opcode, destination and source register, offset, immediate.
type Instruction = (u8, u8, u8, i16, i32);

const MOV_IMM: u8 = 0xb7;
const MOV: u8 = 0xbf;
const ADD_IMM: u8 = 0x07;
const ADD: u8 = 0x0f;
const SUBTRACT: u8 = 0x1f;
const AND_IMM: u8 = 0x57;
const SHIFT_LEFT_IMM: u8 = 0x67;
const LOAD8: u8 = 0x71;
const LOAD16: u8 = 0x69;
const LOAD32: u8 = 0x61;
const LOAD64: u8 = 0x79;
const STORE32: u8 = 0x63;
const STORE16: u8 = 0x6b;
const STORE64: u8 = 0x7b;
const STORE32_IMM: u8 = 0x62;
const STORE16_IMM: u8 = 0x6a;
const JUMP_GREATER: u8 = 0x2d;
const JUMP_LESS: u8 = 0xad;
const JUMP_NOT_GREATER_IMM: u8 = 0xb5;
const JUMP_EQUAL_IMM: u8 = 0x15;
const JUMP_NOT_EQUAL_IMM: u8 = 0x55;
const MODULO32_IMM: u8 = 0x94;
const SHIFT_LEFT32_IMM: u8 = 0x64;
const AND32_IMM: u8 = 0x54;
const ADD32: u8 = 0x0c;
const ADD32_IMM: u8 = 0x04;
const TO_BIG_ENDIAN: u8 = 0xdc;
const LOAD_WIDE: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// In the source register of [`LOAD_WIDE`]: the immediate is a map's descriptor.
const MAP_DESCRIPTOR: u8 = 1;
const HELPER_LOOK_UP: i32 = 1;
const HELPER_TIME: i32 = 5;
const HELPER_RANDOM: i32 = 7;
const HELPER_TAIL_CALL: i32 = 12;

/// How often a paced generator looks at the clock before a packet, at most.
const LOOKS: i32 = 20_000;

/// Where the source address stands in an untagged frame.
const SOURCE4: i16 = 14 + 12;
const SOURCE6: i16 = 14 + 8;
/// Where the destination port of UDP stands in an untagged frame of IPv4 without options.
const DESTINATION_PORT4: i16 = 14 + 20 + 2;

/// The instructions as the kernel reads them.
pub(super) fn code(program: Tiny) -> Vec<u64> {
    encoded(instructions(program))
}

/// Puts things right and goes on with the first of `programs`.
pub(super) fn restoring(before: Before<'_>, programs: RawFd) -> Vec<u64> {
    let mut code = vec![(MOV, 6, 1, 0, 0)];
    if let Some(entry) = before.entry {
        let start = -(entry.key.len() as i16);
        code.extend(stores(10, start, entry.key));
        code.extend([
            (MOV, 2, 10, 0, 0),
            (ADD_IMM, 2, 0, 0, start.into()),
            (LOAD_WIDE, 1, MAP_DESCRIPTOR, 0, entry.map),
            (0, 0, 0, 0, 0),
            (CALL, 0, 0, 0, HELPER_LOOK_UP),
            (JUMP_EQUAL_IMM, 0, 0, 1, 0),
            (STORE32_IMM, 0, 0, 0, entry.word as i32),
        ]);
    }
    let frame = stores(2, 0, before.frame);
    code.extend([
        (LOAD32, 2, 6, 0, 0),
        (LOAD32, 3, 6, 4, 0),
        (MOV, 4, 2, 0, 0),
        (ADD_IMM, 4, 0, 0, before.frame.len() as i32),
        (JUMP_GREATER, 4, 3, frame.len() as i16 + 5, 0),
    ]);
    code.extend(frame);
    code.extend(go_on(programs));
    encoded(code)
}

/// Goes on with the first of `programs`; the context is in r6.
fn go_on(programs: RawFd) -> [Instruction; 7] {
    [
        (MOV, 1, 6, 0, 0),
        (LOAD_WIDE, 2, MAP_DESCRIPTOR, 0, programs),
        (0, 0, 0, 0, 0),
        (MOV_IMM, 3, 0, 0, 0),
        (CALL, 0, 0, 0, HELPER_TAIL_CALL),
        (MOV_IMM, 0, 0, 0, XDP_ABORTED),
        (EXIT, 0, 0, 0, 0),
    ]
}

/// Writes one of so many destination ports into the packet and goes on with the first of `programs`.
pub(super) fn spreading(ports: (u16, u16), programs: RawFd) -> Vec<u64> {
    let mut code = vec![(MOV, 6, 1, 0, 0)];
    code.extend(any_port(ports));
    code.extend(go_on(programs));
    encoded(code)
}

/// Writes one of so many destination ports, every second from the first on, into an IPv4 UDP packet; the
/// context is in r6.
fn any_port((first, count): (u16, u16)) -> [Instruction; 11] {
    [
        (CALL, 0, 0, 0, HELPER_RANDOM),
        (MODULO32_IMM, 0, 0, 0, count.into()),
        (SHIFT_LEFT32_IMM, 0, 0, 0, 1),
        (ADD32_IMM, 0, 0, 0, first.into()),
        (TO_BIG_ENDIAN, 0, 0, 0, 16),
        (LOAD32, 2, 6, 0, 0),
        (LOAD32, 3, 6, 4, 0),
        (MOV, 4, 2, 0, 0),
        (ADD_IMM, 4, 0, 0, i32::from(DESTINATION_PORT4) + 2),
        (JUMP_GREATER, 4, 3, 1, 0),
        (STORE16, 2, 0, DESTINATION_PORT4, 0),
    ]
}

/// Writes bytes from `offset` of a register on.
fn stores(register: u8, offset: i16, bytes: &[u8]) -> Vec<Instruction> {
    let mut at = offset;
    let store = |chunk: &[u8]| {
        let place = at;
        at += chunk.len() as i16;
        match *chunk {
            [a, b, c, d] => (STORE32_IMM, register, 0, place, i32::from_le_bytes([a, b, c, d])),
            [a, b] => (STORE16_IMM, register, 0, place, i32::from_le_bytes([a, b, 0, 0])),
            _ => unreachable!("an even number of bytes"),
        }
    };
    bytes.chunks(4).map(store).collect()
}

fn encoded(instructions: Vec<Instruction>) -> Vec<u64> {
    instructions
        .into_iter()
        .map(|(opcode, to, from, offset, immediate)| {
            u64::from(opcode)
                | u64::from(to | (from << 4)) << 8
                | u64::from(offset as u16) << 16
                | u64::from(immediate as u32) << 32
        })
        .collect()
}

fn instructions(program: Tiny) -> Vec<Instruction> {
    let answer = |code| vec![(MOV_IMM, 0, 0, 0, code), (EXIT, 0, 0, 0, 0)];
    match program {
        Tiny::Drop => answer(XDP_DROP),
        Tiny::Pass => answer(XDP_PASS),
        Tiny::Transmit => answer(XDP_TX),
        Tiny::Parse => parse(XDP_DROP, XDP_PASS),
        Tiny::ParseDrop => parse(XDP_PASS, XDP_DROP),
        Tiny::LookUp(table) => look_up(table),
        Tiny::Scatter(sources) => scatter(sources),
        Tiny::Pace(pace) => paced(pace),
    }
}

fn paced(pace: Pace) -> Vec<Instruction> {
    let interval = pace.interval as i32;
    let mut code = vec![
        (MOV, 6, 1, 0, 0),
        (STORE32_IMM, 10, 0, -4, 0),
        (MOV, 2, 10, 0, 0),
        (ADD_IMM, 2, 0, 0, -4),
        (LOAD_WIDE, 1, MAP_DESCRIPTOR, 0, pace.clock),
        (0, 0, 0, 0, 0),
        (CALL, 0, 0, 0, HELPER_LOOK_UP),
        (JUMP_NOT_EQUAL_IMM, 0, 0, 2, 0),
        (MOV_IMM, 0, 0, 0, XDP_DROP),
        (EXIT, 0, 0, 0, 0),
        (MOV, 7, 0, 0, 0), // r7 = the clock, r8 = when this packet is due
        (LOAD64, 8, 7, 0, 0),
        (MOV_IMM, 9, 0, 0, LOOKS),
        (CALL, 0, 0, 0, HELPER_TIME), // wait
        (ADD_IMM, 9, 0, 0, -1),
        (JUMP_EQUAL_IMM, 9, 0, 1, 0),
        (JUMP_LESS, 0, 8, -4, 0),
        (MOV, 1, 0, 0, 0), // too late, or never waited for: begin anew
        (SUBTRACT, 1, 8, 0, 0),
        (JUMP_NOT_GREATER_IMM, 1, 0, 1, interval.saturating_mul(16)),
        (MOV, 8, 0, 0, 0),
        (ADD_IMM, 8, 0, 0, interval),
        (STORE64, 7, 8, 0, 0),
        (STORE64, 7, 0, 16, 0), // the last, and perhaps the first
        (LOAD64, 1, 7, 8, 0),
        (JUMP_NOT_EQUAL_IMM, 1, 0, 1, 0),
        (STORE64, 7, 0, 8, 0),
    ];
    code.extend(any_port((pace.port, pace.ports)));
    code.extend([(MOV_IMM, 0, 0, 0, XDP_TX), (EXIT, 0, 0, 0, 0)]);
    code
}

/// What has another shape gets the answer `other`.
fn parse(other: i32, answer: i32) -> Vec<Instruction> {
    vec![
        (MOV_IMM, 0, 0, 0, other),
        (LOAD32, 2, 1, 0, 0),                 // r2 = data
        (LOAD32, 3, 1, 4, 0),                 // r3 = data_end
        (MOV, 4, 2, 0, 0),                    // Ethernet and IPv4 in bounds?
        (ADD_IMM, 4, 0, 0, 34),               //
        (JUMP_GREATER, 4, 3, 15, 0),          // to the exit
        (LOAD16, 5, 2, 12, 0),                // EtherType
        (JUMP_NOT_EQUAL_IMM, 5, 0, 13, 0x08), // IPv4 (little-endian load)
        (LOAD8, 5, 2, 23, 0),                 // protocol
        (JUMP_NOT_EQUAL_IMM, 5, 0, 11, 17),   // UDP
        (LOAD8, 5, 2, 14, 0),                 // header length
        (AND_IMM, 5, 0, 0, 0x0f),             //
        (SHIFT_LEFT_IMM, 5, 0, 0, 2),         //
        (MOV, 4, 2, 0, 0),                    // the UDP header in bounds?
        (ADD, 4, 5, 0, 0),                    //
        (MOV, 2, 4, 0, 0),                    //
        (ADD_IMM, 4, 0, 0, 22),               //
        (JUMP_GREATER, 4, 3, 3, 0),           // to the exit
        (LOAD16, 5, 2, 16, 0),                // destination port
        (LOAD16, 5, 2, 14, 0),                // source port
        (MOV_IMM, 0, 0, 0, answer),
        (EXIT, 0, 0, 0, 0),
    ]
}

/// The key is made at the end of the stack: the prefix length, then the address.
fn look_up(table: LookUp) -> Vec<Instruction> {
    let (end, length) = if table.v6 { (14 + 40, 128) } else { (14 + 20, 32) };
    let mut code = vec![
        (LOAD32, 2, 1, 0, 0),
        (LOAD32, 3, 1, 4, 0),
        (MOV, 4, 2, 0, 0),
        (ADD_IMM, 4, 0, 0, end),
    ];
    let mut rest = if table.v6 {
        vec![
            (LOAD64, 5, 2, SOURCE6, 0),
            (STORE64, 10, 5, -16, 0),
            (LOAD64, 5, 2, SOURCE6 + 8, 0),
            (STORE64, 10, 5, -8, 0),
        ]
    } else {
        vec![(LOAD32, 5, 2, SOURCE4, 0), (STORE32, 10, 5, -4, 0)]
    };
    let mut key = if table.v6 { -16 } else { -4 };
    if table.trie {
        key -= 4;
        rest.push((STORE32_IMM, 10, 0, key, length));
    }
    rest.extend([
        (MOV, 2, 10, 0, 0),
        (ADD_IMM, 2, 0, 0, key.into()),
        (LOAD_WIDE, 1, MAP_DESCRIPTOR, 0, table.map),
        (0, 0, 0, 0, 0),
        (CALL, 0, 0, 0, HELPER_LOOK_UP),
        (JUMP_EQUAL_IMM, 0, 0, 2, 0),
        (MOV_IMM, 0, 0, 0, XDP_DROP),
        (EXIT, 0, 0, 0, 0),
    ]);
    code.push((JUMP_GREATER, 4, 3, rest.len() as i16, 0));
    code.extend(rest);
    code.extend([(MOV_IMM, 0, 0, 0, XDP_PASS), (EXIT, 0, 0, 0, 0)]);
    code
}

fn scatter(sources: Scatter) -> Vec<Instruction> {
    let at = if sources.v6 { SOURCE6 + 2 } else { SOURCE4 };
    let mut code = vec![
        (MOV, 6, 1, 0, 0),
        (CALL, 0, 0, 0, HELPER_RANDOM),
        (MOV, 7, 0, 0, 0),
        (MODULO32_IMM, 7, 0, 0, sources.count as i32),
        (SHIFT_LEFT32_IMM, 7, 0, 0, sources.shift.into()),
        (CALL, 0, 0, 0, HELPER_RANDOM),
        (AND32_IMM, 0, 0, 0, sources.mask as i32),
        (ADD32, 7, 0, 0, 0),
        (ADD32_IMM, 7, 0, 0, sources.base as i32),
        (TO_BIG_ENDIAN, 7, 0, 0, 32),
        (LOAD32, 2, 6, 0, 0),
        (LOAD32, 3, 6, 4, 0),
        (MOV, 4, 2, 0, 0),
        (ADD_IMM, 4, 0, 0, i32::from(at) + 4),
        (JUMP_GREATER, 4, 3, 6, 0),
        (STORE32, 2, 7, at, 0),
    ];
    code.extend(go_on(sources.programs));
    code
}
