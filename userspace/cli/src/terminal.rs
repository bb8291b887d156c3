//! A terminal that is drawn anew again and again, with keys as they are pressed. It is as before when this is dropped.

use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// See the module doc.
pub struct Terminal {
    before: Termios,
    keys: mpsc::Receiver<u8>,
}

impl Terminal {
    pub fn open() -> Result<Terminal, String> {
        let advice = "--once prints it once, -o json as JSON";
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Err(format!("top draws on a terminal, and this is none; {advice}"));
        }
        let before = tcgetattr(stdin()).map_err(|error| format!("the terminal cannot be read: {error}; {advice}"))?;
        let mut raw = before.clone();
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(stdin(), OptionalActions::Now, &raw)
            .map_err(|error| format!("the terminal cannot be set: {error}"))?;
        let (sender, keys) = mpsc::channel(16);
        // It ends with the process: nobody can take a read of the terminal back.
        std::thread::spawn(move || {
            for byte in stdin().lock().bytes() {
                let Ok(byte) = byte else { return };
                if sender.blocking_send(byte).is_err() {
                    return;
                }
            }
        });
        let terminal = Terminal { before, keys };
        terminal.write(ENTER);
        Ok(terminal)
    }

    /// Columns and lines.
    pub fn size(&self) -> (usize, usize) {
        let size = tcgetwinsize(stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()))
    }

    /// Draws text over what was there, line by line so that nothing flickers.
    pub fn show(&mut self, text: &str) {
        let lines: Vec<String> = text.lines().map(|line| format!("{line}\x1b[K")).collect();
        self.write(&format!("\x1b[H{}\x1b[J", lines.join("\r\n")));
    }

    /// The next key, within this time. Keys that have no letter, such as arrows, are [`NO_LETTER`].
    pub async fn key(&mut self, within: Duration) -> Option<u8> {
        let key = self.byte(within).await?;
        // What follows an escape at once is one key with it.
        if key != ESCAPE || !matches!(self.byte(AT_ONCE).await, Some(b'[' | b'O')) {
            return Some(key);
        }
        while self.byte(AT_ONCE).await.is_some_and(|byte| !(b'@'..=b'~').contains(&byte)) {}
        Some(NO_LETTER)
    }

    async fn byte(&mut self, within: Duration) -> Option<u8> {
        match tokio::time::timeout(within, self.keys.recv()).await {
            // The terminal is gone.
            Ok(None) => Some(4),
            Ok(key) => key,
            Err(_) => None,
        }
    }

    fn write(&self, text: &str) {
        let mut out = stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.write(LEAVE);
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

const ESCAPE: u8 = 27;
pub const NO_LETTER: u8 = 0;

/// Bytes of one key are no further apart, also where a network is between.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Another screen without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
