//! Numbers as people read them: sizes, rates, spans of time. Decimal units, three significant digits.

use std::time::Duration;

/// `999 B`, `1.23 kB`, `12.3 GB`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    let mut unit = units.next().expect("the list is not empty");
    // From here on, rounding to three digits would show 1000.
    while value >= 999.5 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1000.0, next);
    }
    let decimals = match value {
        _ if unit == "B" => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// `198 MB/s`; nothing can be said about no time at all.
pub fn rate(bytes: u64, elapsed: Duration) -> Option<String> {
    let seconds = elapsed.as_secs_f64();
    (seconds > 0.0).then(|| format!("{}/s", size((bytes as f64 / seconds) as u64)))
}

/// `0.4 s`, `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs_f64().round() as u64;
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match seconds {
        _ if span.as_secs_f64() < 9.95 => format!("{:.1} s", span.as_secs_f64()),
        0..60 => format!("{seconds} s"),
        60..3_600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// The age of something, in its largest unit, rounded down: `40s`, `5m`, `3h`, `12d`. Never wider than a column of
/// five for what is younger than 27 years.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How many, and of what: `1 segment`, `66 segments`.
pub fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (12_345_678_901, "12.3 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, shown) in [
            (0.0, "0.0 s"),
            (0.44, "0.4 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (59.6, "1 min"),
            (185.0, "3 min 5 s"),
            (7_800.0, "2 h 10 min"),
            (86_400.0, "1 d"),
            (273_600.0, "3 d 4 h"),
        ] {
            assert_eq!(span(Duration::from_secs_f64(seconds)), shown);
        }
    }

    #[test]
    fn ages_are_short() {
        let shown: Vec<_> = [59, 60, 3_599, 3_600, 172_799, 172_800, 86_400 * 9_999].map(age).into();
        assert_eq!(shown, ["59s", "1m", "59m", "1h", "47h", "2d", "9999d"]);
    }

    #[test]
    fn no_time_has_no_rate() {
        assert_eq!(rate(1, Duration::ZERO), None);
        assert_eq!(rate(400_000_000, Duration::from_secs(2)).as_deref(), Some("200 MB/s"));
    }
}
