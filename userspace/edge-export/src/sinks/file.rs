//! A file on this machine.

use super::{Sent, Sink};
use crate::frame::Line;
use base_model::FileSinkSpec;
use base_telemetry::log_file::{LogBounds, LogFile};
use std::time::Instant;

pub struct FileSink {
    spec: FileSinkSpec,
    file: Option<LogFile>,
}

impl FileSink {
    pub fn new(spec: &FileSinkSpec) -> FileSink {
        FileSink { spec: spec.clone(), file: None }
    }

    fn write(&mut self, lines: &[Line]) -> std::io::Result<()> {
        let path = &self.spec.path;
        let file = match &mut self.file {
            // Whoever moved it away gets no more.
            Some(file) if !file.is_moved() => file,
            _ => {
                let bounds = LogBounds { bytes: self.spec.max_bytes, files: self.spec.max_files };
                self.file.insert(LogFile::open(path.into(), bounds)?)
            }
        };
        let mut text = Vec::with_capacity(lines.iter().map(|line| line.text.len() + 1).sum());
        for line in lines {
            // A batch may be larger than the file: it is moved aside between lines.
            if self.spec.max_bytes > 0
                && (text.len() + line.text.len()) as u64 >= self.spec.max_bytes
                && !text.is_empty()
            {
                file.write(&text)?;
                text.clear();
            }
            text.extend_from_slice(&line.text);
            text.push(b'\n');
        }
        file.write(&text)
    }
}

impl Sink for FileSink {
    fn send(&mut self, lines: &[Line], _: &dyn Fn() -> Option<Instant>) -> Sent {
        match self.write(lines) {
            Ok(()) => Sent::Taken,
            Err(error) => {
                // Where the directory is back, the file is another.
                self.file = None;
                Sent::Later(None, error.to_string())
            }
        }
    }

    fn shown(&self) -> &str {
        &self.spec.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;
    use std::fs;

    fn line(text: &str) -> [Line; 1] {
        [Line { kind: Kind::Access, at: 0, text: text.as_bytes().into() }]
    }

    /// As logrotate does, with `create` and without.
    #[test]
    fn whoever_moved_the_file_away_gets_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let spec = FileSinkSpec { path: path.display().to_string(), ..FileSinkSpec::default() };
        let mut sink = FileSink::new(&spec);
        let mut send = |text: &str| assert!(matches!(sink.send(&line(text), &|| None), Sent::Taken));
        send("one");
        fs::rename(&path, directory.path().join("first")).unwrap();
        send("two");
        fs::rename(&path, directory.path().join("second")).unwrap();
        fs::write(&path, "").unwrap();
        send("three");
        let text = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(["first", "second", "log"].map(text), ["one\n", "two\n", "three\n"]);
    }
}
