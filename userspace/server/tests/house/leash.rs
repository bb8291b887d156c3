//! Programs that end with the test that started them, with all they have started themselves.
//!
//! Each is the first of a process group, which is killed as a whole when its handle is dropped: a test that fails drops it, too. One that
//! is killed drops nothing. A shell beside it, which is told of every group, sees the end of its pipe then and ends what is left.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::io::{self, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// See the module doc.
pub struct Leashed(Child);

impl Leashed {
    pub fn start(command: &mut Command) -> io::Result<Leashed> {
        let child = command.process_group(0).spawn()?;
        watch().tell('+', child.id());
        Ok(Leashed(child))
    }
}

impl Deref for Leashed {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Leashed {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.0);
        // Once it was waited for, its number may be somebody else's.
        let asked = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::Pid(group), asked).is_ok() {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.0.wait();
        }
        watch().tell('-', self.0.id());
    }
}

/// The shell that outlives the test for a moment.
struct Watch {
    says: ChildStdin,
}

const SCRIPT: &str = "groups=
while read -r sign group; do
  left=
  for known in $groups; do [ $known = $group ] || left=\"$left $known\"; done
  groups=$left
  [ $sign = - ] || groups=\"$groups $group\"
done
for group in $groups; do kill -9 -$group; done";

impl Watch {
    fn start() -> Watch {
        let mut shell = Command::new("sh");
        // In a group of its own: what interrupts the test leaves it to its work.
        shell.args(["-c", SCRIPT]).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Watch { says: shell.spawn().expect("there is a shell").stdin.take().expect("it is piped") }
    }

    fn tell(&mut self, sign: char, group: u32) {
        writeln!(self.says, "{sign} {group}").expect("the shell listens");
    }
}

/// The one of this process. It is never dropped; its pipe ends with the process.
fn watch() -> MutexGuard<'static, Watch> {
    static WATCH: OnceLock<Mutex<Watch>> = OnceLock::new();
    WATCH.get_or_init(|| Mutex::new(Watch::start())).lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program that has started two more, and what is left of them.
fn family() -> (Command, impl Fn(u32) -> usize) {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 300 & sleep 300 & wait"]);
    // Whoever reads what the test writes does not wait for them.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let left = |group: u32| {
        let listed = Command::new("ps").args(["-eo", "pgid=,stat="]).output().unwrap().stdout;
        let group = group.to_string();
        let alive = |line: &&str| line.split_whitespace().next() == Some(&group) && !line.contains('Z');
        String::from_utf8_lossy(&listed).lines().filter(alive).count()
    };
    (command, left)
}

#[test]
fn what_is_dropped_ends_with_all_it_has_started() {
    let (mut command, left) = family();
    let program = Leashed::start(&mut command).unwrap();
    let group = program.id();
    crate::world::eventually("it has started all", || (left(group) == 3).then_some(()));
    drop(program);
    crate::world::eventually("nothing is left", || (left(group) == 0).then_some(()));
}

#[test]
fn what_a_test_leaves_when_it_is_killed_ends_as_well() {
    let (mut command, left) = family();
    let [kept, ended] = [(); 2].map(|()| command.process_group(0).spawn().unwrap());
    for child in [&kept, &ended] {
        crate::world::eventually("it has started all", || (left(child.id()) == 3).then_some(()));
    }
    // As the kernel closes the pipe of a process that is no more.
    let mut watch = Watch::start();
    for (sign, child) in [('+', &ended), ('+', &kept), ('-', &kept)] {
        watch.tell(sign, child.id());
    }
    drop(watch);
    for (mut child, expected) in [(ended, 0), (kept, 3)] {
        if expected == 0 {
            child.wait().unwrap();
        }
        crate::world::eventually("only what was named is left", || (left(child.id()) == expected).then_some(()));
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
    }
}
