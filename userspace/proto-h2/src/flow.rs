//! Windows of both directions (RFC 9113 section 5.2), of a stream or of the connection.

/// More came than there was room for, or a window was opened further than it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

/// No window is larger.
pub const WINDOW_MOST: i64 = 0x7fff_ffff;

/// What the peer may send.
#[derive(Debug)]
pub struct Incoming {
    /// Bytes it may still send.
    window: u32,
    /// Bytes that came and were not taken.
    unread: u32,
    /// Bytes that both may be together.
    target: u32,
}

impl Incoming {
    /// The peer knows of a window of `known` bytes.
    pub fn new(known: u32, target: u32) -> Incoming {
        Incoming { window: known, unread: 0, target }
    }

    pub fn unread(&self) -> u32 {
        self.unread
    }

    pub fn set_target(&mut self, target: u32) {
        self.target = target;
    }

    /// So many bytes begin to come.
    pub fn came(&mut self, bytes: u32) -> Result<(), Overflow> {
        self.window = self.window.checked_sub(bytes).ok_or(Overflow)?;
        self.unread += bytes;
        Ok(())
    }

    /// So many of what came were taken, or thrown away.
    pub fn took(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.unread, "{bytes} of {} bytes were taken", self.unread);
        self.unread = self.unread.saturating_sub(bytes);
    }

    /// Bytes to open the window by, once that is worth a frame: when what is open is no more than what is shut.
    pub fn take_update(&mut self) -> Option<u32> {
        let due = self.target.saturating_sub(self.unread).saturating_sub(self.window);
        if due == 0 || due < self.window {
            return None;
        }
        self.window += due;
        Some(due)
    }
}

/// What we may send. It may be less than nothing, after the peer has changed its mind (section 6.9.2).
#[derive(Debug, Clone, Copy)]
pub struct Outgoing(i64);

impl Outgoing {
    pub fn new(window: u32) -> Outgoing {
        Outgoing(window.into())
    }

    /// Bytes that may be sent now.
    #[inline]
    pub fn room(&self) -> usize {
        self.0.max(0) as usize
    }

    pub fn sent(&mut self, bytes: usize) {
        self.0 -= bytes as i64;
    }

    pub fn add(&mut self, bytes: i64) -> Result<(), Overflow> {
        let window = self.0 + bytes;
        if window > WINDOW_MOST {
            return Err(Overflow);
        }
        self.0 = window;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_opened_when_half_of_them_is_shut() {
        let mut window = Incoming::new(100, 100);
        window.came(40).unwrap();
        window.took(40);
        assert_eq!(window.take_update(), None);
        window.came(10).unwrap();
        assert_eq!(window.take_update(), None, "ten bytes are unread");
        window.took(10);
        assert_eq!(window.take_update(), Some(50));
        assert_eq!(window.came(101), Err(Overflow));
        window.came(100).unwrap();
        window.took(1);
        assert_eq!(window.take_update(), Some(1), "there is no other room");
    }

    #[test]
    fn targets_move() {
        let mut window = Incoming::new(65_535, 256 * 1024);
        assert_eq!(window.take_update(), Some(256 * 1024 - 65_535));
        window.set_target(100);
        window.came(256 * 1024 - 50).unwrap();
        window.took(256 * 1024 - 50);
        assert_eq!(window.take_update(), Some(50), "what was given is not taken back");
    }

    #[test]
    fn what_may_be_sent_may_be_less_than_nothing() {
        let mut window = Outgoing::new(10);
        window.sent(10);
        window.add(-5).unwrap();
        assert_eq!(window.room(), 0);
        window.add(WINDOW_MOST + 5).unwrap();
        assert_eq!(window.add(1), Err(Overflow));
        assert_eq!(window.room(), WINDOW_MOST as usize);
    }
}
