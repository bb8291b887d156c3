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
            Some(file) if std::path::Path::new(path).exists() => file,
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
