/*
description: >-
  Annualised volatility of each series over the last calendar days (30 with the day itself), by four estimators. Close
  to close: sample standard deviation of daily log returns. Parkinson (1980), The Extreme Value Method for Estimating
  the Variance of the Rate of Return, Journal of Business 53: mean of ln(H/L)^2 / (4 ln 2). Garman and Klass (1980), On
  the Estimation of Security Price Volatilities from Historical Data, Journal of Business 53, their practical estimator
  5: mean of ln(H/L)^2 / 2 - (2 ln 2 - 1) ln(C/O)^2. Yang and Zhang (2000), Drift-Independent Volatility Estimation
  Based on High, Low, Open, and Close Prices, Journal of Business 73: V_o + k V_c + (1 - k) V_rs with the sample
  variances V_o of ln(O(t) / C(t-1)) and V_c of ln(C/O), the mean V_rs of ln(H/C) ln(H/O) + ln(L/C) ln(L/O), and k =
  0.34 / (1.34 + (n + 1) / (n - 1)). Parkinson and Garman-Klass see the open hours alone: on a venue that closes they
  are lower than the others. Returns over gaps are left out; the overnight return allows for splits and dividends as the
  daily return does.
owner: team:quant
materialized: incremental
unique_key: [venue, symbol, date]
partitioned_by: year
time_column: date
automation: follows
tags: [market, risk, daily]
settings:
  window_days: 30
  # Of about 21 trading days, or 30 days of a venue that never closes.
  least_observations: 15
  # Days per year: on US venues, and on all others, which never close.
  days_per_year_us: 252
  days_per_year_continuous: 365
columns:
  venue: {description: Market of the series, tests: [not_null]}
  symbol: {description: Canonical symbol, tests: [not_null, relationships: {to: marts.daily_ohlcv, field: symbol}]}
  date: {description: Last day of the window, tests: [not_null]}
  returns: {description: Daily returns within the window, tests: [not_null, range: {min: 0}]}
  bars: {description: "Days with open, high, low and close within the window", tests: [not_null, range: {min: 0}]}
  days_per_year: {description: Trading days per year that the figures are scaled by, tests: [not_null]}
  close_to_close:
    description: Standard deviation of daily log returns; null with fewer than 15 returns
    unit: fraction per root of a year
    tests: [range: {min: 0}]
  parkinson:
    description: From highs and lows; null with fewer than 15 bars
    unit: fraction per root of a year
    tests: [range: {min: 0}]
  garman_klass:
    description: From open, high, low and close; null with fewer than 15 bars
    unit: fraction per root of a year
    tests: [range: {min: 0}]
  yang_zhang:
    description: From overnight returns and bars; null with fewer than 15 bars that follow another day
    unit: fraction per root of a year
    tests: [range: {min: 0}]
tests:
  - expression: isfinite(coalesce(close_to_close, 0)) AND isfinite(coalesce(yang_zhang, 0))
*/
WITH days AS (
    SELECT
        venue,
        symbol,
        date,
        CASE WHEN is_daily THEN log_return END AS r,
        ln(high / low) AS high_low,
        ln(close / open) AS close_open,
        ln(high / close) * ln(high / open) + ln(low / close) * ln(low / open) AS rogers_satchell,
        -- From the return, not from the prices: it allows for splits and dividends.
        CASE WHEN is_daily THEN log_return - ln(close / open) END AS overnight
    FROM marts.daily_ohlcv
    WHERE date > $partition_start - $window_days AND date < $partition_end
),
windows AS (
    -- Lists are summed in the order of days, so a day's figures do not depend, bit by bit, on where the run begins.
    SELECT
        venue,
        symbol,
        date,
        count(r) OVER recent AS returns,
        count(high_low) OVER recent AS bars,
        count(overnight) OVER recent AS followed,
        list(r) OVER recent AS r,
        list(high_low * high_low / (4 * ln(2))) OVER recent AS parkinson,
        list(high_low * high_low / 2 - (2 * ln(2) - 1) * close_open * close_open) OVER recent AS garman_klass,
        list(overnight) OVER recent AS overnight,
        list(CASE WHEN overnight IS NOT NULL THEN close_open END) OVER recent AS close_open,
        list(CASE WHEN overnight IS NOT NULL THEN rogers_satchell END) OVER recent AS rogers_satchell
    FROM days
    WINDOW recent AS (
        PARTITION BY venue, symbol
        ORDER BY date
        RANGE BETWEEN to_days($window_days - 1) PRECEDING AND CURRENT ROW
    )
),
scaled AS (
    SELECT
        venue,
        symbol,
        date,
        returns,
        bars,
        CASE WHEN starts_with(venue, 'us_') THEN $days_per_year_us ELSE $days_per_year_continuous END AS days_per_year,
        CASE WHEN returns >= $least_observations THEN list_var_samp(r) END AS close_to_close,
        CASE WHEN bars >= $least_observations THEN list_avg(parkinson) END AS parkinson,
        CASE WHEN bars >= $least_observations THEN list_avg(garman_klass) END AS garman_klass,
        0.34 / (1.34 + (followed + 1) / nullif(followed - 1, 0)) AS k,
        CASE
            WHEN followed >= $least_observations
                THEN list_var_samp(overnight) + k * list_var_samp(close_open) + (1 - k) * list_avg(rogers_satchell)
        END AS yang_zhang
    FROM windows
    WHERE date >= $partition_start
)
SELECT
    venue,
    symbol,
    date,
    returns,
    bars,
    days_per_year,
    sqrt(days_per_year * close_to_close) AS close_to_close,
    sqrt(days_per_year * parkinson) AS parkinson,
    -- Not sums of squares, and still never negative, as low <= open, close <= high: but for rounding.
    sqrt(days_per_year * CASE WHEN garman_klass < 0 THEN 0 ELSE garman_klass END) AS garman_klass,
    sqrt(days_per_year * CASE WHEN yang_zhang < 0 THEN 0 ELSE yang_zhang END) AS yang_zhang
FROM scaled
