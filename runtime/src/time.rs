//! Points in time as text.

use std::time::SystemTime;

/// Now, in UTC, as RFC 3339 with nanoseconds: `2026-01-31T08:00:00.123456789Z`.
#[must_use]
pub fn now_rfc3339() -> String {
    // A clock before 1970 is as wrong as one that shows 1970.
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    rfc3339(
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        now.subsec_nanos().into(),
    )
}

/// Now, in UTC, as RFC 3339 in whole seconds, as log lines have it: `2026-01-31T08:00:00Z`.
#[must_use]
pub fn now_rfc3339_seconds() -> String {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    format!("{}Z", civil_time(now.tv_sec))
}

fn rfc3339(secs: i64, nanos: i64) -> String {
    format!("{}.{nanos:09}Z", civil_time(secs))
}

/// Date and time of day.
fn civil_time(secs: i64) -> String {
    let (days, rest) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Counted in years that start in March, so that the leap day is the last of its
/// year, and in eras of 400 years, which all have 146 097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_calendar() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(
            rfc3339(1_709_251_199, 999_999_999),
            "2024-02-29T23:59:59.999999999Z"
        );
        assert_eq!(rfc3339(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
    }
}
