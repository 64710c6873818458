"""Mean field game of trade crowding: how a crowd of optimal traders moves the price.

Model (Cardaliaguet and Lehalle, "Mean field game of controls and an application to trade crowding", 2018).  A
continuum of agents holds inventories q and trades at rates v over [0, T]:

    dq = v dt + nu dB,      dS = alpha * mu(t) dt + sigma dW,      mu(t) = mean of v over the agents,

and each maximises  E[ -int v S + kappa |v|^b + phi |q|^c dt  +  q_T S_T  -  A |q_T|^c ],  that is cash plus the
marked inventory, less temporary impact, running risk and terminal penalty.  Writing the value as
x + q S + V(t, q), the equilibrium is the pair

    -dV/dt = alpha q mu - phi |q|^c + sup_v { v dV/dq - kappa |v|^b } + nu^2/2 d2V/dq2,   V(T, q) = -A |q|^c,
     dm/dt = -d(m v*)/dq + nu^2/2 d2m/dq2,                                                m(0, .) given,
     mu(t) = int v*(t, q) m(t, q) dq,         v* = sign(dV/dq) (|dV/dq| / (kappa b))^(1/(b-1)).

Agents are risk-neutral in S, so sigma widens the price band and changes nothing else.

Scheme.  Implicit Euler in time and upwind in inventory, after Achdou and Capuzzo-Dolcetta (2010), as dynamic
programming for a Markov chain on the grid.  Upwind jumps at rate |v|/h carry a numerical viscosity h |v|/2; it is
topped up to eps(t) = h vmax(t)/2 at all nodes (or to nu^2/2 where that is more), so that the chain jumps up and down
at rates eps/h^2 +- v/(2h) with |v| <= vmax.  That keeps it monotone without a step restriction, and because the
viscosity is the same everywhere, it shifts a quadratic value by a constant only: no error of first order is left in
the controls, where plain upwinding leaves a dead zone around the target inventory.  vmax(t) is what agents use, from
a rough pilot solution.  Each implicit step is solved by Howard's policy iteration; the density then moves by the
transpose of the very same matrix, through the same LU factors, whose signs allow no cancellation.  Hence mass is
conserved and the density stays non-negative by construction; nothing is renormalised or clipped.

The only coupling is the path mu, so the equilibrium is a fixed point mu = F(mu) in as many unknowns as there are
time steps.  It is found by Newton's method, the linear system solved by GMRES with exact tangents of the scheme,
with step halving; fictitious play is available as an independent check.

The scheme is first order.  By default the aggregates (mean inventory, rate, price) are Richardson-extrapolated with
a solution on every second node, which makes them second order for linear-quadratic games; density and value are
those of the fine grid, the density widened by the numerical viscosity.  The times are graded: strong crowding is
traded out within a small part of the horizon at its start, and a stiff terminal penalty acts at its end.  They are a
smooth function of the node's number, which keeps the extrapolation valid.  A third grid says how good it is.
"""

from hfthot_platform.domain.models.mean_field_game.trade_crowding import (
    ClosedForm,
    CrowdingCalibration,
    InventoryDensity,
    MeanFieldSolution,
    PriceForecast,
    TradeCrowding,
    calibrate_crowding,
    closed_form,
    predict_price,
    solve,
)

__all__ = [
    "ClosedForm",
    "CrowdingCalibration",
    "InventoryDensity",
    "MeanFieldSolution",
    "PriceForecast",
    "TradeCrowding",
    "calibrate_crowding",
    "closed_form",
    "predict_price",
    "solve",
]
