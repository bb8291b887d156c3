//! What a person sees while things are built and run: steps with the time each took, notes, and the closing line.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

/// Prints what is being done now; [`Step::done`] adds how long it took. A step that is dropped without it says nothing
/// more: the error that follows does.
pub fn step(text: impl AsRef<str>) -> Step {
    println!("{} {}", paint(Colour::Blue, "▸"), text.as_ref());
    let _ = stdout().flush();
    Step { started: Instant::now() }
}

pub struct Step {
    started: Instant,
}

impl Step {
    pub fn done(self, result: impl AsRef<str>) {
        let took = seconds(self.started.elapsed());
        println!("  {} {} {}", paint(Colour::Green, "✓"), result.as_ref(), paint(Colour::Grey, &format!("({took})")));
    }
}

/// A line that belongs to the step before it.
pub fn note(text: impl AsRef<str>) {
    for line in text.as_ref().lines() {
        println!("  {line}");
    }
}

/// Something that was left out or is not as it should be, without being a failure.
pub fn warn(text: impl AsRef<str>) {
    println!("  {} {}", paint(Colour::Yellow, "!"), text.as_ref());
}

pub fn title(text: &str) {
    println!("\n{}", paint(Colour::Bold, text));
}

pub fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 1.0 => format!("{:.0} ms", short * 1e3),
        some if some < 120.0 => format!("{some:.1} s"),
        long => format!("{:.0} min {:02.0} s", (long / 60.0).floor(), long % 60.0),
    }
}

#[derive(Clone, Copy)]
pub enum Colour {
    Blue,
    Bold,
    Green,
    Grey,
    Red,
    Yellow,
}

/// Colours for a terminal, plain text for a pipe, a file or `NO_COLOR`.
pub fn paint(colour: Colour, text: &str) -> String {
    if !stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some() {
        return text.to_string();
    }
    let code = match colour {
        Colour::Blue => "34",
        Colour::Bold => "1",
        Colour::Green => "32",
        Colour::Grey => "90",
        Colour::Red => "31",
        Colour::Yellow => "33",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Rows under a head, in columns as wide as their widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    println!("  {}", paint(Colour::Grey, &line(&mut head.iter().copied())));
    for row in rows {
        println!("  {}", line(&mut row.iter().map(String::as_str)));
    }
}
