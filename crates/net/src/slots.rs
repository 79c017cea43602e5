//! A table whose entries keep their number while they live. A number that is used again has
//! another generation, so an old token finds nothing.

use std::{collections::BTreeSet, time::Instant};

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    pub(crate) index: u32,
    pub(crate) generation: u16,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u16,
    value: Option<T>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Slots<T> {
    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts in an entry that `make` makes for its place. On an error nothing changes.
    pub(crate) fn insert_with<E>(
        &mut self,
        make: impl FnOnce(Slot) -> Result<T, E>,
    ) -> Result<Slot, E> {
        let index = self.free.last().copied();
        let index = index.unwrap_or_else(|| u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let generation = self.entries.get(at).map_or(0, |entry| entry.generation);
        let slot = Slot { index, generation };
        let value = Some(make(slot)?);
        if let Some(entry) = self.entries.get_mut(at) {
            entry.value = value;
            self.free.pop();
        } else {
            self.entries.push(Entry { generation, value });
        }
        self.len += 1;
        Ok(slot)
    }

    /// The entry, if it still lives.
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let entry = self.entries.get_mut(usize::try_from(slot.index).ok()?)?;
        if entry.generation == slot.generation {
            entry.value.as_mut()
        } else {
            None
        }
    }

    /// Takes the entry out.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        let entry = self.entries.get_mut(usize::try_from(slot.index).ok()?)?;
        if entry.generation != slot.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot.index);
        self.len -= 1;
        Some(value)
    }

    /// Every entry with its place.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let alive = self.entries.iter().zip(0u32..);
        alive
            .filter(|(entry, _)| entry.value.is_some())
            .map(|(entry, index)| Slot {
                index,
                generation: entry.generation,
            })
            .collect()
    }
}

/// When entries of a table have something to do. Each has at most one time.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    times: BTreeSet<(Instant, Slot)>,
}

impl Deadlines {
    /// Replaces the time `old` of an entry with `new`.
    pub(crate) fn set(&mut self, slot: Slot, old: Option<Instant>, new: Option<Instant>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.times.remove(&(old, slot));
        }
        if let Some(new) = new {
            self.times.insert((new, slot));
        }
    }

    /// The earliest time.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.times.first().map(|(time, _)| *time)
    }

    /// Takes out an entry whose time has come.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Slot> {
        let (time, _) = *self.times.first()?;
        if time > now {
            return None;
        }
        self.times.pop_first().map(|(_, slot)| slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_can_be_moved() {
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(1);
        let slot = |index| Slot {
            index,
            generation: 0,
        };
        let mut deadlines = Deadlines::default();
        deadlines.set(slot(1), None, Some(later));
        deadlines.set(slot(2), None, Some(now));
        assert_eq!(deadlines.first(), Some(now));
        deadlines.set(slot(2), Some(now), None);
        assert_eq!(deadlines.pop(now), None);
        assert_eq!(deadlines.pop(later), Some(slot(1)));
        assert_eq!(deadlines.first(), None);
    }

    #[test]
    fn a_slot_that_is_used_again_has_another_generation() {
        let mut slots: Slots<u8> = Slots::default();
        let insert = |slots: &mut Slots<u8>, value| slots.insert_with(|_| Ok::<_, ()>(value));
        let first = insert(&mut slots, 1).unwrap();
        let second = insert(&mut slots, 2).unwrap();
        assert_eq!(slots.remove(first), Some(1));
        assert_eq!(slots.remove(first), None);
        let third = insert(&mut slots, 3).unwrap();
        assert_eq!(third.index, first.index);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.get_mut(third), Some(&mut 3));
        assert_eq!(slots.slots(), [third, second]);
        assert!(slots.insert_with(|_| Err(())).is_err());
        assert_eq!(slots.len(), 2);
    }
}
