//! No panic goes from one who held a lock to all who want it: a lock is taken as whoever panicked left it
//! (`unwrap_or_else(PoisonError::into_inner)`). With `unwrap` the first panic would be followed by one in each thread that comes by,
//! and what is kept under the lock would be lost to the rest of the process.

use std::path::Path;

use super::short;
use super::source::{Source, sources};

/// Places where a lock that somebody has panicked under ends the next one as well.
pub fn problems(root: &Path) -> Vec<String> {
    let told = |source: &Source| {
        let path = short(root, &source.path);
        passed_on(source)
            .map(|line| {
                format!(
                    "{path}:{line}: a panic under this lock ends whoever takes it next; take it with \
                     `unwrap_or_else(PoisonError::into_inner)`"
                )
            })
            .collect::<Vec<_>>()
    };
    sources(root).iter().flat_map(told).collect()
}

fn passed_on(source: &Source) -> impl Iterator<Item = usize> + '_ {
    let taken = [".lock()", ".read()", ".write()"].into_iter().flat_map(|word| {
        source.code.match_indices(word).filter(|(at, _)| !source.in_text(*at)).map(move |(at, _)| at + word.len())
    });
    let mut lines: Vec<usize> = taken
        .filter(|at| {
            let rest = source.code[*at..].trim_start();
            rest.starts_with(".unwrap()") || rest.starts_with(".expect(")
        })
        .map(|at| source.code[..at].matches('\n').count() + 1)
        .collect();
    lines.sort_unstable();
    lines.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_passes_a_panic_on_is_told() {
        let code = "fn f() {\n a.lock().unwrap();\n b.read()\n  .expect(\"nobody panics\");\n c.lock().unwrap_or_else(into_inner);\n \
                    d.read(&mut e).unwrap();\n say(\".lock().unwrap()\");\n}\n#[cfg(test)]\nmod tests { fn g() { a.lock().unwrap(); } }\n";
        let source = Source::new("a.rs".into(), code);
        assert_eq!(passed_on(&source).collect::<Vec<_>>(), [2, 3]);
    }
}
