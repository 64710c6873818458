/*
description: >-
  One row per venue, symbol and day: open, high, low, close and volume, the close adjusted for splits and dividends
  where a source adjusts it, and the returns since the row before. Bars are the final daily ones of `market.bars`; a day
  that has none is put together from its final one-minute bars. A symbol of which only closes are known has no open,
  high, low and volume. Simple return P(t) / P(t-1) - 1 and log return ln P(t) - ln P(t-1) as in Campbell, Lo and
  MacKinlay (1997), The Econometrics of Financial Markets, section 1.4; P is the adjusted close where both days have
  one. A return over a gap is no daily return: `is_daily` says so, and statistics of daily returns take those alone. A
  run over a day that is not over gives what there is so far.
owner: team:quant
materialized: incremental
unique_key: [venue, symbol, date]
partitioned_by: year
time_column: date
automation: follows
tags: [market, daily]
settings:
  # A row further back than this is another series: no return.
  longest_gap_days: 10
  # No US exchange stayed shut longer since 1972 (10 to 17 September 2001).
  longest_closure_days: 7
columns:
  venue: {description: Market the row is from, tests: [not_null]}
  symbol: {description: Canonical symbol, tests: [not_null]}
  date: {description: Trading day (UTC day for venues that never close), tests: [not_null]}
  open: {description: First price, unit: quote per base, tests: [expression: "open > 0"]}
  high: {description: Highest price, unit: quote per base, tests: [expression: "high >= greatest(open, low, close)"]}
  low: {description: Lowest price, unit: quote per base, tests: [expression: "low <= least(open, close)"]}
  close:
    description: Last price, as traded; null where only an adjusted close is known
    unit: quote per base
    tests: [expression: "close > 0"]
  adjusted_close:
    description: Close adjusted for splits and dividends, where a source adjusts it
    unit: quote per base
    tests: [expression: "adjusted_close > 0"]
  volume: {description: Traded quantity, unit: base, tests: [range: {min: 0}]}
  quote_volume: {description: Traded value; null where it is not known, unit: quote, tests: [range: {min: 0}]}
  trades: {description: Number of trades; null where it is not known, tests: [range: {min: 0}]}
  buy_volume: {description: Quantity bought by takers; null where it is not known, unit: base, tests: [range: {min: 0}]}
  vwap:
    description: Volume-weighted average price; null without volume or where the traded value is not known
    unit: quote per base
  origin:
    description: "What the prices are from: vendor, bars_1m (also those computed from trades) or closes"
    tests: [not_null, accepted_values: [vendor, trades, bars_1m, closes]]
  previous_date: {description: Day of the row before; null if it is more than 10 days back}
  gap_days: {description: Calendar days since then, unit: d, tests: [range: {min: 1}]}
  missing_days:
    description: >-
      Trading days in between that are not there. US venues were open when any of them has a row, others are every day.
    unit: d
    tests: [range: {min: 0}]
  is_daily:
    description: "Whether the returns are those of one trading day: nothing is missing before"
    tests: [not_null]
  return_basis: {description: "What the returns are of: adjusted_close or close; null without a return"}
  simple_return: {description: P(t) / P(t-1) - 1, unit: fraction, tests: [expression: "simple_return > -1"]}
  log_return: {description: ln(P(t) / P(t-1)), unit: fraction}
tests:
  - expression: close IS NOT NULL OR adjusted_close IS NOT NULL
  - expression: isfinite(coalesce(simple_return, 0)) AND isfinite(coalesce(log_return, 0))
*/
WITH stated AS (
    SELECT
        venue, symbol, CAST(ts AS DATE) AS date, open, high, low, close, volume, quote_volume, trades, buy_volume,
        origin, final
    FROM market.bars
    WHERE interval = '1d' AND ts >= $partition_start - $longest_gap_days AND ts < $partition_end
    QUALIFY row_number() OVER (
        PARTITION BY venue, symbol, CAST(ts AS DATE) ORDER BY final DESC, origin = 'vendor' DESC, ts_close DESC, ts
    ) = 1
),
minutes AS (
    SELECT
        venue,
        symbol,
        date,
        arg_min(open, ts) AS open,
        max(high) AS high,
        min(low) AS low,
        arg_max(close, ts) AS close,
        sum(volume ORDER BY ts) AS volume,
        CASE WHEN count(quote_volume) = count(*) THEN sum(quote_volume ORDER BY ts) END AS quote_volume,
        CASE WHEN count(trades) = count(*) THEN CAST(sum(trades) AS BIGINT) END AS trades,
        CASE WHEN count(buy_volume) = count(*) THEN sum(buy_volume ORDER BY ts) END AS buy_volume
    FROM market.bars_1m
    WHERE date >= $partition_start - $longest_gap_days AND date < $partition_end
    GROUP BY venue, symbol, date
    HAVING bool_and(final)
),
bars AS (
    SELECT
        venue, symbol, date, open, high, low, close, volume, quote_volume, trades, buy_volume, origin
    FROM stated
    WHERE final
    UNION ALL
    SELECT
        minutes.venue, minutes.symbol, minutes.date, minutes.open, minutes.high, minutes.low, minutes.close,
        minutes.volume, minutes.quote_volume, minutes.trades, minutes.buy_volume, 'bars_1m'
    FROM minutes
    ANTI JOIN stated
        ON stated.venue = minutes.venue AND stated.symbol = minutes.symbol AND stated.date = minutes.date
),
closes AS (
    SELECT venue, symbol, date, close, adjusted
    FROM market.closes
    WHERE date >= $partition_start - $longest_gap_days AND date < $partition_end
),
days AS (
    SELECT
        coalesce(bars.venue, closes.venue) AS venue,
        coalesce(bars.symbol, closes.symbol) AS symbol,
        coalesce(bars.date, closes.date) AS date,
        bars.open,
        bars.high,
        bars.low,
        coalesce(bars.close, CASE WHEN NOT closes.adjusted THEN closes.close END) AS close,
        CASE WHEN closes.adjusted THEN closes.close END AS adjusted_close,
        bars.volume,
        bars.quote_volume,
        bars.trades,
        bars.buy_volume,
        coalesce(bars.origin, 'closes') AS origin
    FROM bars
    FULL JOIN closes ON closes.venue = bars.venue AND closes.symbol = bars.symbol AND closes.date = bars.date
),
us_sessions AS (
    SELECT date, row_number() OVER (ORDER BY date) AS number
    FROM days
    WHERE starts_with(venue, 'us_')
    GROUP BY date
),
numbered AS (
    SELECT
        days.venue, days.symbol, days.date, days.open, days.high, days.low, days.close, days.adjusted_close,
        days.volume, days.quote_volume, days.trades, days.buy_volume, days.origin,
        CASE WHEN starts_with(days.venue, 'us_') THEN us_sessions.number ELSE days.date - DATE '1970-01-01' END AS day
    FROM days
    LEFT JOIN us_sessions ON us_sessions.date = days.date
),
stepped AS (
    SELECT
        venue, symbol, date, open, high, low, close, adjusted_close, volume, quote_volume, trades, buy_volume, origin,
        lag(date) OVER before AS previous_date,
        day - lag(day) OVER before - 1 AS missing_days,
        lag(close) OVER before AS previous_close,
        lag(adjusted_close) OVER before AS previous_adjusted_close
    FROM numbered
    WINDOW before AS (PARTITION BY venue, symbol ORDER BY date)
),
linked AS (
    SELECT
        venue, symbol, date, open, high, low, close, adjusted_close, volume, quote_volume, trades, buy_volume, origin,
        previous_date, missing_days, previous_close, previous_adjusted_close,
        coalesce(date - previous_date <= $longest_gap_days, false) AS follows
    FROM stepped
    WHERE date >= $partition_start AND date < $partition_end
),
returned AS (
    SELECT
        venue, symbol, date, open, high, low, close, adjusted_close, volume, quote_volume, trades, buy_volume, origin,
        CASE WHEN follows THEN previous_date END AS previous_date,
        CASE WHEN follows THEN missing_days END AS missing_days,
        CASE
            WHEN follows AND adjusted_close / previous_adjusted_close > 0 THEN 'adjusted_close'
            WHEN follows AND close / previous_close > 0 THEN 'close'
        END AS return_basis,
        CASE
            WHEN return_basis = 'adjusted_close' THEN adjusted_close / previous_adjusted_close
            WHEN return_basis = 'close' THEN close / previous_close
        END AS growth
    FROM linked
)
SELECT
    venue,
    symbol,
    date,
    open,
    high,
    low,
    close,
    adjusted_close,
    volume,
    quote_volume,
    trades,
    buy_volume,
    quote_volume / nullif(volume, 0) AS vwap,
    origin,
    previous_date,
    date - previous_date AS gap_days,
    missing_days,
    coalesce(growth IS NOT NULL AND missing_days = 0 AND date - previous_date <= $longest_closure_days, false)
        AS is_daily,
    return_basis,
    growth - 1 AS simple_return,
    ln(growth) AS log_return
FROM returned
