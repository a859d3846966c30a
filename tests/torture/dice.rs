//! Chance that can be repeated, and what it does to bytes.

use std::ops::Range;

/// SplitMix64: the same seed, campaign and round give the same throws.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, campaign: &str, round: u64) -> Self {
        // FNV-1a, so that campaigns of one seed differ.
        let name = campaign.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        });
        let mut dice = Self(seed ^ name);
        dice.0 = dice.next().wrapping_add(round);
        dice.next();
        dice
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A piece of something that long, most often a short one.
    fn range(&mut self, length: usize) -> Range<usize> {
        let start = self.below(length + 1);
        let most = if self.below(4) == 0 { length } else { 16 };
        let size = self.below(most.min(length - start) + 1);
        start..start + size
    }
}

/// Numbers at which arithmetic goes wrong.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "00000000000000000000000000000000001",
    "127",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999",
    "1e309",
    "FFFFFFFF",
    "FFFFFFFF/FFFFFFFF",
    "100000000/0",
];

/// What means something in one format or another, and what is no text.
const TOKENS: &[&[u8]] = &[
    b"..",
    b"../",
    b"/",
    b"\0",
    b"\n",
    b"\r\n",
    b"'",
    b"\"",
    b"\\",
    b"=",
    b":",
    b",",
    b"[",
    b"]",
    b"{",
    b"}",
    b"#",
    b"%00",
    b"%",
    b"\xFF",
    b"\xC3",
    "é".as_bytes(),
    "\u{10FFFF}".as_bytes(),
    b"9999-12-31T23:59:60Z",
    b"+262143-12-31T00:00:00Z",
    b"-262143-01-01T00:00:00Z",
    b"null",
    b"true",
];

/// One of `corpus`, changed in one to four ways.
pub fn mutation(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dice.one_of(corpus).clone();
    for _ in 0..=dice.below(4) {
        change(dice, &mut bytes, corpus);
    }
    bytes
}

fn change(dice: &mut Dice, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    // Grown too often, it would only be slow.
    const LENGTH_MAX: usize = 256 << 10;
    let length = bytes.len();
    match dice.below(10) {
        0 | 1 if length > 0 => bytes[dice.below(length)] ^= 1 << dice.below(8),
        2 => bytes.truncate(dice.below(length + 1)),
        3 => {
            let other = dice.one_of(corpus);
            let (front, back) = (dice.below(length + 1), dice.below(other.len() + 1));
            bytes.truncate(front);
            bytes.extend_from_slice(&other[back..]);
        }
        4 => {
            let digits = digits(bytes);
            if !digits.is_empty() {
                let place = dice.one_of(&digits).clone();
                bytes.splice(place, dice.one_of(NUMBERS).bytes());
            }
        }
        5 => {
            let piece = bytes[dice.range(length)].to_vec();
            let times = *dice.one_of(&[1, 2, 3, 100]);
            if length + piece.len() * times <= LENGTH_MAX {
                let at = dice.below(length + 1);
                bytes.splice(at..at, piece.repeat(times));
            }
        }
        6 => drop(bytes.drain(dice.range(length))),
        7 => {
            let number = *dice.one_of(&[
                0,
                1,
                2,
                0x7F,
                0x80,
                0xFF,
                0x7FFF_FFFF,
                0x8000_0000,
                u64::MAX,
                1 << 63,
                1 << 32,
            ]);
            let number = if dice.below(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
            let width = *dice.one_of(&[1, 2, 4, 8]);
            let number = if number[0] == 0 { &number[8 - width..] } else { &number[..width] };
            if width <= length {
                let at = dice.below(length - width + 1);
                bytes[at..at + width].copy_from_slice(number);
            }
        }
        8 => {
            let at = dice.below(length + 1);
            bytes.splice(at..at, dice.one_of(TOKENS).iter().copied());
        }
        _ => {
            let place = dice.range(length);
            for byte in &mut bytes[place] {
                *byte = dice.next() as u8;
            }
        }
    }
}

/// Where decimal numbers are.
fn digits(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (i, byte) in bytes.iter().enumerate().take(8192) {
        match found.last_mut() {
            _ if !byte.is_ascii_digit() => {}
            Some(last) if last.end == i => last.end += 1,
            _ => found.push(i..i + 1),
        }
    }
    found
}
