//! Which jobs a list shows: read from the address, shown in the form, carried on by links.

use form_urlencoded::Serializer;
use jiff::{civil::Date, tz::TimeZone};
use serde::Deserialize;

use super::trouble::Trouble;
use crate::store::{api_keys::ApiKey, history::HistoryFilter, jobs::JobState, overview::ToldLogin};

/// What stands in the address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FilterQuery {
    q: String,
    state: String,
    key: String,
    login: String,
    from: String,
    to: String,
    /// The browser's time zone, where a script told it; days are else those of UTC.
    tz: String,
    /// The cursor.
    before: String,
    /// Of an export.
    pub(super) format: String,
    pub(super) done: String,
}

/// An option of a select.
pub(super) struct Choice {
    pub(super) value: String,
    pub(super) text: String,
    pub(super) chosen: bool,
}

/// The form as it is shown.
pub(super) struct FilterForm {
    pub(super) q: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) states: Vec<Choice>,
    pub(super) keys: Vec<Choice>,
    pub(super) logins: Vec<Choice>,
    /// Something is looked for.
    pub(super) is_set: bool,
    /// The filter as a query, without a cursor; empty or beginning with `&`.
    pub(super) query: String,
}

impl FilterQuery {
    /// For the store, and where the page begins.
    pub(super) fn read(&self) -> Result<(HistoryFilter, Option<i64>), Trouble> {
        let state = match self.state.as_str() {
            "" => None,
            word => Some(
                JobState::ALL
                    .into_iter()
                    .find(|state| state.as_str() == word)
                    .ok_or_else(|| bad("state", word, "a job's state"))?,
            ),
        };
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let zone = TimeZone::get(&self.tz).unwrap_or(TimeZone::UTC);
        let before = match self.before.as_str() {
            "" => None,
            word => Some(word.parse().map_err(|_| bad("before", word, "a number"))?),
        };
        let filter = HistoryFilter {
            text: text(&self.q),
            state,
            key: text(&self.key),
            login: text(&self.login),
            from: day("from", &self.from, &zone, 0)?,
            until: day("to", &self.to, &zone, 1)?,
        };
        Ok((filter, before))
    }

    /// For the form, with what can be chosen.
    pub(super) fn form(&self, keys: Vec<ApiKey>, logins: Vec<ToldLogin>) -> FilterForm {
        let choice = |value: String, text: String, chosen: &str| Choice {
            chosen: value == chosen,
            value,
            text,
        };
        let word =
            |state: JobState| choice(state.as_str().into(), state.as_str().into(), &self.state);
        let mut keys: Vec<_> =
            keys.into_iter().map(|key| choice(key.id, key.name, &self.key)).collect();
        keep_chosen(&mut keys, &self.key);
        let mut logins: Vec<_> = logins
            .into_iter()
            .map(|login| choice(login.login.clone(), login.login, &self.login))
            .collect();
        keep_chosen(&mut logins, &self.login);
        let query = self.query();
        FilterForm {
            q: self.q.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            states: JobState::ALL.into_iter().map(word).collect(),
            keys,
            logins,
            is_set: !query.is_empty(),
            query,
        }
    }

    /// What is set, for a link; without the cursor.
    fn query(&self) -> String {
        let mut query = Serializer::new(String::new());
        for (name, value) in [
            ("q", &self.q),
            ("state", &self.state),
            ("key", &self.key),
            ("login", &self.login),
            ("from", &self.from),
            ("to", &self.to),
        ] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        if !self.tz.is_empty() && (!self.from.is_empty() || !self.to.is_empty()) {
            query.append_pair("tz", &self.tz);
        }
        let query = query.finish();
        if query.is_empty() { query } else { format!("&{query}") }
    }
}

/// What the address names and the list lacks (a deleted key, a login of former settings) can still
/// be looked for.
fn keep_chosen(choices: &mut Vec<Choice>, chosen: &str) {
    if !chosen.is_empty() && !choices.iter().any(|choice| choice.chosen) {
        choices.push(Choice { value: chosen.into(), text: chosen.into(), chosen: true });
    }
}

/// The beginning of a day, so many days later, in milliseconds.
fn day(name: &str, text: &str, zone: &TimeZone, later: i64) -> Result<Option<i64>, Trouble> {
    if text.is_empty() {
        return Ok(None);
    }
    let refused = || bad(name, text, "a day such as 2026-11-26");
    let date: Date = text.parse().map_err(|_| refused())?;
    let date = date.checked_add(jiff::Span::new().days(later)).map_err(|_| refused())?;
    let start = date.to_zoned(zone.clone()).map_err(|_| refused())?;
    Ok(Some(start.timestamp().as_millisecond()))
}

fn bad(name: &str, value: &str, expected: &str) -> Trouble {
    let value: String = value.chars().take(60).collect();
    Trouble::Bad(format!("'{name}' is {value:?}; it must be {expected}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(from: &str, to: &str, tz: &str) -> FilterQuery {
        FilterQuery { from: from.into(), to: to.into(), tz: tz.into(), ..FilterQuery::default() }
    }

    #[test]
    fn days_are_whole_and_of_the_browsers_zone() {
        let (filter, _) = query("2026-03-29", "2026-03-29", "Europe/Berlin").read().unwrap();
        // The day of 23 hours.
        assert_eq!(filter.until.unwrap() - filter.from.unwrap(), 23 * 3_600_000);
        let (filter, _) = query("1970-01-01", "", "").read().unwrap();
        assert_eq!((filter.from, filter.until), (Some(0), None));
        assert!(query("yesterday", "", "").read().is_err());
        assert!(query("9999-12-31", "9999-12-31", "").read().is_err());
    }

    #[test]
    fn links_carry_what_is_looked_for() {
        let query = FilterQuery { q: "a&b=<c>".into(), before: "7".into(), ..query("", "", "UTC") };
        assert_eq!(query.query(), "&q=a%26b%3D%3Cc%3E");
    }
}
