//! What members of an earlier build wrote, as it was recorded, and what became of it then: a cluster whose members are upgraded one after
//! the other has both at the same time, and no two of them may come to different states.
//!
//! A file has a line for each command of a log: the command as it stands in the log, the version it led to or the kind of its refusal, the
//! marks of the state after it, and the delta that readers were told; and a last line with the whole state. Files of earlier builds are not
//! changed. With `WEIR_RECORD=1` the test writes that of this build's level anew, which is for a new level alone.

use std::path::PathBuf;

use control_api::Delta;
use control_state::{Command, LEVEL, State};
use serde_json::{Value, json};

/// The first feature level that a log was recorded of. Every later one has a log: whoever raises the level records it.
const FIRST_RECORDED: u32 = 10;

#[test]
fn what_an_earlier_build_wrote_leads_where_it_led() {
    for level in FIRST_RECORDED..=LEVEL {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recorded/level-{level}.jsonl"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| {
            panic!(
                "{}: {e}: a level needs a log of commands that use what is new in it; write their lines, each {{\"command\": …}}, and run \
                 this with WEIR_RECORD=1 on the build of that level",
                path.display()
            )
        });
        let again = replay(level, &text);
        if level == LEVEL && std::env::var_os("WEIR_RECORD").is_some() {
            std::fs::write(&path, again).unwrap();
        }
    }
}

/// Carries a recorded log out, compares, and gives what would be recorded now.
fn replay(level: u32, text: &str) -> String {
    let compares = std::env::var_os("WEIR_RECORD").is_none();
    let (mut state, mut follower, mut again) = (State::default(), State::default(), String::new());
    let mut newest = 0;
    let mut act = |n: usize, row: &Value| {
        let place = format!("level {level}, line {}: {}", n + 1, row["command"]["action"]);
        let command: Command =
            serde_json::from_value(row["command"].clone()).unwrap_or_else(|e| panic!("{place}: {e}"));
        assert!(command.action.level() <= level, "{place}");
        newest = newest.max(command.action.level());
        // Members of that build read what this one writes.
        let written = serde_json::to_value(&command).unwrap();
        let applied = state.apply(command);
        let came = match &applied.answer {
            Ok(done) => json!({"version": done.version}),
            Err(refusal) => json!({"refused": refusal.kind}),
        };
        let mark = serde_json::to_value(state.mark(n as u64)).unwrap();
        let delta = applied.delta.as_ref().map(|delta| serde_json::to_value(delta.as_ref()).unwrap());
        if compares {
            assert_eq!(written, row["command"], "{place}");
            assert_eq!((&came, &mark), (&row["came"], &row["mark"]), "{place}");
            // What a member of that build told its readers leads one of this build there too.
            if !row["delta"].is_null() {
                let told: Delta =
                    serde_json::from_value(row["delta"].clone()).unwrap_or_else(|e| panic!("{place}: {e}"));
                follower = follower.advanced(&told).unwrap_or_else(|gap| panic!("{place}: {gap}"));
                assert_eq!(follower.mark(0).view, state.mark(0).view, "{place}");
            }
            let text = serde_json::to_vec(&state).unwrap();
            assert_eq!(State::read(&text, level).as_ref(), Ok(&state), "{place}: what is kept is read by that build");
        }
        json!({"command": written, "came": came, "mark": mark, "delta": delta})
    };
    for (n, line) in text.lines().enumerate() {
        let row: Value = serde_json::from_str(line).unwrap();
        if !row["command"].is_null() {
            again.push_str(&format!("{}\n", act(n, &row)));
        }
    }
    assert_eq!(newest, level, "a log of a level says what is new in it");
    let whole = serde_json::to_value(&state).unwrap();
    if compares {
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let kept = State::read(last["state"].to_string().as_bytes(), control_state::LEVEL).unwrap();
        assert_eq!(kept.mark(0), state.mark(0), "what that build kept on its disks is read");
        assert_eq!(whole, last["state"], "and written as it was");
    }
    again.push_str(&format!("{}\n", json!({"state": whole})));
    again
}
