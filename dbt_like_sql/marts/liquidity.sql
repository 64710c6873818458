/*
description: >-
  How much it costs to trade each series: from daily bars over the last calendar days (30 with the day itself), and from
  the day's trades. Amihud (2002), Illiquidity and Stock Returns, Journal of Financial Markets 5: mean of |return| /
  traded value over days with trading, times a million; the traded value is volume times close where the source does not
  state it, and unknown for an index. Roll (1984), A Simple Implicit Measure of the Effective Bid-Ask Spread in an
  Efficient Market, Journal of Finance 39: 2 sqrt(-c), c being the sample covariance of successive returns; where c is
  positive the measure does not exist. Huang and Stoll (1997), The Components of the Bid-Ask Spread, Review of Financial
  Studies 10, equation 5: the traded spread S of the regression of price changes on the change of the trade's sign Q and
  on the sign before, dP(t) = S/2 (Q(t) - Q(t-1)) + l S/2 Q(t-1) + e(t), here with an intercept, in logs, and with the
  taker's side as the sign. An effective spread needs the quote at the time of the trade; the lake has no table of
  quotes, so `effective_spread` is empty until it has.
owner: team:quant
materialized: incremental
unique_key: [venue, symbol, date]
partitioned_by: year
time_column: date
automation: follows
tags: [market, liquidity, daily]
settings:
  window_days: 30
  least_observations: 15
  # Price changes without which a day's trades give no spread.
  least_trades: 100
columns:
  venue: {description: Market of the series, tests: [not_null]}
  symbol: {description: Canonical symbol, tests: [not_null, relationships: {to: marts.daily_ohlcv, field: symbol}]}
  date: {description: The day; last one of the window, tests: [not_null]}
  traded_days: {description: Daily returns with a known traded value above zero within the window, tests: [not_null]}
  amihud:
    description: Amihud's illiquidity; null with fewer than 15 such days
    unit: fraction per million of quote
    tests: [range: {min: 0}]
  return_pairs: {description: Pairs of successive daily returns within the window, tests: [not_null]}
  roll_spread:
    description: >-
      Roll's spread from daily returns; null with fewer than 15 pairs or where they are positively correlated
    unit: fraction of the price
    tests: [range: {min: 0}]
  price_changes: {description: Price changes from trade to trade within the day, tests: [not_null, range: {min: 0}]}
  roll_spread_trades:
    description: "Roll's spread from the day's trades; null with fewer than 100 price changes or a positive correlation"
    unit: fraction of the price
    tests: [range: {min: 0}]
  traded_spread:
    description: >-
      Huang and Stoll's traded spread from the day's trades; null with fewer than 100 price changes of which both
      takers' sides are known, where all are on one side, or where the estimate is not positive
    unit: fraction of the price
    tests: [range: {min: 0}]
  effective_spread:
    description: Twice the distance of the trade from the mid quote; always null, as no quotes are stored
    unit: fraction of the price
    tests: [range: {min: 0}]
tests:
  - expression: isfinite(coalesce(amihud, 0)) AND isfinite(coalesce(traded_spread, 0))
*/
WITH days AS (
    SELECT
        venue,
        symbol,
        date,
        CASE WHEN is_daily THEN log_return END AS r,
        CASE WHEN is_daily THEN lag(CASE WHEN is_daily THEN log_return END) OVER before END AS r_before,
        -- An index is not traded itself: its volume is that of its members.
        CASE WHEN venue <> 'us_index' THEN nullif(coalesce(quote_volume, volume * close), 0) END AS traded_value,
        CASE WHEN is_daily THEN 1e6 * abs(simple_return) / traded_value END AS illiquidity
    FROM marts.daily_ohlcv
    -- The day before the window's first one is needed too; it is at most 7 days earlier, or there is no daily return.
    WHERE date > $partition_start - $window_days - 7 AND date < $partition_end
    WINDOW before AS (PARTITION BY venue, symbol ORDER BY date)
),
windows AS (
    -- Lists are summed in the order of days, so a day's figures do not depend, bit by bit, on where the run begins.
    SELECT
        venue,
        symbol,
        date,
        count(illiquidity) OVER recent AS traded_days,
        list(illiquidity) OVER recent AS illiquidity,
        count(r + r_before) OVER recent AS return_pairs,
        list(r + r_before) OVER recent AS sums,
        list(r - r_before) OVER recent AS differences
    FROM days
    WINDOW recent AS (
        PARTITION BY venue, symbol
        ORDER BY date
        RANGE BETWEEN to_days($window_days - 1) PRECEDING AND CURRENT ROW
    )
),
daily AS (
    SELECT
        venue,
        symbol,
        date,
        traded_days,
        CASE WHEN traded_days >= $least_observations THEN list_avg(illiquidity) END AS amihud,
        return_pairs,
        -- cov(x, y) = (var(x + y) - var(x - y)) / 4
        CASE
            WHEN return_pairs >= $least_observations THEN (list_var_samp(sums) - list_var_samp(differences)) / 4
        END AS covariance
    FROM windows
    WHERE date >= $partition_start
),
signed AS (
    SELECT
        venue,
        symbol,
        date,
        ts,
        trade_id,
        price,
        CASE side WHEN 'buy' THEN 1 WHEN 'sell' THEN -1 END AS sign
    FROM market.trades
    WHERE date >= $partition_start AND date < $partition_end
),
pairs AS (
    SELECT
        venue,
        symbol,
        date,
        ts,
        trade_id,
        ln(price / lag(price) OVER trade) AS change,
        ln(lag(price) OVER trade / lag(price, 2) OVER trade) AS change_before,
        sign - lag(sign) OVER trade AS turn,
        CASE WHEN sign IS NOT NULL THEN lag(sign) OVER trade END AS sign_before
    FROM signed
    WINDOW trade AS (PARTITION BY venue, symbol, date ORDER BY ts, trade_id)
),
moments AS (
    -- Sums of whole numbers are exact in any order; the others are taken in the order of trades, so that a day computed
    -- again gives the same bits.
    SELECT
        venue,
        symbol,
        date,
        count(change) AS price_changes,
        covar_samp(change, change_before ORDER BY ts, trade_id) AS covariance,
        count(turn) AS n,
        sum(turn * turn) - sum(turn) * sum(turn) / count(turn) AS turn_turn,
        sum(sign_before * sign_before) - sum(sign_before) * sum(sign_before) / count(turn) AS before_before,
        sum(turn * sign_before) - sum(turn) * sum(sign_before) / count(turn) AS turn_before,
        (count(turn) - 1) * covar_samp(change, turn ORDER BY ts, trade_id) AS change_turn,
        (count(turn) - 1) * covar_samp(change, sign_before ORDER BY ts, trade_id) AS change_before
    FROM pairs
    GROUP BY venue, symbol, date
),
intraday AS (
    SELECT
        venue,
        symbol,
        date,
        price_changes,
        CASE WHEN price_changes >= $least_trades AND covariance < 0 THEN 2 * sqrt(-covariance) END AS roll_spread,
        -- The slope on the turn, by the normal equations; where all trades are on one side nothing turns.
        CASE
            WHEN n >= $least_trades AND turn_turn * before_before - turn_before * turn_before > 1e-9
                THEN 2 * (change_turn * before_before - change_before * turn_before)
                    / (turn_turn * before_before - turn_before * turn_before)
        END AS traded_spread
    FROM moments
)
SELECT
    daily.venue,
    daily.symbol,
    daily.date,
    daily.traded_days,
    daily.amihud,
    daily.return_pairs,
    CASE WHEN daily.covariance < 0 THEN 2 * sqrt(-daily.covariance) END AS roll_spread,
    coalesce(intraday.price_changes, 0) AS price_changes,
    intraday.roll_spread AS roll_spread_trades,
    CASE WHEN intraday.traded_spread > 0 THEN intraday.traded_spread END AS traded_spread,
    CAST(NULL AS DOUBLE) AS effective_spread
FROM daily
LEFT JOIN intraday
    ON intraday.venue = daily.venue AND intraday.symbol = daily.symbol AND intraday.date = daily.date
