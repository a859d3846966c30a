//! How far a long run has come: a bar on a terminal, elsewhere a line every 30 seconds.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::log::Log;
use super::units;
use crate::meter::Meter;

const BAR_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Shows what `meter` reads while `work` runs; `task` says what is being done.
pub fn shown<T>(
    task: &str,
    log: &Log,
    meter: &Meter,
    clock: fn() -> DateTime<Utc>,
    work: impl FnOnce() -> T,
) -> T {
    let (working, finished) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if log.draws_bars() {
                draw_bar(task, log, meter, &finished);
            } else {
                write_lines(task, log, meter, clock, &finished);
            }
        });
        // Hung up when `work` has returned, or has panicked.
        let _working = working;
        work()
    })
}

fn draw_bar(task: &str, log: &Log, meter: &Meter, finished: &mpsc::Receiver<()>) {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style("{msg} {spinner} {decimal_bytes}, {decimal_bytes_per_sec}"));
    bar.set_message(task.to_owned());
    log.draw_around(Some(bar.clone()));
    while finished.recv_timeout(BAR_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let done = meter.done_bytes();
        if let Some(total) = meter.total_bytes() {
            if bar.length().is_none() {
                bar.set_style(style(
                    "{msg} {wide_bar} {percent:>3} % of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
                ));
            }
            bar.set_length(total.max(done));
        }
        bar.set_position(done);
        bar.tick();
    }
    log.draw_around(None);
    bar.finish_and_clear();
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates here are well-formed")
}

fn write_lines(
    task: &str,
    log: &Log,
    meter: &Meter,
    clock: fn() -> DateTime<Utc>,
    finished: &mpsc::Receiver<()>,
) {
    let started_at = clock();
    while finished.recv_timeout(LINE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let elapsed = (clock() - started_at).to_std().unwrap_or_default();
        let reading = Reading { done_bytes: meter.done_bytes(), total_bytes: meter.total_bytes(), elapsed };
        let fields = [
            ("task", task.into()),
            ("done_bytes", reading.done_bytes.into()),
            ("total_bytes", reading.total_bytes.into()),
        ];
        log.notice(&format!("{task}: {reading}"), &fields);
    }
}

/// What a meter shows after a while.
struct Reading {
    done_bytes: u64,
    total_bytes: Option<u64>,
    elapsed: Duration,
}

impl std::fmt::Display for Reading {
    /// `12.3 GB of 45.0 GB (27 %), 205 MB/s, 2 min 40 s left`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&units::size(self.done_bytes))?;
        if let Some(total) = self.total_bytes {
            let percent = (self.done_bytes as f64 / total as f64 * 100.0).min(100.0) as u64;
            write!(f, " of {} ({percent} %)", units::size(total))?;
        }
        if let Some(rate) = units::rate(self.done_bytes, self.elapsed) {
            write!(f, ", {rate}")?;
        }
        match self.left() {
            Some(left) => write!(f, ", {} left", units::span(left)),
            None => Ok(()),
        }
    }
}

impl Reading {
    fn left(&self) -> Option<Duration> {
        let left_bytes = self.total_bytes?.checked_sub(self.done_bytes)?;
        let seconds = self.elapsed.as_secs_f64() * left_bytes as f64 / self.done_bytes as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;

    use super::*;
    use crate::cli::log::{LogFormat, Reader};

    fn shown_after(done_bytes: u64, total_bytes: Option<u64>, seconds: u64) -> String {
        Reading { done_bytes, total_bytes, elapsed: Duration::from_secs(seconds) }.to_string()
    }

    #[test]
    fn a_line_tells_share_rate_and_time_left() {
        assert_eq!(
            shown_after(6_000_000_000, Some(45_000_000_000), 30),
            "6.00 GB of 45.0 GB (13 %), 200 MB/s, 3 min 15 s left"
        );
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        assert_eq!(shown_after(6_000_000_000, None, 30), "6.00 GB, 200 MB/s");
        assert_eq!(shown_after(0, Some(1_000), 30), "0 B of 1.00 kB (0 %), 0 B/s");
        assert_eq!(shown_after(2_000, Some(1_000), 0), "2.00 kB of 1.00 kB (100 %)");
    }

    #[test]
    fn the_work_s_result_comes_back_at_once() {
        let log = Log::new(
            LogFormat::Text,
            LevelFilter::WARN,
            Reader::Collector,
            || DateTime::UNIX_EPOCH,
            Box::new(std::io::sink()),
        );
        assert_eq!(shown("test", &log, &Meter::default(), || DateTime::UNIX_EPOCH, || 42), 42);
    }

    #[test]
    fn a_panic_in_the_work_ends_the_display_too() {
        let log = Log::new(
            LogFormat::Text,
            LevelFilter::WARN,
            Reader::Collector,
            || DateTime::UNIX_EPOCH,
            Box::new(std::io::sink()),
        );
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            shown("test", &log, &Meter::default(), || DateTime::UNIX_EPOCH, || panic!("on purpose"))
        }));
        assert!(panicked.is_err());
    }
}
