//! Which bytes of an upload are safe where. Pure.
//!
//! A chunk is unsent, then under way on a lane, then acknowledged, then durable, and then it is forgotten. Its bytes
//! are kept until they are acknowledged, so that they can be sent again, and its checksum until it is durable, so
//! that after the connection was lost it can be read back and compared: a server that went down meanwhile may have
//! lost what it had acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::connection::Tag;

/// Never used twice in an upload.
pub type LaneId = u32;

#[derive(Default)]
pub struct Ledger {
    /// By offset.
    chunks: BTreeMap<u64, Chunk>,
    unsent: BTreeSet<u64>,
}

struct Chunk {
    length: u32,
    crc: u32,
    place: Place,
    /// The sync that was asked for after it, on that lane.
    covered_by: Option<(LaneId, Tag)>,
}

enum Place {
    Unsent(Arc<Vec<u8>>),
    UnderWay(LaneId, Arc<Vec<u8>>),
    Acknowledged,
}

/// Acknowledged, but not known to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unproven {
    pub offset: u64,
    pub length: u32,
    pub crc: u32,
}

impl Ledger {
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub fn add(&mut self, offset: u64, data: Vec<u8>) {
        let (length, crc) = (data.len() as u32, crc32c::crc32c(&data));
        let place = Place::Unsent(Arc::new(data));
        self.chunks.insert(offset, Chunk { length, crc, place, covered_by: None });
        self.unsent.insert(offset);
    }

    /// Cuts what is to be sent into chunks of no more than `length_max`.
    pub fn split(&mut self, length_max: usize) {
        for offset in self.unsent.clone() {
            let chunk = self.chunks.get_mut(&offset).expect("what is unsent is known");
            if chunk.length as usize <= length_max {
                continue;
            }
            let Place::Unsent(data) = &chunk.place else { unreachable!("what is unsent has its data") };
            let data = Arc::clone(data);
            for (i, piece) in data.chunks(length_max).enumerate() {
                self.add(offset + (i * length_max) as u64, piece.to_owned());
            }
        }
    }

    /// The first chunk that is to be sent.
    pub fn unsent(&self) -> Option<(u64, Arc<Vec<u8>>)> {
        let offset = *self.unsent.first()?;
        match &self.chunks[&offset].place {
            Place::Unsent(data) => Some((offset, Arc::clone(data))),
            Place::UnderWay(..) | Place::Acknowledged => unreachable!("what is unsent has its data"),
        }
    }

    pub fn sent(&mut self, offset: u64, lane: LaneId) {
        self.unsent.remove(&offset);
        let Some(chunk) = self.chunks.get_mut(&offset) else { return };
        if let Place::Unsent(data) = &chunk.place {
            chunk.place = Place::UnderWay(lane, Arc::clone(data));
        }
    }

    pub fn acknowledged(&mut self, offset: u64) {
        if let Some(chunk) = self.chunks.get_mut(&offset) {
            chunk.place = Place::Acknowledged;
        }
    }

    /// Where nothing will make it durable, an acknowledgement is all there is to wait for.
    pub fn forget(&mut self, offset: u64) {
        self.chunks.remove(&offset);
    }

    /// A sync was sent on `lane`: it covers what was acknowledged by anyone, and what went before it on the lane.
    pub fn sync_begins(&mut self, lane: LaneId, tag: Tag) {
        for chunk in self.chunks.values_mut().filter(|chunk| chunk.covered_by.is_none()) {
            let is_covered = match chunk.place {
                Place::Acknowledged => true,
                Place::UnderWay(of, _) => of == lane,
                Place::Unsent(_) => false,
            };
            if is_covered {
                chunk.covered_by = Some((lane, tag));
            }
        }
    }

    pub fn synced(&mut self, lane: LaneId, tag: Tag) {
        self.chunks.retain(|_, chunk| {
            let is_durable =
                chunk.covered_by == Some((lane, tag)) && matches!(chunk.place, Place::Acknowledged);
            !is_durable
        });
    }

    /// What was under way on `lane` is to be sent again; what its sync should have covered is not covered.
    pub fn lost(&mut self, lane: LaneId) {
        for (&offset, chunk) in &mut self.chunks {
            if let Place::UnderWay(of, data) = &chunk.place
                && *of == lane
            {
                chunk.place = Place::Unsent(Arc::clone(data));
                self.unsent.insert(offset);
            }
            if chunk.covered_by.is_some_and(|(of, _)| of == lane) {
                chunk.covered_by = None;
            }
        }
    }

    pub fn unproven(&self) -> Vec<Unproven> {
        let acknowledged = self.chunks.iter().filter(|(_, chunk)| matches!(chunk.place, Place::Acknowledged));
        acknowledged
            .map(|(&offset, chunk)| Unproven { offset, length: chunk.length, crc: chunk.crc })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(chunks: u64) -> Ledger {
        let mut ledger = Ledger::default();
        (0..chunks).for_each(|i| ledger.add(i * 10, vec![i as u8; 10]));
        ledger
    }

    fn send_all(ledger: &mut Ledger, lane: LaneId) {
        while let Some((offset, _)) = ledger.unsent() {
            ledger.sent(offset, lane);
        }
    }

    fn offsets(unproven: &[Unproven]) -> Vec<u64> {
        unproven.iter().map(|chunk| chunk.offset).collect()
    }

    #[test]
    fn what_was_under_way_on_a_lost_lane_is_sent_again_in_order_with_its_bytes() {
        let mut ledger = ledger(4);
        ledger.sent(0, 1);
        ledger.sent(10, 2);
        ledger.sent(20, 1);
        ledger.acknowledged(0);
        ledger.lost(1);
        assert_eq!(ledger.unsent(), Some((20, Arc::new(vec![2; 10]))));
        send_all(&mut ledger, 2);
        assert_eq!(offsets(&ledger.unproven()), [0]);
    }

    #[test]
    fn what_is_to_be_sent_can_be_cut_smaller() {
        let mut ledger = Ledger::default();
        let bytes: Vec<u8> = (0..100).collect();
        ledger.add(1000, bytes[..10].to_owned());
        ledger.sent(1000, 1);
        ledger.add(1010, bytes[10..75].to_owned());
        ledger.split(30);
        let mut found = Vec::new();
        while let Some((offset, data)) = ledger.unsent() {
            assert_eq!(offset, 1010 + found.len() as u64);
            assert!(data.len() <= 30);
            found.extend_from_slice(&data);
            ledger.sent(offset, 1);
        }
        assert_eq!(found, bytes[10..75]);
        ledger.lost(1);
        assert_eq!(ledger.unsent().unwrap().0, 1000);
    }

    #[test]
    fn a_sync_covers_what_was_acknowledged_and_what_went_before_it_on_its_lane() {
        let mut ledger = ledger(4);
        for (offset, lane) in [(0, 1), (10, 1), (20, 2), (30, 2)] {
            ledger.sent(offset, lane);
        }
        ledger.acknowledged(20);
        ledger.sync_begins(1, 7);
        ledger.acknowledged(0);
        ledger.acknowledged(10);
        ledger.acknowledged(30);
        ledger.synced(1, 7);
        assert_eq!(
            offsets(&ledger.unproven()),
            [30],
            "it was under way on the other lane when the sync was sent"
        );
        ledger.sync_begins(2, 8);
        ledger.synced(2, 8);
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_sync_that_was_lost_covers_nothing() {
        let mut ledger = ledger(1);
        send_all(&mut ledger, 1);
        ledger.acknowledged(0);
        ledger.sync_begins(1, 7);
        ledger.lost(1);
        ledger.synced(1, 7);
        let expected = Unproven { offset: 0, length: 10, crc: crc32c::crc32c(&[0; 10]) };
        assert_eq!(ledger.unproven(), [expected]);
    }

    #[test]
    fn what_will_never_be_durable_is_forgotten_when_acknowledged() {
        let mut ledger = ledger(2);
        send_all(&mut ledger, 1);
        ledger.forget(0);
        ledger.forget(10);
        assert!(ledger.is_empty() && !ledger.has_unsent());
    }
}
