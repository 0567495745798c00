//! Random bodies, the same for every entrant: letters and digits, because some peers take text
//! only, and random, because some compress.

/// How many different bodies there are before they repeat.
const KINDS: u64 = 4096;

/// Bodies of one size.
pub(crate) struct Bodies {
    pub(crate) size: usize,
    bytes: Vec<u8>,
}

impl Bodies {
    pub(crate) fn new(size: usize) -> Self {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ size as u64;
        let mut random = || {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            LETTERS[(state >> 58) as usize]
        };
        let bytes = (0..size * KINDS as usize).map(|_| random()).collect();
        Self { size, bytes }
    }

    /// The body of the message with this number.
    pub(crate) fn get(&self, number: u64) -> &[u8] {
        let at = (number % KINDS) as usize * self.size;
        &self.bytes[at..at + self.size]
    }

    /// Whether these bytes are the body with this number.
    pub(crate) fn check(&self, number: u64, body: &[u8]) -> crate::Res<()> {
        if body == self.get(number) {
            Ok(())
        } else {
            Err(format!("message {number} differs from what was sent"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_differ_and_repeat() {
        let bodies = Bodies::new(128);
        assert_ne!(bodies.get(0), bodies.get(1));
        assert_eq!(bodies.get(5), bodies.get(KINDS + 5));
        assert!(bodies.check(7, bodies.get(7)).is_ok());
        assert!(bodies.check(7, bodies.get(8)).is_err());
    }
}
