//! The standard error: what is said while a command runs, a line at a time.
//!
//! Everything goes through one [`Log`]: errors and their hints, `tracing`'s events from all layers, progress. So
//! lines never mix, and none is written through a progress bar.
//!
//! As text, a line is `pgbak: warning: …`, with the time in front unless a person is watching a terminal: in a
//! mail from cron the time is what one looks for. The error that ends a command, and its hint, are without time,
//! as scripts know them: `pgbak: error: …`, `hint: …`. As JSON, a line is an object with at least `at`, `level`
//! and `message`.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use indicatif::ProgressBar;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, span};

use super::output::printable;
use super::time::Zone;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines to read
    Text,
    /// An object per line
    Json,
}

/// Who reads the standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Terminal,
    /// A file, a pipe, a journal.
    Collector,
}

pub struct Log {
    format: LogFormat,
    level: LevelFilter,
    reader: Reader,
    clock: fn() -> DateTime<Utc>,
    sink: Mutex<Sink>,
}

struct Sink {
    stderr: Box<dyn Write + Send>,
    /// The progress bar that is being drawn on the same terminal.
    bar: Option<ProgressBar>,
}

/// More words about a line, in the order in which they are shown.
pub type Word = (&'static str, Value);

impl Log {
    pub fn new(
        format: LogFormat,
        level: LevelFilter,
        reader: Reader,
        clock: fn() -> DateTime<Utc>,
        stderr: Box<dyn Write + Send>,
    ) -> Self {
        Self { format, level, reader, clock, sink: Mutex::new(Sink { stderr, bar: None }) }
    }

    /// Makes `tracing`'s macros write here.
    pub fn listen(self: &Arc<Self>) {
        // A second call, as a test may make, leaves the first one in place.
        let _ = tracing::subscriber::set_global_default(Listener(Arc::clone(self)));
    }

    /// Whether a bar can be drawn instead of lines being written.
    pub fn draws_bars(&self) -> bool {
        self.reader == Reader::Terminal && self.format == LogFormat::Text
    }

    /// What ends a command: one line, and one for the hint (more, where a hint shows a file's content).
    pub fn error(&self, message: &str, hint: Option<&str>) {
        match self.format {
            LogFormat::Text => {
                let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
                self.write(&format!("pgbak: error: {message}{hint}"));
            }
            LogFormat::Json => {
                let fields = hint.map(|hint| ("hint", hint.into()));
                self.write(&self.json(Level::ERROR, message, &Vec::from_iter(fields)));
            }
        }
    }

    /// What the user wants to know without being asked, but not with `-q`.
    pub fn notice(&self, message: &str, fields: &[Word]) {
        if self.level >= LevelFilter::WARN {
            self.line(Level::INFO, message, fields);
        }
    }

    /// While `bar` is being drawn, lines are written above it. `None` ends this.
    pub fn draw_around(&self, bar: Option<ProgressBar>) {
        self.sink().bar = bar;
    }

    fn line(&self, level: Level, message: &str, fields: &[Word]) {
        match self.format {
            LogFormat::Text => {
                let time = match self.reader {
                    Reader::Terminal => String::new(),
                    Reader::Collector => format!("{} ", chrono::Local.show_seconds((self.clock)())),
                };
                self.write(&format!("{time}pgbak: {}{}", prefix(level), message.replace('\n', " ")));
            }
            LogFormat::Json => self.write(&self.json(level, message, fields)),
        }
    }

    fn json(&self, level: Level, message: &str, fields: &[Word]) -> String {
        let mut object = Map::new();
        object.insert("at".to_owned(), (self.clock)().to_rfc3339().into());
        object.insert("level".to_owned(), name(level).into());
        object.insert("message".to_owned(), message.into());
        object.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        Value::Object(object).to_string()
    }

    /// Writes a line in one piece. Where the standard error cannot be written to, there is nobody to tell.
    fn write(&self, line: &str) {
        let mut sink = self.sink();
        // A thread that panics cannot clear the bar (indicatif does not draw then), but leave its line.
        let start = if sink.bar.is_some() && std::thread::panicking() { "\n" } else { "" };
        let bytes = format!("{start}{}\n", printable(line));
        match sink.bar.clone() {
            Some(bar) => {
                let _ = bar.suspend(|| sink.stderr.write_all(bytes.as_bytes()));
            }
            None => {
                let _ = sink.stderr.write_all(bytes.as_bytes());
            }
        }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        // A panic while a line was written has not broken the stream.
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Information needs no label.
fn prefix(level: Level) -> String {
    match level {
        Level::INFO => String::new(),
        _ => format!("{}: ", name(level)),
    }
}

/// Hands `tracing`'s events to the log. pgbak uses no spans.
struct Listener(Arc<Log>);

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.0.level && metadata.is_event()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        let message = match self.0.format {
            LogFormat::Text => words.message.clone() + &words.in_brackets(),
            LogFormat::Json => words.message.clone(),
        };
        self.0.line(*event.metadata().level(), &message, &words.fields);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// What an event says.
#[derive(Default)]
struct Words {
    message: String,
    fields: Vec<Word>,
}

impl Words {
    /// ` (segment=000000010000000000000003, attempt=2)`
    fn in_brackets(&self) -> String {
        if self.fields.is_empty() {
            return String::new();
        }
        let show = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let fields: Vec<_> =
            self.fields.iter().map(|(name, value)| format!("{name}={}", show(value))).collect();
        format!(" ({})", fields.join(", "))
    }

    fn add(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name(), value));
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            _ => self.add(field, text.into()),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            _ => self.add(field, value.into()),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// What is written when `act` uses the log.
    fn written(format: LogFormat, level: LevelFilter, reader: Reader, act: impl FnOnce(&Log)) -> String {
        let written = Written::default();
        let log =
            Arc::new(Log::new(format, level, reader, || DateTime::UNIX_EPOCH, Box::new(written.clone())));
        tracing::subscriber::with_default(Listener(Arc::clone(&log)), || act(&log));
        written.text()
    }

    fn speak(log: &Log) {
        tracing::debug!("unheard");
        tracing::info!("copied");
        tracing::warn!(segment = "0003", attempt = 2, "the server is {}", "slow");
        log.notice("read as local time", &[]);
        log.error("the disk is full", Some("Free space."));
    }

    #[test]
    fn a_terminal_sees_lines_without_times() {
        assert_eq!(
            written(LogFormat::Text, LevelFilter::INFO, Reader::Terminal, speak),
            "pgbak: copied\n\
             pgbak: warning: the server is slow (segment=0003, attempt=2)\n\
             pgbak: read as local time\n\
             pgbak: error: the disk is full\n\
             hint: Free space.\n"
        );
    }

    #[test]
    fn quiet_leaves_errors_only() {
        assert_eq!(
            written(LogFormat::Text, LevelFilter::ERROR, Reader::Terminal, speak),
            "pgbak: error: the disk is full\nhint: Free space.\n"
        );
    }

    #[test]
    fn a_collector_gets_times_with_their_offset() {
        let text = written(LogFormat::Text, LevelFilter::WARN, Reader::Collector, speak);
        let expected = format!("{} pgbak: warning: the server", chrono::Local.show(DateTime::UNIX_EPOCH));
        assert!(text.starts_with(&expected), "{text}");
    }

    #[test]
    fn json_is_an_object_per_line() {
        let text = written(LogFormat::Json, LevelFilter::WARN, Reader::Collector, speak);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["message"], "the server is slow");
        assert_eq!((&lines[0]["level"], &lines[0]["attempt"]), (&"warning".into(), &2.into()));
        assert_eq!(lines[0]["at"], "1970-01-01T00:00:00+00:00");
        assert_eq!(
            (&lines[2]["message"], &lines[2]["hint"]),
            (&"the disk is full".into(), &"Free space.".into())
        );
    }
}
