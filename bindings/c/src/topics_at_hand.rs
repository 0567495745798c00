//! The topics that a store handle keeps at hand, so that a send does not look its own up again.

use std::sync::Arc;

/// How many are kept; when there are more, all are forgotten.
const MOST: usize = 256;
const BITS: u32 = 9;
const PLACES: usize = 1 << BITS;
const _: () = assert!(PLACES >= 2 * MOST);

/// Open addressing with a hash that is only quick: the program chooses the names, and they are few.
pub(crate) struct TopicsAtHand<T> {
    /// None or all of them.
    places: Vec<Option<Kept<T>>>,
    used: usize,
}

/// A name and what it stands for.
type Kept<T> = (Box<[u8]>, Arc<T>);

impl<T> Default for TopicsAtHand<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            used: 0,
        }
    }
}

/// Where a name is first looked for.
#[inline]
fn first_place(name: &[u8]) -> usize {
    let mut hash = name.len() as u64;
    let mut add = |word: u64| {
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    };
    let mut words = name.chunks_exact(8);
    for word in &mut words {
        add(word.try_into().map_or(0, u64::from_le_bytes));
    }
    for &byte in words.remainder() {
        add(byte.into());
    }
    // The high bits of a product know all of its factors.
    usize::try_from(hash >> (u64::BITS - BITS)).unwrap_or(0)
}

impl<T> TopicsAtHand<T> {
    /// The one with this name.
    #[inline]
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Arc<T>> {
        let mut place = first_place(name);
        // At least half of the places are free.
        while let Some((known, topic)) = self.places.get(place)? {
            if **known == *name {
                return Some(topic);
            }
            place = (place + 1) % PLACES;
        }
        None
    }

    /// Keeps one, instead of one with the same name.
    pub(crate) fn put(&mut self, name: &[u8], topic: Arc<T>) {
        if self.get(name).is_none() && (self.used == MOST || self.places.is_empty()) {
            self.places.clear();
            self.places.resize_with(PLACES, || None);
            self.used = 0;
        }
        let mut place = first_place(name);
        while let Some((known, kept)) = &mut self.places[place] {
            if **known == *name {
                *kept = topic;
                return;
            }
            place = (place + 1) % PLACES;
        }
        self.places[place] = Some((name.into(), topic));
        self.used += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_until_there_are_too_many() {
        let mut topics = TopicsAtHand::default();
        assert!(topics.get(b"t").is_none());
        let name = |n: usize| format!("a topic with the number {n}");
        for n in 0..MOST {
            topics.put(name(n).as_bytes(), Arc::new(n));
            for known in 0..=n {
                let found = topics.get(name(known).as_bytes());
                assert_eq!(found.map(|t| **t), Some(known));
            }
            assert!(topics.get(name(n + 1).as_bytes()).is_none());
        }
        topics.put(name(1).as_bytes(), Arc::new(7));
        assert_eq!(topics.get(name(2).as_bytes()).map(|t| **t), Some(2));
        topics.put(b"one more", Arc::new(8));
        assert_eq!(topics.get(b"one more").map(|t| **t), Some(8));
        assert!(topics.get(name(2).as_bytes()).is_none());
    }

    #[test]
    fn a_name_that_is_put_again_stands_for_the_new_one() {
        let mut topics = TopicsAtHand::default();
        topics.put(b"t", Arc::new(1));
        topics.put(b"t", Arc::new(2));
        assert_eq!(topics.get(b"t").map(|t| **t), Some(2));
        assert_eq!(topics.used, 1);
    }

    /// Names whose first places are the same, as an attacker could choose them.
    #[test]
    fn names_that_collide_are_all_found() {
        let same: Vec<String> = (0..200_000)
            .map(|n| n.to_string())
            .filter(|name| first_place(name.as_bytes()) == PLACES - 1)
            .take(100)
            .collect();
        assert_eq!(same.len(), 100);
        let mut topics = TopicsAtHand::default();
        for (n, name) in same.iter().enumerate() {
            topics.put(name.as_bytes(), Arc::new(n));
        }
        for (n, name) in same.iter().enumerate() {
            assert_eq!(topics.get(name.as_bytes()).map(|t| **t), Some(n));
        }
        assert!(topics.get(b"another").is_none());
    }
}
