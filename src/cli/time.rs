//! Instants in the words of the person at the terminal: read in the local time zone, shown with their offset.
//!
//! What is read, following what PostgreSQL itself prints and RFC 3339:
//!
//! ```text
//! time   = date ("T" | "t" | " ") clock [" "] [offset]
//! date   = YYYY-MM-DD
//! clock  = HH:MM[:SS[.F]]        F: 1 to 9 digits, of which those after the sixth are cut off
//! offset = "Z" | "UTC" | ("+" | "-") HH [[":"] MM]        in either case
//! ```
//!
//! Zone abbreviations other than UTC are refused: CST alone is three of them.

use chrono::{
    DateTime, FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Offset, SubsecRound,
    TimeDelta, TimeZone, Utc,
};

/// A time zone, both ways. Every [`TimeZone`] of chrono is one; `chrono::Local` is the one that `TZ` names.
pub trait Zone {
    /// `2026-11-22 02:00:00+01:00`, with microseconds where there are any.
    fn show(&self, instant: DateTime<Utc>) -> String;

    /// Without microseconds, for the eye.
    fn show_seconds(&self, instant: DateTime<Utc>) -> String {
        self.show(instant.trunc_subsecs(0))
    }

    fn offset_at(&self, instant: DateTime<Utc>) -> FixedOffset;

    /// The offsets that a clock on the wall may have had when it showed `local`.
    fn offsets_of(&self, local: &NaiveDateTime) -> MappedLocalTime<FixedOffset>;
}

impl<T: TimeZone> Zone for T {
    fn show(&self, instant: DateTime<Utc>) -> String {
        show(instant.with_timezone(&self.offset_at(instant)))
    }

    fn offset_at(&self, instant: DateTime<Utc>) -> FixedOffset {
        self.offset_from_utc_datetime(&instant.naive_utc()).fix()
    }

    fn offsets_of(&self, local: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
        self.offset_from_local_datetime(local).map(|offset| offset.fix())
    }
}

fn show(instant: DateTime<FixedOffset>) -> String {
    let format = match instant.timestamp_subsec_micros() {
        0 => "%Y-%m-%d %H:%M:%S%:z",
        _ => "%Y-%m-%d %H:%M:%S%.6f%:z",
    };
    instant.format(format).to_string()
}

/// A time as it was given, and the instant that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenTime {
    pub instant: DateTime<Utc>,
    pub read_as: ReadAs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAs {
    /// With the offset that was written.
    Written,
    /// In the local time zone.
    Local,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotATime {
    #[error("\"{0}\" is not a time")]
    Unreadable(String),
    #[error("\"{text}\" was twice on the clock here, as it was set back: at {earlier} and at {later}")]
    Repeated { text: String, earlier: String, later: String },
    #[error("\"{0}\" was never on the clock here, as it was set forward")]
    Skipped(String),
}

impl NotATime {
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable(_) => "Write it as \"2026-11-22 02:00:00\" in local time, or with its offset: \
                 \"2026-11-22 02:00:00+01:00\" or \"2026-11-22T01:00:00Z\"."
                .to_owned(),
            Self::Repeated { earlier, later, .. } => {
                format!("Give the offset: \"{earlier}\" or \"{later}\".")
            }
            Self::Skipped(_) => {
                "Give a time that was, or one with its offset, such as \"2026-11-22 02:00:00+01:00\"."
                    .to_owned()
            }
        }
    }
}

/// Reads a time, in `zone` where it has no offset.
pub fn parse(text: &str, zone: &dyn Zone) -> Result<GivenTime, NotATime> {
    let unreadable = || NotATime::Unreadable(text.to_owned());
    let (local, rest) = clock_time(text.trim()).ok_or_else(unreadable)?;
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    if !rest.is_empty() {
        let offset = offset(rest).ok_or_else(unreadable)?;
        return Ok(GivenTime { instant: at(local, offset), read_as: ReadAs::Written });
    }
    let (one, other) = match zone.offsets_of(&local) {
        MappedLocalTime::Single(offset) => (Some(offset), None),
        MappedLocalTime::Ambiguous(one, other) => (Some(one), Some(other)),
        MappedLocalTime::None => (None, None),
    };
    // At the very instant of a change chrono also gives an offset that was not in force then.
    let was_in_force = |offset: &FixedOffset| zone.offset_at(at(local, *offset)) == *offset;
    let mut offsets: Vec<_> = [one, other].into_iter().flatten().filter(was_in_force).collect();
    offsets.sort_by_key(|offset| at(local, *offset));
    let instant = match offsets[..] {
        [] => return Err(NotATime::Skipped(text.to_owned())),
        [offset] => at(local, offset),
        [earlier, later, ..] => {
            let [earlier, later] =
                [earlier, later].map(|offset| show(at(local, offset).with_timezone(&offset)));
            return Err(NotATime::Repeated { text: text.to_owned(), earlier, later });
        }
    };
    Ok(GivenTime { instant, read_as: ReadAs::Local })
}

/// Years have four digits, so subtracting an offset of hours cannot leave chrono's range.
fn at(local: NaiveDateTime, offset: FixedOffset) -> DateTime<Utc> {
    (local - TimeDelta::seconds(offset.local_minus_utc().into())).and_utc()
}

/// What a clock shows, and what is written behind it.
fn clock_time(text: &str) -> Option<(NaiveDateTime, &str)> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (hour, rest) = digits(rest.strip_prefix(['T', 't', ' '])?, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = match rest.strip_prefix(':') {
        Some(rest) => digits(rest, 2)?,
        None => (0, rest),
    };
    let (microsecond, rest) = match rest.strip_prefix('.') {
        Some(rest) => microseconds(rest)?,
        None => (0, rest),
    };
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
    Some((date.and_time(NaiveTime::from_hms_micro_opt(hour, minute, second, microsecond)?), rest))
}

/// Exactly `count` digits, and the rest.
fn digits(text: &str, count: usize) -> Option<(u32, &str)> {
    let (number, rest) = text.split_at_checked(count)?;
    let plain = number.bytes().all(|byte| byte.is_ascii_digit());
    Some((plain.then(|| number.parse().ok()).flatten()?, rest))
}

fn microseconds(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (fraction, rest) = text.split_at(end);
    let valid = (1..=9).contains(&fraction.len());
    let six = valid.then(|| format!("{fraction:0<6}")[..6].to_owned())?;
    Some((six.parse().ok()?, rest))
}

fn offset(text: &str) -> Option<FixedOffset> {
    if text.eq_ignore_ascii_case("z") || text.eq_ignore_ascii_case("utc") {
        return Some(Utc.fix());
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, rest) = digits(&text[1..], 2)?;
    let (minutes, rest) = match rest.strip_prefix(':').unwrap_or(rest) {
        "" if !rest.is_empty() => return None,
        "" => (0, ""),
        minutes => digits(minutes, 2)?,
    };
    // PostgreSQL's own limit (MAX_TZDISP_HOUR).
    let valid = rest.is_empty() && hours <= 15 && minutes < 60;
    valid.then(|| FixedOffset::east_opt(sign * (hours as i32 * 3600 + minutes as i32 * 60))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Central Europe in 2026: +01:00, from 29 March 01:00 UTC until 25 October 01:00 UTC +02:00.
    #[derive(Clone)]
    struct CentralEurope;

    impl CentralEurope {
        fn east(hours: i32) -> FixedOffset {
            FixedOffset::east_opt(hours * 3600).unwrap()
        }
    }

    impl TimeZone for CentralEurope {
        type Offset = FixedOffset;

        fn from_offset(_: &FixedOffset) -> Self {
            Self
        }

        fn offset_from_local_date(&self, _: &NaiveDate) -> MappedLocalTime<FixedOffset> {
            unreachable!("only instants are asked for")
        }

        fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
            let matches = |hours| {
                let offset = Self::east(hours);
                Some(offset).filter(|&offset| self.offset_from_utc_datetime(&(*local - offset)) == offset)
            };
            match (matches(2), matches(1)) {
                (Some(summer), Some(winter)) => MappedLocalTime::Ambiguous(summer, winter),
                (Some(offset), None) | (None, Some(offset)) => MappedLocalTime::Single(offset),
                (None, None) => MappedLocalTime::None,
            }
        }

        fn offset_from_utc_date(&self, _: &NaiveDate) -> FixedOffset {
            unreachable!("only instants are asked for")
        }

        fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
            let at_one =
                |month, day| NaiveDate::from_ymd_opt(2026, month, day).unwrap().and_hms_opt(1, 0, 0).unwrap();
            Self::east(if (at_one(3, 29)..at_one(10, 25)).contains(utc) { 2 } else { 1 })
        }
    }

    fn utc(text: &str) -> String {
        show(parse(text, &CentralEurope).unwrap_or_else(|error| panic!("{error}")).instant.fixed_offset())
    }

    #[test]
    fn an_offset_is_obeyed_in_every_spelling() {
        for text in [
            "2026-11-22 02:00:00+01:00",
            "2026-11-22 02:00:00+01",
            "2026-11-22 02:00:00 +0100",
            "2026-11-22T01:00:00Z",
            "2026-11-22t01:00:00z",
            "2026-11-22 01:00 UTC",
            "2026-11-22 01:00:00.000000 utc",
            "2026-11-21 20:30:00-04:30",
        ] {
            assert_eq!(utc(text), "2026-11-22 01:00:00+00:00", "{text}");
            assert_eq!(parse(text, &CentralEurope).unwrap().read_as, ReadAs::Written);
        }
    }

    #[test]
    fn without_an_offset_the_local_clock_is_meant() {
        assert_eq!(utc("2026-11-22 02:00"), "2026-11-22 01:00:00+00:00");
        assert_eq!(utc("2026-07-01 02:00:00"), "2026-07-01 00:00:00+00:00");
        assert_eq!(parse("2026-11-22 02:00", &CentralEurope).unwrap().read_as, ReadAs::Local);
    }

    #[test]
    fn microseconds_are_kept_and_no_more() {
        assert_eq!(utc("2026-11-22 02:00:00.123456"), "2026-11-22 01:00:00.123456+00:00");
        assert_eq!(utc("2026-11-22T01:00:00.123456789Z"), "2026-11-22 01:00:00.123456+00:00");
        assert_eq!(utc("2026-11-22 02:00:00.5"), "2026-11-22 01:00:00.500000+00:00");
    }

    #[test]
    fn the_hour_that_is_twice_needs_an_offset_and_the_hint_offers_both() {
        let error = parse("2026-10-25 02:30", &CentralEurope).unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"2026-10-25 02:30\" was twice on the clock here, as it was set back: \
             at 2026-10-25 02:30:00+02:00 and at 2026-10-25 02:30:00+01:00"
        );
        assert_eq!(
            error.hint(),
            "Give the offset: \"2026-10-25 02:30:00+02:00\" or \"2026-10-25 02:30:00+01:00\"."
        );
        assert_eq!(utc("2026-10-25 02:30:00+02:00"), "2026-10-25 00:30:00+00:00");
        assert_eq!(utc("2026-10-25 03:00"), "2026-10-25 02:00:00+00:00");
    }

    #[test]
    fn the_hour_that_never_was_is_refused() {
        let error = parse("2026-03-29 02:30", &CentralEurope).unwrap_err();
        assert_eq!(error, NotATime::Skipped("2026-03-29 02:30".into()));
    }

    /// As chrono reads the zone of the machine: in the first instant of the hour that is skipped the offset before it.
    struct Sloppy;

    impl Zone for Sloppy {
        fn show(&self, instant: DateTime<Utc>) -> String {
            CentralEurope.show(instant)
        }

        fn offset_at(&self, instant: DateTime<Utc>) -> FixedOffset {
            CentralEurope.offset_at(instant)
        }

        fn offsets_of(&self, _: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
            MappedLocalTime::Single(CentralEurope::east(1))
        }
    }

    #[test]
    fn an_offset_that_was_not_in_force_is_not_taken() {
        let error = parse("2026-03-29 02:00", &Sloppy).unwrap_err();
        assert_eq!(error, NotATime::Skipped("2026-03-29 02:00".into()));
        assert!(parse("2026-03-29 01:59:59.999999", &Sloppy).is_ok());
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-11-22",
            "2026-11-22 02",
            "2026-11-22 2:00",
            "26-11-22 02:00",
            "2026-13-01 02:00",
            "2026-02-29 02:00",
            "2026-11-22 24:00",
            "2026-11-22 02:00:60",
            "2026-11-22 02:00:00.",
            "2026-11-22 02:00:00.1234567890",
            "2026-11-22 02:00 CET",
            "2026-11-22 02:00 +1",
            "2026-11-22 02:00+01:",
            "2026-11-22 02:00+01:0",
            "2026-11-22 02:00+01:60",
            "2026-11-22 02:00+16",
            "2026-11-22 02:00+01:00:00",
            "2026-11-22 02:00  Z",
            "+2026-11-22 02:00",
            "2026-11-22 02:00é",
        ] {
            assert!(matches!(parse(text, &CentralEurope), Err(NotATime::Unreadable(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(microseconds in 0i64..4_102_444_800_000_000) {
            let instant = DateTime::from_timestamp_micros(microseconds).unwrap();
            let given = parse(&CentralEurope.show(instant), &Utc).unwrap();
            prop_assert_eq!(given, GivenTime { instant, read_as: ReadAs::Written });
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9:+TZ .é-]{0,40}") {
            let _ = parse(&text, &CentralEurope);
        }
    }
}
