//! What scripts may not say, because the engine would not see what they hold grow.
//!
//! The engine looks at a value's size whenever a variable or a field of one is written, or a method changes it; it does not look at the
//! whole when a part deep inside is written (`a[i] = x`, `m.a.b = x`, `a[i].push(x)`). Such parts are read, and written by way of a
//! variable: with that, nothing a script holds is larger than the bounds of its variables together.

use rhai::{AST, ASTNode, Expr, Stmt};

/// Methods that change nothing, or make it smaller: they may be called on parts.
const READS: [&str; 34] = [
    "all",
    "chars",
    "contains",
    "ends_with",
    "filter",
    "find",
    "get",
    "index_of",
    "is_empty",
    "keys",
    "len",
    "map",
    "max",
    "min",
    "parse_float",
    "parse_int",
    "pop",
    "reduce",
    "remove",
    "reverse",
    "shift",
    "some",
    "sort",
    "split",
    "starts_with",
    "sub_string",
    "to_float",
    "to_int",
    "to_lower",
    "to_string",
    "to_upper",
    "trim",
    "type_of",
    "values",
];

/// Methods of requests and answers, which keep their own count.
const WORDS: [&str; 6] = ["Add", "Cookie", "Del", "Get", "Set", "Values"];

/// The only part of a part that is written: `req.URL.Path`.
const URL: &str = "URL";

/// The first thing in a script that would grow unseen.
pub fn check(ast: &AST) -> Result<(), String> {
    if let Some(own) = ast.iter_functions().find(|own| READS.contains(&own.name) || WORDS.contains(&own.name)) {
        return Err(format!("a function cannot be called {}: that is a word of the language", own.name));
    }
    let mut refused = None;
    ast.walk(&mut |path| {
        let found = match path.last() {
            Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                let place = &assignment.1.lhs;
                (!may_be_written(place)).then(|| (place.start_position(), "a part of a part is not written"))
            }
            Some(ASTNode::Expr(chain @ (Expr::Dot(..) | Expr::Index(..)))) => {
                (!may_be_called(chain)).then(|| (chain.start_position(), "a part is not changed by a method"))
            }
            _ => None,
        };
        refused = found;
        refused.is_none()
    });
    let Some((place, why)) = refused else { return Ok(()) };
    Err(format!("{why} ({place}): take it out into a variable, change that, and put it back with set(key, value)"))
}

/// One step from a value to a part of it.
enum Step<'e> {
    Field(&'e str),
    Method(&'e str),
    Index,
}

/// The steps of a chain such as `a.b[c].d()`, from its variable on.
fn steps(chain: &Expr) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = match chain {
        Expr::Dot(pair, ..) => &pair.rhs,
        Expr::Index(pair, ..) => {
            steps.push(Step::Index);
            &pair.rhs
        }
        _ => return steps,
    };
    loop {
        let (step, next) = match rest {
            Expr::Dot(pair, ..) => (&pair.lhs, Some(&pair.rhs)),
            Expr::Index(pair, ..) => {
                steps.push(Step::Index);
                (&pair.lhs, Some(&pair.rhs))
            }
            last => (last, None),
        };
        match step {
            Expr::Property(field, ..) => steps.push(Step::Field(field.2.as_str())),
            Expr::MethodCall(call, ..) => steps.push(Step::Method(call.name.as_str())),
            // What is within brackets.
            _ => {}
        }
        match next {
            Some(next) => rest = next,
            None => return steps,
        }
    }
}

fn may_be_written(place: &Expr) -> bool {
    matches!(place, Expr::Variable(..))
        || matches!(steps(place)[..], [Step::Field(_)] | [Step::Field(URL), Step::Field(_)])
}

fn may_be_called(chain: &Expr) -> bool {
    let steps = steps(chain);
    let harmless = |step: &Step<'_>| match step {
        Step::Method(name) => READS.contains(name) || WORDS.contains(name),
        Step::Field(_) | Step::Index => true,
    };
    // The first step is one to the value itself, or to a part of what a variable holds.
    steps.iter().skip(1).all(harmless)
}
