//! Which instants cannot be restored because something is lost: what could be with it, without what can be without
//! it. Pure.

use chrono::{DateTime, Utc};

use super::report::LostInterval;
use crate::pg::Lsn;
use crate::plan::recoverable::RecoverableInterval;

/// What is in `before` and not in `after`, along each timeline.
pub fn lost(before: &[RecoverableInterval], after: &[RecoverableInterval]) -> Vec<LostInterval> {
    let mut lost = Vec::new();
    for whole in before {
        let is_same = |other: &&RecoverableInterval| {
            other.system_identifier == whole.system_identifier && other.timeline == whole.timeline
        };
        let mut left: Vec<&RecoverableInterval> = after.iter().filter(is_same).collect();
        left.sort_by_key(|interval| interval.from_lsn);
        subtract(whole, &left, &mut lost);
    }
    lost
}

/// A location, and when it was reached, as far as is known.
#[derive(Clone, Copy)]
struct Point {
    lsn: Lsn,
    at: Option<DateTime<Utc>>,
}

fn subtract(whole: &RecoverableInterval, left: &[&RecoverableInterval], lost: &mut Vec<LostInterval>) {
    let end = Point { lsn: whole.to_lsn, at: whole.to_at };
    let mut from = Point { lsn: whole.from_lsn, at: Some(whole.from_at) };
    if from.lsn == end.lsn {
        // A backup without WAL behind it: one instant.
        if !left.iter().any(|other| other.from_lsn <= from.lsn && from.lsn <= other.to_lsn) {
            lost.push(interval(whole, from, end));
        }
        return;
    }
    for other in left {
        if other.to_lsn < from.lsn || end.lsn < other.from_lsn {
            continue;
        }
        if from.lsn < other.from_lsn {
            lost.push(interval(whole, from, Point { lsn: other.from_lsn, at: Some(other.from_at) }));
        }
        if from.lsn < other.to_lsn {
            from = Point { lsn: other.to_lsn, at: other.to_at.or(Some(other.from_at)) };
        }
    }
    if from.lsn < end.lsn {
        lost.push(interval(whole, from, end));
    }
}

fn interval(whole: &RecoverableInterval, from: Point, to: Point) -> LostInterval {
    LostInterval {
        system_identifier: whole.system_identifier.to_string(),
        timeline: whole.timeline.get(),
        from_lsn: from.lsn.to_string(),
        to_lsn: to.lsn.to_string(),
        from_at: from.at.unwrap_or(whole.from_at),
        to_at: to.at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::BackupName;
    use crate::pg::{SystemIdentifier, Timeline};

    fn at(minute: u64) -> DateTime<Utc> {
        DateTime::from_timestamp(minute as i64 * 60, 0).unwrap()
    }

    /// From one LSN to another, each reached at the minute of its number.
    fn interval(from: u64, to: u64) -> RecoverableInterval {
        RecoverableInterval {
            system_identifier: SystemIdentifier(7),
            timeline: Timeline::FIRST,
            backup: BackupName::of(at(from)),
            from_lsn: Lsn(from),
            from_at: at(from),
            to_lsn: Lsn(to),
            to_at: (from < to).then(|| at(to)),
        }
    }

    fn lost_of(before: &[(u64, u64)], after: &[(u64, u64)]) -> Vec<(String, String)> {
        let all =
            |pairs: &[(u64, u64)]| pairs.iter().map(|&(from, to)| interval(from, to)).collect::<Vec<_>>();
        let lost = lost(&all(before), &all(after));
        for part in &lost {
            let minute = |text: &str| u64::from_str_radix(text.trim_start_matches("0/"), 16).unwrap();
            assert_eq!(part.from_at, at(minute(&part.from_lsn)));
            assert!(part.to_at.is_none_or(|to_at| to_at == at(minute(&part.to_lsn))));
        }
        lost.into_iter().map(|part| (part.from_lsn, part.to_lsn)).collect()
    }

    #[test]
    fn what_is_left_is_taken_from_what_there_was() {
        let pair = |from: u64, to: u64| (Lsn(from).to_string(), Lsn(to).to_string());
        assert_eq!(lost_of(&[(10, 20)], &[(10, 20)]), []);
        assert_eq!(lost_of(&[(10, 20)], &[]), [pair(10, 20)]);
        assert_eq!(lost_of(&[(10, 20)], &[(15, 20)]), [pair(10, 15)], "the first backup is gone");
        assert_eq!(
            lost_of(&[(10, 20)], &[(10, 14)]),
            [pair(14, 20)],
            "a segment is gone, and no later backup"
        );
        assert_eq!(
            lost_of(&[(10, 20)], &[(10, 12), (16, 20)]),
            [pair(12, 16)],
            "a later backup makes up for it"
        );
        assert_eq!(lost_of(&[(10, 12), (16, 20)], &[(10, 12)]), [pair(16, 20)]);
        assert_eq!(lost_of(&[(10, 10)], &[]), [pair(10, 10)], "a backup alone is an instant");
        assert_eq!(lost_of(&[(10, 10)], &[(8, 12)]), []);
    }

    #[test]
    fn timelines_do_not_make_up_for_each_other() {
        let other = RecoverableInterval { timeline: Timeline::new(2).unwrap(), ..interval(10, 20) };
        let lost = lost(&[interval(10, 20)], &[other]);
        assert_eq!(lost.len(), 1);
        assert_eq!(lost[0].timeline, 1);
    }
}
