//! Free numbers: any of them that is asked for, else the one that has been free the longest.

use std::collections::VecDeque;

/// It may be taken.
const FREE: u8 = 1;
/// It stands in the queue. One that was asked for leaves its place there behind.
const QUEUED: u8 = 2;

/// The free ones of the numbers below an end.
#[derive(Debug)]
pub(crate) struct Free {
    marks: Vec<u8>,
    queue: VecDeque<u32>,
    count: usize,
}

impl Free {
    /// All from 1 on but those that are in use.
    pub fn new(end: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let mut marks = vec![FREE | QUEUED; end as usize];
        for number in used.into_iter().chain([0]) {
            marks.get_mut(number as usize).into_iter().for_each(|mark| *mark = 0);
        }
        let queue: VecDeque<u32> = (0..end).filter(|number| marks[*number as usize] != 0).collect();
        Self { count: queue.len(), marks, queue }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether a number may be taken.
    pub fn has(&self, number: u32) -> bool {
        self.marks.get(number as usize).is_some_and(|mark| mark & FREE != 0)
    }

    /// Takes `wish` or, when it is not free, another.
    pub fn take(&mut self, wish: u32) -> Option<u32> {
        if self.has(wish) {
            return Some(self.use_up(wish));
        }
        loop {
            let next = self.queue.pop_front()?;
            self.marks[next as usize] &= !QUEUED;
            if self.has(next) {
                return Some(self.use_up(next));
            }
        }
    }

    fn use_up(&mut self, number: u32) -> u32 {
        self.marks[number as usize] &= !FREE;
        self.count -= 1;
        number
    }

    /// Gives one back. One that is free, or none of these, changes nothing.
    pub fn give(&mut self, number: u32) {
        let Some(mark) = self.marks.get_mut(number as usize) else { return };
        if number == 0 || *mark & FREE != 0 {
            return;
        }
        if *mark & QUEUED == 0 {
            self.queue.push_back(number);
        }
        *mark = FREE | QUEUED;
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_granted_when_it_is_free_and_else_the_longest_free_is_taken() {
        let mut free = Free::new(6, [2]);
        assert_eq!((free.len(), free.has(0), free.has(2)), (4, false, false));
        assert_eq!(free.take(4), Some(4));
        assert_eq!(free.take(4), Some(1), "it is taken");
        assert_eq!(free.take(0), Some(3), "nobody's");
        assert_eq!(free.take(99), Some(5), "there is none, and 4 is taken");
        assert_eq!((free.take(1), free.len()), (None, 0));
        for number in [3, 2, 3, 0, 99] {
            free.give(number);
        }
        assert_eq!(free.len(), 2, "each once, and only those that there are");
        assert_eq!([free.take(0), free.take(0), free.take(0)], [Some(3), Some(2), None]);
    }

    #[test]
    fn wishes_leave_no_places_behind_without_end() {
        let mut free = Free::new(9, []);
        for _ in 0..1000 {
            assert_eq!(free.take(5), Some(5));
            free.give(5);
        }
        assert!(free.queue.len() <= 8);
        let mut all: Vec<u32> = std::iter::from_fn(|| free.take(0)).collect();
        all.sort_unstable();
        assert_eq!(all, (1..9).collect::<Vec<_>>());
    }
}
