//! sprig's dates. Zones other than UTC are not known; where one is named, UTC is used, as sprig does with unknown ones.

use super::*;
use crate::template::time::Moment;
use base_model::GoDuration;
use base_text::quoted;

pub(super) const TABLE: &[Function] = &[
    function("now", 0, 0, |_, _| Ok(Value::Time(Moment::now()))),
    function("date", 2, 2, |work, args| work.text(moment_of(&args[1]).format(&text_of(&args[0])?))),
    function("dateInZone", 3, 3, |work, args| work.text(moment_of(&args[1]).format(&text_of(&args[0])?))),
    function("date_in_zone", 3, 3, |work, args| work.text(moment_of(&args[1]).format(&text_of(&args[0])?))),
    function("htmlDate", 1, 1, |work, args| work.text(moment_of(&args[0]).format("2006-01-02"))),
    function("htmlDateInZone", 2, 2, |work, args| work.text(moment_of(&args[0]).format("2006-01-02"))),
    function("dateModify", 2, 2, |_, args| Ok(modified(args).unwrap_or_else(|_| args[1].clone()))),
    function("date_modify", 2, 2, |_, args| Ok(modified(args).unwrap_or_else(|_| args[1].clone()))),
    function("mustDateModify", 2, 2, |_, args| modified(args)),
    function("must_date_modify", 2, 2, |_, args| modified(args)),
    function("toDate", 2, 2, |_, args| {
        let zero = Moment::new(i64::MIN, 0);
        Ok(Value::Time(Moment::parse(&text_of(&args[0])?, &text_of(&args[1])?).unwrap_or(zero)))
    }),
    function("mustToDate", 2, 2, |_, args| {
        let (layout, text) = (text_of(&args[0])?, text_of(&args[1])?);
        let moment = Moment::parse(&layout, &text);
        moment
            .map(Value::Time)
            .ok_or_else(|| format!("{text} does not read as {layout}", text = quoted(&text), layout = quoted(&layout)))
    }),
    function("unixEpoch", 1, 1, |work, args| work.text(moment_of(&args[0]).secs.to_string())),
    function("ago", 1, 1, |work, args| {
        let nanos = Moment::now().nanos_since(moment_of(&args[0]));
        work.text(GoDuration::from_nanos(nanos / SECOND * SECOND).to_string())
    }),
    function("duration", 1, 1, |work, args| {
        let seconds = match &args[0] {
            Value::Text(text) => text.parse().unwrap_or(0),
            other => int_of(other).unwrap_or(0),
        };
        work.text(GoDuration::from_nanos(seconds.saturating_mul(SECOND)).to_string())
    }),
    function("durationRound", 1, 1, |work, args| {
        let nanos = match &args[0] {
            Value::Text(text) => text.parse::<GoDuration>().map_or(0, GoDuration::nanos),
            Value::Int(n) => *n,
            Value::Time(moment) => Moment::now().nanos_since(*moment),
            _ => 0,
        };
        let magnitude = nanos.unsigned_abs() / SECOND as u64;
        let units = [("y", 31_536_000), ("mo", 2_592_000), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
        let unit = units.iter().find(|(_, seconds)| magnitude >= *seconds);
        work.text(unit.map_or_else(|| "0s".to_owned(), |(name, seconds)| format!("{}{name}", magnitude / seconds)))
    }),
];

/// A moment, seconds since 1970, or now.
fn moment_of(value: &Value<'_>) -> Moment {
    match value {
        Value::Time(moment) => *moment,
        Value::Int(secs) => Moment::new(*secs, 0),
        Value::Float(secs) => Moment::new(*secs as i64, 0),
        _ => Moment::now(),
    }
}

fn modified<'x>(args: &[Value<'x>]) -> Answer<'x> {
    let text = text_of(&args[0])?;
    let by: GoDuration = text.parse().map_err(|why| format!("{text}: {why}", text = quoted(&text)))?;
    Ok(Value::Time(moment_of(&args[1]).plus_nanos(by.nanos())))
}

const SECOND: i64 = 1_000_000_000;
