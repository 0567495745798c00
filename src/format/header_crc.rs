//! CRC-32 of exactly 52 bytes, what a record's header checksum covers, and of exactly 8.
//!
//! It is computed under the engine lock for every record, and again for every record read. The
//! general implementation only becomes fast for longer inputs, and copying the header together
//! for it costs as much as the checksum itself; here the bytes come as words in registers, 16 at
//! a step ("slicing by 16").

/// `TABLES[n][b]`: what byte `b` does to the checksum when `n` bytes follow it.
static TABLES: [[u32; 256]; 16] = tables();

const fn tables() -> [[u32; 256]; 16] {
    let mut tables = [[0; 256]; 16];
    let mut byte = 0u32;
    while byte < 256 {
        let mut state = byte;
        let mut bit = 0;
        while bit < 8 {
            state = if state & 1 == 1 {
                state >> 1 ^ 0xedb8_8320
            } else {
                state >> 1
            };
            bit += 1;
        }
        tables[0][byte as usize] = state;
        byte += 1;
    }
    let mut follow = 1;
    while follow < 16 {
        let mut byte = 0;
        while byte < 256 {
            let state = tables[follow - 1][byte];
            tables[follow][byte] = state >> 8 ^ tables[0][(state & 0xff) as usize];
            byte += 1;
        }
        follow += 1;
    }
    tables
}

/// The checksum of the word's bytes in little-endian order: the body of the shortest records.
pub(super) fn crc8(word: u64) -> u32 {
    let bytes = (word ^ u64::from(u32::MAX)).to_le_bytes();
    let mut state = 0;
    for (byte, table) in bytes.into_iter().zip(TABLES[..8].iter().rev()) {
        state ^= table[usize::from(byte)];
    }
    !state
}

/// The checksum of the words' bytes in little-endian order.
pub(super) fn crc52(words: [u64; 6], last: u32) -> u32 {
    let [a, b, c, d, e, f] = words;
    let state = step(u32::MAX, a, b);
    let state = step(state, c, d);
    let state = step(state, e, f);
    let bytes = (state ^ last).to_le_bytes();
    let mut state = 0;
    for (byte, table) in bytes.into_iter().zip(TABLES[..4].iter().rev()) {
        state ^= table[usize::from(byte)];
    }
    !state
}

fn step(state: u32, first: u64, second: u64) -> u32 {
    let first = (first ^ u64::from(state)).to_le_bytes();
    let second = second.to_le_bytes();
    let mut state = 0;
    for (n, (a, b)) in first.into_iter().zip(second).enumerate() {
        state ^= TABLES[15 - n][usize::from(a)] ^ TABLES[7 - n][usize::from(b)];
    }
    state
}
